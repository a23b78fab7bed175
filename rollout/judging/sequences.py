"""Intervals of shares that hold at every look, and projections to a decision. Pure.

A confidence sequence contains the true value at all times at once, with probability 1 - alpha: an
interval that may be watched. This one is the two-sided beta-binomial mixture of Howard, Ramdas,
McAuliffe & Sekhon (1810.08240, proposition 7; Howard & Ramdas 1906.09712), as `confseq` computes
it: tightest about `t_opt` observations, valid at every number of them.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Final

_CACHED: Final = 4096
_HALVINGS: Final = 40
_EDGE: Final = 1e-9
_LEAST_PRIOR: Final = 1e-3
MARGIN: Final = 2.0
"""What a mixture pays for not knowing the alternative, in units of ln E, for projections."""


def best_rho(v: float, alpha: float) -> float:
    """Give the mixture's precision that makes the boundary tightest at intrinsic time `v`.

    Two-sided, in the normal approximation of `confseq`: v / (2 ln(1/a) + ln(1 + 2 ln(1/a))).
    """
    odds = 2 * math.log(1 / alpha)
    return v / (odds + math.log1p(odds))


@lru_cache(_CACHED)
def share_interval(
    successes: int, trials: int, t_opt: float, alpha: float = 0.05
) -> tuple[float, float]:
    """Give the confidence sequence of a share; (0, 1) before the first trial.

    `t_opt` is the number of trials at which it should be tightest: fixed before any is seen.
    """
    if not 0 <= successes <= trials or t_opt <= 0:
        raise ValueError(f"{successes} of {trials} trials, tightest at {t_opt}, is no share")
    if not trials:
        return 0.0, 1.0
    bar = math.log(1 / alpha)
    share = min(max(successes / trials, _EDGE), 1 - _EDGE)

    def excluded(p: float) -> bool:
        return _ln_mixture(successes, trials - successes, p, t_opt) >= bar

    low = _border(excluded, _EDGE, share) if successes else 0.0
    high = _border(excluded, 1 - _EDGE, share) if successes < trials else 1.0
    return low, high


def _border(excluded: Callable[[float], bool], outside: float, inside: float) -> float:
    """Bisect between a share that may be excluded and one that is not; the outer end."""
    if not excluded(outside):
        return outside
    for _ in range(_HALVINGS):
        middle = (outside + inside) / 2
        if excluded(middle):
            outside = middle
        else:
            inside = middle
    return outside


def _ln_mixture(
    successes: int, failures: int, p: float, t_opt: float, tuned: float = 0.05
) -> float:
    """Give ln of the two-sided beta-binomial mixture martingale under the share `p`.

    With g = p, h = 1 - p its prior on the share is Beta(r/(1-p), r/p), whose mean is p.
    """
    variance = p * (1 - p)
    r = max(best_rho(t_opt * variance, tuned) - variance, _LEAST_PRIOR * variance)
    a, b = r / (1 - p), r / p
    return (
        _ln_beta(a + successes, b + failures)
        - _ln_beta(a, b)
        - successes * math.log(p)
        - failures * math.log1p(-p)
    )


def _ln_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


# --- projections ---------------------------------------------------------------------------------


def share_growth(successes: int, failures: int, threshold: float, *, above: bool) -> float:
    """Give what one more trial like those so far adds to ln E of P1.

    It is a Kullback-Leibler divergence, and 0 where the observed share lies on the other side.
    """
    n = successes + failures
    share = successes / n if n else threshold
    if share == threshold or (share > threshold) != above:
        return 0.0
    grown = share * math.log(share / threshold) if successes else 0.0
    return grown + ((1 - share) * math.log((1 - share) / (1 - threshold)) if failures else 0.0)


def needed(ln_e: float, bar: float, growth: float, n: int) -> int | None:
    """Project how many more observations like the `n` so far bring ln E from `ln_e` to `bar`.

    About (bar + 2) / growth in all, which is the expected size of the whole sample; None where the
    observations so far do not lead there.
    """
    if ln_e >= bar:
        return 0
    if growth <= 0 or not math.isfinite(growth):
        return None
    further = max((bar + MARGIN) / growth - n, (bar - ln_e) / growth)
    return math.ceil(further) if further < 1e15 else None  # noqa: PLR2004 - never
