"""The bench's own processes: contestants and model servers."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any, Final

from bench_adapter import Spec
from bench_contexts import BANK, LONGEST
from bench_process import ROOT, Process, Server, free_port

HERE: Final = Path(__file__).parent
RIVAL_BATCH: Final = {"max_batch_size": 16, "max_batch_time": 0.005}


class Contestant(Process):
    """An engine, or the eager baseline, that times what it is told to."""

    def __init__(self, spec: Spec, logs: Path) -> None:
        script = str(HERE / "bench_contestant.py")
        super().__init__(
            (sys.executable, "-P", script, json.dumps(spec.as_json())),
            {"PYTHONPATH": f"{HERE}:{HERE.with_name('common')}:{ROOT}"},
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
