"""A confidence sequence for the mean of bounded values, valid at every look. Pure.

Predictable mixture of bets (Waudby-Smith and Ramdas, 2010.09686; P2 of the judge's statistics):

    E(m) = 1/K sum_k prod_j (1 + l_k (x_j - m)),  l_k = 0.9 / (m - low) 2^(-k/2)

is an e-value against "the mean is at most m"; mirrored, against "at least m". The sequence is
every m that neither refutes at 2/alpha. The unit must be independent: here a chain, whose queries
are not independent of each other, so each chain counts once, by its own mean.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from scipy.special import logsumexp

BETS: Final = 8
"""K. The judge's 24 reach down to bets for thousands of values; a few dozen chains pay for those
with a wider sequence and never use them."""
_LARGEST: Final = 0.9
_HALVINGS: Final = 40


def ln_e_above(values: Sequence[float], mean: float, low: float, count: int = BETS) -> float:
    """Weigh the evidence that the mean of values >= `low` is above `mean`: ln E."""
    bets = _LARGEST / (mean - low) * 2.0 ** (-np.arange(count) / 2)
    gains = np.log1p(bets[:, None] * (np.asarray(values)[None, :] - mean))
    return float(logsumexp(gains.sum(axis=1))) - math.log(count)


def mean_interval(
    values: Sequence[float], low: float, high: float, alpha: float = 0.05
) -> tuple[float, float]:
    """Return the 1 - alpha confidence sequence of the mean at this look, within [low, high]."""
    limit = math.log(2 / alpha)
    mirrored = [low + high - value for value in values]
    lower = _last_refuted(lambda mean: ln_e_above(values, mean, low) >= limit, low, high)
    upper = _last_refuted(lambda mean: ln_e_above(mirrored, mean, low) >= limit, low, high)
    return lower, low + high - upper


def _last_refuted(refuted: Callable[[float], bool], low: float, high: float) -> float:
    below, above = low, high
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        if refuted(middle):
            below = middle
        else:
            above = middle
    return below
