"""The bench's processes: contestants and model servers, none of which outlives it.

Each is started in a session of its own, so that Ctrl-C reaches the bench alone, which then ends
them; a bench that is killed takes them along, because each hangs on a leash (`deploy.children`).
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psutil
from bench_adapter import Spec
from bench_contexts import BANK, LONGEST
from bench_wire import Connection, WireError

from deploy.children import leashed, tail

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[2]
READY_WITHIN_S: Final = 120.0
POLL_S: Final = 0.1
STOP_WITHIN_S: Final = 10.0
RIVAL_BATCH: Final = {"max_batch_size": 16, "max_batch_time": 0.005}


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


class Contestant(Process):
    """An engine, or the eager baseline, that times what it is told to."""

    def __init__(self, spec: Spec, logs: Path) -> None:
        script = str(HERE / "bench_contestant.py")
        super().__init__(
            (sys.executable, "-P", script, json.dumps(spec.as_json())),
            {"PYTHONPATH": f"{HERE}:{ROOT}"},
            logs / f"{spec.label.replace(' ', '-')}.log",
            talks=True,
        )
        self.spec = spec
        self.continues = bool(self._hear()["continues"])

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have a command done. Raises BenchError when the process dies of it."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.popen.stdin.flush()
        return self._hear()

    def seconds(self, do: str, **arguments: Any) -> float:
        """Have a command timed."""
        return float(self.ask(do, **arguments)["seconds"])

    def _hear(self) -> dict[str, Any]:
        assert self.popen.stdout is not None
        text = self.popen.stdout.readline()
        if not text:
            self.popen.wait()
            raise self.died()
        answer: dict[str, Any] = json.loads(text)
        return answer


class Server(Process):
    """A model server on a free port; entering its `with` block waits until it is ready."""

    def __init__(
        self,
        name: str,
        command: tuple[str, ...],
        environment: Mapping[str, str],
        logs: Path,
        port: int,
    ) -> None:
        self.name = name
        self.port = port
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

    def _ready(self) -> bool:
        try:
            with self.connect() as connection:
                return connection.get("/v2/health/ready").status == 200
        except (OSError, WireError):
            return False


def our_server(spec: Spec, logs: Path, *, prefix_mb: int) -> Server:
    """Start `python -m backends` with an engine of ours; `prefix_mb` 0 means no prefix states."""
    port = free_port()
    environment = spec.environment(PORT=str(port), BANK=str(BANK), PREFIX_MB=str(prefix_mb))
    name = f"turnout-{spec.label.replace(' ', '-')}-prefix-{prefix_mb}"
    command = (sys.executable, "-P", "-m", "backends")
    return Server(name, command, {**environment, "PYTHONPATH": str(ROOT)}, logs, port)


def rival_server(home: Path, spec: Spec, logs: Path, *, runs_in: str) -> Server:
    """Start MLServer from the environment at `home`, with the weights and threads of `spec`."""
    folder = logs / "rival"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    port = free_port()
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_endpoint": None,
        "parallel_workers": 0,
        "gzip_enabled": False,
    }
    model = {"name": "lvm", "implementation": "rival_runtime.LvmRuntime", **RIVAL_BATCH}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    environment = {
        "PYTHONPATH": f"{ROOT}:{HERE / 'rival'}",
        "RIVAL_BANK": str(BANK),
        "RIVAL_WINDOW": str(LONGEST),
        "RIVAL_THREADS": str(spec.threads),
        "RIVAL_SEED": str(spec.seed),
        "RIVAL_RUNS_IN": runs_in,
        **({"RIVAL_CHECKPOINT": spec.checkpoint} if spec.checkpoint else {}),
    }
    command = (str(home / "bin" / "python"), str(home / "bin" / "mlserver"), "start", str(folder))
    return Server("rival", command, environment, logs, port)


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
