"""A store's server as a child of the tests: it is there when it listens, and dies with them."""

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from deploy.children import leashed

LISTENS_S: Final = 10.0


@contextlib.contextmanager
def served(command: Sequence[str], at: Path | int, folder: Path) -> Iterator[None]:
    """Run a server in `folder`, which listens `at` a Unix socket or a port of 127.0.0.1."""
    process = subprocess.Popen(
        leashed(tuple(command), signal.SIGKILL), stdout=subprocess.DEVNULL, cwd=folder
    )
    try:
        _await(at, process)
        yield
    finally:
        process.terminate()
        process.wait(timeout=10)


def options(named: dict[str, str]) -> list[str]:
    """Write options as a server's command line has them."""
    return [word for name, value in named.items() for word in (f"--{name}", value)]


def _await(at: Path | int, process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + LISTENS_S
    while time.monotonic() < limit:
        assert process.poll() is None, f"the store exited with {process.returncode}"
        with contextlib.suppress(OSError), _connection(at):
            return
        time.sleep(0.01)
    raise AssertionError(f"the store did not listen within {LISTENS_S:g} s")


def _connection(at: Path | int) -> socket.socket:
    if isinstance(at, int):
        return socket.create_connection(("127.0.0.1", at))
    probe = socket.socket(socket.AF_UNIX)
    try:
        probe.connect(str(at))
    except OSError:
        probe.close()
        raise
    return probe
