"""What runs the model: the port. One engine per server, used by one thread at a time.

A GRU is causal: its state after a prefix is all that the rest of a context needs of it. So an
engine reads pieces. A piece is a whole window from no state, or the rest of one from the state that
its prefix left; what comes back is the prediction and the state after the piece's last vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from backends.errors import LoadError
from backends.protocol import Floats
from backends.shape import DIMENSION

Precision = Literal["float32", "bfloat16"]
"""What the GRU's products are made in. Sums and states are float32 in both."""
State = NDArray[np.float32]
"""The GRU's state: float32 [4, 512], a layer each; 8 KB."""

WARM_SEED = 0


class EngineUnavailableError(LoadError):
    """This engine cannot run on this machine; the message says why and what can."""


class GivenUpError(Exception):
    """A run was told to stop before it was over: see `Engine.give_up`."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine says about itself, for metadata and logs.

    `weights` is the type that the weights are kept in, `precision` what products are made in.
    `ragged`: contexts of different lengths share a batch without padding.
    """

    name: str
    device: str
    threads: int
    weights: str
    precision: Precision
    ragged: bool


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """What one request wants read: `vectors` [n, 768], n >= 1, from `state` (None: the start)."""

    vectors: Floats
    state: State | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What came of a piece: the vector predicted, [768] of length 1, and the state after it."""

    vector: Floats
    state: State


class Engine(Protocol):
    """Predicts the vector after each context. An engine is made loaded: its class's affair."""

    @property
    def capabilities(self) -> Capabilities:
        """What this engine is."""

    def run(self, pieces: Sequence[Piece]) -> list[Reading]:
        """Read at least one piece, all at once; the readings are in the pieces' order.

        A context that overflows float32 on its way gives numbers that are not finite; its
        neighbours in the batch are not touched by it. Raises GivenUpError, if that was asked for.
        """

    def predict(self, lasts: Floats, states: Sequence[State]) -> Floats:
        """Predict from the states that contexts left, and their last vectors: [B, 768] -> the same.

        That is what `run` would predict, without a step.
        """

    def give_up(self) -> None:
        """Ask for the end of the run that is under way, from another thread.

        It may come too late, or be more than an engine can do: then the run ends as it would have.
        """


def warm(engine: Engine, length: int) -> None:
    """Run once alone and once as a batch, so that the first request pays for no preparation."""
    random = np.random.default_rng(WARM_SEED)
    vectors = random.standard_normal((length, DIMENSION), dtype=np.float32)
    alone = engine.run([Piece(vectors)])[0]
    engine.run([Piece(vectors[:1], alone.state), Piece(vectors[: min(length, 8)])])
