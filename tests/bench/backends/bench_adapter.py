"""The one file that knows how our engines are made and asked.

The engine port, where it exists (`backends.engine.make`): `make_engine(name, checkpoint, seed,
threads, precision)`, and `run` of pieces, each a window and perhaps the state that it goes on from.
Before it, there is `TorchEngine`, one window at a time and no states.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

from numpy.typing import NDArray

from backends import checkpoint
from backends.checkpoint import Checkpoint
from backends.engine import port
from backends.protocol import Floats
from backends.settings import Settings

EAGER: Final = "eager"
State = NDArray[Any] | None
ENGINE_SECONDS: Final = "backend_engine_seconds_sum"
PADDED_STEPS: Final = "backend_padded_steps_total"
STEPS: Final = "backend_steps_total"
"""Metrics of a model server: seconds in the engine; steps computed for padding, and for vectors."""
HAS_PREFIX: Final = "prefix_mb" in Settings.model_fields
HAS_PORT: Final = importlib.util.find_spec("backends.engine.make") is not None


@dataclass(frozen=True, slots=True)
class Spec:
    """A contestant: `engine` is "eager" or one of ours; `checkpoint` a path or None."""

    engine: str
    precision: str
    threads: int
    seed: int
    checkpoint: str | None

    @property
    def label(self) -> str:
        """What the tables call it."""
        if self.engine == EAGER:
            return "eager nn.GRU"
        return f"{self.engine} {self.precision}"

    def as_json(self) -> dict[str, Any]:
        """Give the fields by name."""
        return asdict(self)

    def environment(self, **more: str) -> dict[str, str]:
        """Settings of a model server with this engine; those that it does not know are left out."""
        wanted = {
            "ARM": "phase2",
            "MAX_LENGTH": "500",
            "THREADS": str(self.threads),
            "SEED": str(self.seed),
            "LOG_LEVEL": "INFO",
            "ENGINE": self.engine,
            "PRECISION": self.precision,
            **({"CHECKPOINT": self.checkpoint} if self.checkpoint else {}),
            **more,
        }
        return {
            f"BACKEND_{name}": value
            for name, value in wanted.items()
            if name.lower() in Settings.model_fields
        }


def known_engines() -> tuple[tuple[str, str], ...]:
    """List our engines and the precisions that each can be told, the reference first."""
    fields = Settings.model_fields
    if "engine" not in fields:
        return (("torch", "fp32"),)
    engines, precisions = (
        [choice for choice in get_args(fields[name].annotation) if choice != "auto"]
        for name in ("engine", "precision")
    )
    return (
        ("torch", "fp32"),
        *(
            (engine, precision)
            for engine in engines
            if engine != "torch"
            for precision in precisions
        ),
    )


class Read(NamedTuple):
    """An answer: float32 [768], and the state after it where the engine has states."""

    vector: Floats
    state: State


class Adapter:
    """An engine of ours: windows in, answers out."""

    def __init__(self, spec: Spec) -> None:
        self.continues = HAS_PORT
        self._engine: Any
        if HAS_PORT:
            make = importlib.import_module("backends.engine.make").make_engine
            path = Path(spec.checkpoint) if spec.checkpoint else None
            self._engine = make(spec.engine, path, spec.seed, spec.threads, spec.precision)
        else:
            torch_cpu = importlib.import_module("backends.engine.torch_cpu")
            self._engine = torch_cpu.TorchEngine(weights_of(spec), threads=spec.threads)

    def read(self, windows: Sequence[Floats], states: Sequence[State] | None = None) -> list[Read]:
        """Read windows [n, 768], each after its state (none: from the start)."""
        if not self.continues:
            return [Read(self._engine.run(window), None) for window in windows]
        piece: Any = vars(port)["Piece"]
        befores = states or [None] * len(windows)
        pieces = [piece(*both) for both in zip(windows, befores, strict=True)]
        return [Read(read.vector, read.state) for read in self._engine.run(pieces)]


def weights_of(spec: Spec) -> Checkpoint:
    """Load the checkpoint, or make the untrained weights of the seed."""
    if spec.checkpoint:
        return checkpoint.load(Path(spec.checkpoint))
    return checkpoint.seeded(spec.seed)
