"""How the processes of the gateway's bench are started: each on the core that it is given.

What is measured has one core for itself; backend, store and load share the other.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Final

from bench_process import ROOT, BenchError, Server, free_port

HERE: Final = Path(__file__).parent
OTHERS: Final = ROOT / ".venv-gateways"
_CORES: Final = sorted(os.sched_getaffinity(0))
GATEWAY_CORE: Final = _CORES[0]
OTHER_CORE: Final = _CORES[-1]
"""The same as the gateway's on a machine of one core, where no figure means much."""


def pinned(core: int, command: tuple[str, ...]) -> tuple[str, ...]:
    """Run a command on one core. Raises BenchError without util-linux's taskset."""
    taskset = shutil.which("taskset")
    if taskset is None:
        raise BenchError("the bench needs the command taskset: apt-get install util-linux")
    return (taskset, "--cpu-list", str(core), *command)


class Backend(Server):
    """The backend of `bench_backend.py`, on a free port and where else it is told to listen."""

    def __init__(
        self,
        name: str,
        logs: Path,
        *,
        arm: str = "phase1",
        unix: Path | None = None,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        port = free_port()
        self.unix = unix
        self._tls = tls is not None
        more = [
            *(("--unix", str(unix)) if unix else ()),
            *(("--certificate", str(tls[0]), "--key", str(tls[1])) if tls else ()),
        ]
        script = str(HERE / "bench_backend.py")
        command = (sys.executable, "-P", script, "--port", str(port), "--arm", arm, *more)
        environment = {"PYTHONPATH": str(ROOT)}
        super().__init__(name, pinned(OTHER_CORE, command), environment, logs, port)

    def _ready(self) -> bool:
        return self._accepts() if self._tls else super()._ready()
