"""Evidence about the mean of a bounded score, from counts of its values. Pure.

P2 of the judge's statistics (Waudby-Smith & Ramdas, 2010.09686): a bet of a fixed share of the
stake on every observation. For a score x >= L, and H0: E[x | past] <= m0, with counts n_j at the
values v_j,

    E = 1/K sum_k prod_j (1 + l_k (v_j - m0))^n_j,  l_k = 0.9/(m0 - L) 2^(-k/2),  k = 0..23.

Every factor has a mean of at most 1 under H0 and is at least 0.1, so each of the K stakes is a
supermartingale, whatever the order of the observations and however their distribution moves below
m0; an average of them is one too. A value that stands for a bin must be its end towards H0.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

STAKES: Final = 24
Floats = NDArray[np.float64]
_SHARES: Final[Floats] = 0.9 * 2.0 ** (-np.arange(STAKES) / 2)
_CACHED: Final = 8192
_PIECES: Final = 20
_ROUNDS: Final = 3
"""A border is found to 20^-3 of the range, outwards: an interval is never too narrow."""


@lru_cache(_CACHED)
def ln_e_mean_above(
    values: tuple[float, ...], counts: tuple[int, ...], m0: float, low: float
) -> float:
    """Weigh the evidence that the mean of a score of at least `low` lies above `m0`."""
    return float(_ln_average(_stakes(values, counts, m0, low)))


def ln_e_mean_below(
    values: tuple[float, ...], counts: tuple[int, ...], m0: float, high: float
) -> float:
    """Weigh the evidence that the mean of a score of at most `high` lies below `m0`."""
    return ln_e_mean_above(tuple(-value for value in values), counts, -m0, -high)


def growth_above(
    values: tuple[float, ...], counts: tuple[int, ...], m0: float, low: float
) -> float:
    """Give what one more observation like those so far adds to ln E, at the best of the stakes."""
    n = sum(counts)
    return float(_stakes(values, counts, m0, low).max()) / n if n else 0.0


@lru_cache(_CACHED)
def mean_interval(
    values: tuple[float, ...], counts: tuple[int, ...], low: float, high: float, alpha: float
) -> tuple[float, float]:
    """Give the confidence sequence of a mean: every m with E+ < 2/alpha and E- < 2/alpha.

    Both are monotone in m, so each end is one border. Valid at every look (coverage 1 - alpha).
    """
    bar = math.log(2 / alpha)
    mirrored = tuple(-value for value in values)

    def above(means: Floats) -> Floats:
        return _over_means(values, counts, means, low)

    def below(means: Floats) -> Floats:
        return _over_means(mirrored, counts, means, -high)

    return _border(above, low, high, bar), -_border(below, -high, -low, bar)


def _border(ln_e: Callable[[Floats], Floats], low: float, high: float, bar: float) -> float:
    """Find the largest m in [low, high] that is excluded; `ln_e` falls in m; `low` if none is."""
    for _ in range(_ROUNDS):
        step = (high - low) / _PIECES
        inner = low + step * np.arange(1, _PIECES)
        excluded = int(np.count_nonzero(ln_e(inner.astype(np.float64)) >= bar))
        low, high = low + step * excluded, low + step * (excluded + 1)
    return low


def _over_means(
    values: Sequence[float], counts: Sequence[int], means: Floats, low: float
) -> Floats:
    """Give ln E for each of `means`."""
    away = np.asarray(values)[None, :] - means[:, None]
    stakes = _SHARES[None, :] / (means - low)[:, None]
    grown = np.log1p(stakes[:, :, None] * away[:, None, :]) @ np.asarray(counts, dtype=np.float64)
    return _ln_average(np.asarray(grown, dtype=np.float64))


def _stakes(values: Sequence[float], counts: Sequence[int], m0: float, low: float) -> Floats:
    """Give ln of what each of the K stakes has become."""
    if not low < m0:
        raise ValueError(f"the mean {m0} that is tested must lie above the lowest value, {low}")
    if any(count < 0 for count in counts) or any(value < low - 1e-9 for value in values):
        raise ValueError(f"counts are 0 or more and values at least {low}: {values}, {counts}")
    away = np.asarray(values, dtype=np.float64) - m0
    factors = np.log1p(np.multiply.outer(_SHARES / (m0 - low), away))
    return np.asarray(factors @ np.asarray(counts, dtype=np.float64), dtype=np.float64)


def _ln_average(logarithms: Floats) -> Floats:
    """Give ln of the mean of exp over the last axis."""
    top = logarithms.max(axis=-1)
    total = np.exp(logarithms - top[..., None]).sum(axis=-1)
    return np.asarray(top + np.log(total / STAKES))
