"""The one file that knows how our engines are made and asked."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, get_args

from backends import checkpoint
from backends.checkpoint import Checkpoint
from backends.engine import library
from backends.engine.make import Name, make_engine
from backends.engine.port import EngineUnavailableError, Piece, Precision, Reading, State
from backends.protocol import Floats

EAGER: Final = "eager"
DOTTED: Final = "compiled"
"""The engine that has another precision to offer."""
FLOAT32: Final[Precision] = "float32"
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
    precision: Precision = FLOAT32

    @property
    def label(self) -> str:
        """What the tables call it."""
        if self.engine == EAGER:
            return "eager nn.GRU"
        return self.engine if self.precision == FLOAT32 else f"{self.engine} {self.precision}"

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
            "PRECISION": self.precision,
            **({"CHECKPOINT": self.checkpoint} if self.checkpoint else {}),
            **more,
        }
        return {f"BACKEND_{name}": value for name, value in wanted.items()}


def known_engines() -> tuple[tuple[str, Precision], ...]:
    """List our engines and what their products are made in, the reference first."""
    names = ("torch", *(name for name in get_args(Name) if name not in {"auto", "torch"}))
    reduced: Precision = "bfloat16"
    return (*((name, FLOAT32) for name in names), *([(DOTTED, reduced)] if has_dots() else []))


def has_dots() -> bool:
    """Say whether the compiled engine makes products in bfloat16 here."""
    try:
        library.check_dots(library.load()[1])
    except EngineUnavailableError:
        return False
    return True


class Adapter:
    """An engine of ours: windows in, answers out."""

    def __init__(self, spec: Spec) -> None:
        path = Path(spec.checkpoint) if spec.checkpoint else None
        name: Any = spec.engine
        self._engine = make_engine(
            name, path, seed=spec.seed, threads=spec.threads, precision=spec.precision
        ).engine

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
