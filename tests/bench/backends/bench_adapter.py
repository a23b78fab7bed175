"""The one file that knows how our engines are made and asked."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, get_args

from backends import checkpoint
from backends.checkpoint import Checkpoint
from backends.engine.make import Name, make_engine
from backends.engine.port import Piece, Reading, State
from backends.protocol import Floats

EAGER: Final = "eager"
WORK_SECONDS: Final = ("backend_engine_seconds_sum", "backend_search_seconds_sum")
VECTORS: Final = "backend_vectors_total"
PADDED_STEPS: Final = f'{VECTORS}{{kind="padding"}}'
STEPS: Final = f'{VECTORS}{{kind="read"}}'
"""Metrics of a model server: seconds in the engine and the bank; vectors read, and padding."""
SHIPPED: Final = Path(__file__).parents[3] / "deploy" / "data" / "phase2.safetensors"


@dataclass(frozen=True, slots=True)
class Spec:
    """A contestant: `engine` is "eager" or one of ours; `checkpoint` a path or None."""

    engine: str
    threads: int
    seed: int
    checkpoint: str | None

    @property
    def label(self) -> str:
        """What the tables call it."""
        return "eager nn.GRU" if self.engine == EAGER else self.engine

    def as_json(self) -> dict[str, Any]:
        """Give the fields by name."""
        return asdict(self)

    def environment(self, **more: str) -> dict[str, str]:
        """Settings of a model server with this engine."""
        wanted = {
            "ARM": "phase2",
            "MAX_LENGTH": "500",
            "THREADS": str(self.threads),
            "SEED": str(self.seed),
            "LOG_LEVEL": "INFO",
            "ENGINE": self.engine,
            **({"CHECKPOINT": self.checkpoint} if self.checkpoint else {}),
            **more,
        }
        return {f"BACKEND_{name}": value for name, value in wanted.items()}


def known_engines() -> tuple[str, ...]:
    """List our engines, the reference first."""
    return ("torch", *(name for name in get_args(Name) if name not in {"auto", "torch"}))


class Adapter:
    """An engine of ours: windows in, answers out."""

    def __init__(self, spec: Spec) -> None:
        path = Path(spec.checkpoint) if spec.checkpoint else None
        name: Any = spec.engine
        self._engine = make_engine(name, path, seed=spec.seed, threads=spec.threads).engine

    def read(
        self, windows: Sequence[Floats], states: Sequence[State | None] | None = None
    ) -> list[Reading]:
        """Read windows [n, 768], each after its state (none: from the start)."""
        befores = states or [None] * len(windows)
        return self._engine.run(
            [Piece(window, state) for window, state in zip(windows, befores, strict=True)]
        )


def weights_of(spec: Spec) -> Checkpoint:
    """Load the checkpoint, or make the untrained weights of the seed."""
    if spec.checkpoint:
        return checkpoint.load(Path(spec.checkpoint))
    return checkpoint.seeded(spec.seed)
