"""What runs the model: the port. One engine per server, used by one thread at a time."""

from dataclasses import dataclass
from typing import Protocol

from backends.protocol import Floats


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine says about itself, for metadata and logs."""

    name: str
    device: str
    threads: int


class Engine(Protocol):
    """Predicts the vector after a window. An engine is made loaded: its class's affair."""

    @property
    def capabilities(self) -> Capabilities:
        """What this engine is."""

    def warm(self, length: int) -> None:
        """Run once at `length` vectors, so that the first request pays for no preparation."""

    def run(self, window: Floats) -> Floats:
        """Predict: window float32 [n, 768], n >= 1 -> float32 [768] of length 1.

        An input that overflows float32 on its way gives numbers that are not finite.
        """
