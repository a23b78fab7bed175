"""What needs no training: a fixed weighing of the context's newest vectors. Pure.

    repeat the last          x_n
    mean of the last k       x_n + ... + x_(n-k+1)
    leaky mean, decay d      h <- d h + (1 - d) x over the context, from h = 0

each scaled to length 1. A model that does not beat these has learned nothing that is worth its
cost. The decays are fixed: 0.6 is the best of 0.4 to 0.9 on the *validation* chains, 0.8 stands
beside it for a longer memory; neither was chosen on a held-out query.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backends.training.ranks import Floats, Ints

_REACH: Final = 64
"""Newest vectors that a leaky mean adds up: what lies behind weighs less than 1e-6."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """A rule: its name in tables, its short name in a history, its weights, newest first."""

    name: str
    short: str
    weights: tuple[float, ...]

    def predict(self, vectors: NDArray[np.float16], begins: Ints, ends: Ints) -> Floats:
        """Predict what follows the rows [begin, end) of `vectors` [N, 768]: [m, 768], length 1."""
        total = np.zeros((len(ends), vectors.shape[1]), dtype=np.float32)
        for back, weight in enumerate(self.weights, start=1):
            having = np.flatnonzero(ends - back >= begins)
            if not having.size:
                break
            newest = np.asarray(vectors[ends[having] - back], dtype=np.float32)
            total[having] += np.float32(weight) * newest
        return np.asarray(total / np.linalg.norm(total, axis=1, keepdims=True), dtype=np.float32)


def _mean(k: int) -> Baseline:
    return Baseline(f"mean of the last {k}", f"mean{k}", (1.0,) * k)


def _leaky(decay: float) -> Baseline:
    weights = tuple(decay**age for age in range(_REACH))
    return Baseline(f"leaky mean, decay {decay}", f"leaky{decay}", weights)


REPEAT: Final = Baseline("repeat the last", "repeat", (1.0,))
BASELINES: Final[Sequence[Baseline]] = (
    REPEAT,
    *(_mean(k) for k in (2, 3, 5)),
    *(_leaky(decay) for decay in (0.6, 0.8)),
)
WATCHED: Final = tuple(b for b in BASELINES if b.short in {"repeat", "mean2", "leaky0.6"})
"""Those that every validation of a training stands beside."""
