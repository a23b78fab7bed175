"""The processes of a bench, none of which outlives it.

Each is started in a session of its own, so that Ctrl-C reaches the bench alone, which then ends
them; a bench that is killed takes them along, because each hangs on a leash (`deploy.children`).
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil
from bench_wire import Connection, WireError

from deploy.children import leashed, tail

ROOT: Final = Path(__file__).parents[3]
READY_WITHIN_S: Final = 120.0
POLL_S: Final = 0.1
STOP_WITHIN_S: Final = 10.0


class BenchError(Exception):
    """Why the bench cannot go on; the message says which process, and where its log is."""


class Process:
    """A leashed child. Leaving its `with` block ends it and all that it started."""

    def __init__(
        self, command: tuple[str, ...], environment: Mapping[str, str], log: Path, *, talks: bool
    ) -> None:
        self.log = log
        with log.open("wb") as errors:
            self.popen = subprocess.Popen(
                leashed(command, signal.SIGKILL),
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else errors,
                stderr=errors,
                start_new_session=True,
                env={**os.environ, **environment},
                text=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.popen.terminate()
        try:
            self.popen.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait()

    def died(self) -> BenchError:
        """Describe its death with the last words of its log."""
        return BenchError(f"{self.log.stem} died: {tail(self.log, 600).strip()} ({self.log})")


class Server(Process):
    """A server on a free port; entering its `with` block waits until it is ready."""

    def __init__(
        self,
        name: str,
        command: tuple[str, ...],
        environment: Mapping[str, str],
        logs: Path,
        port: int,
        ready: str = "/v2/health/ready",
    ) -> None:
        self.name = name
        self.port = port
        self._ready_path = ready
        super().__init__(command, environment, logs / f"{name}.log", talks=False)

    def __enter__(self) -> Self:
        limit = time.monotonic() + READY_WITHIN_S
        while not self._ready():
            if self.popen.poll() is not None:
                raise self.died()
            if time.monotonic() > limit:
                self.__exit__(None, None, None)
                raise BenchError(f"{self.name} was not ready in {READY_WITHIN_S:g} s ({self.log})")
            time.sleep(POLL_S)
        return self

    def connect(self) -> Connection:
        """Open a connection to it."""
        return Connection(self.port)

    def metrics(self, connection: Connection) -> dict[str, float]:
        """Read its metrics: each series, labels and all, and its value."""
        lines = connection.get("/metrics").body.decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def resident_mb(self) -> float:
        """Its resident memory in MB (10^6 bytes), with that of the processes that it started."""
        whole = psutil.Process(self.popen.pid)
        each = [whole, *whole.children(recursive=True)]
        return sum(process.memory_info().rss for process in each) / 1e6

    def _accepts(self) -> bool:
        try:
            self.connect().close()
        except OSError:
            return False
        return True

    def _ready(self) -> bool:
        try:
            with self.connect() as connection:
                return connection.get(self._ready_path).status == 200
        except (OSError, WireError):
            return False


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
