"""How near each arm came to the truth, on the pairs that kept their vectors. Pure.

The candidate's cosine to the truth minus the incumbent's, cut off at +-0.3, is a bounded score of
each pair: P2 of `bounded`. It is counted in bins of 0.002. Each end of the interval, and each
e-value, takes a bin's end towards its own hypothesis, so that rounding helps neither arm.
"""

from collections.abc import Mapping
from typing import Final

from rollout.judging.bounded import ln_e_mean_above, ln_e_mean_below, mean_interval
from rollout.snapshot import DIFFERENCE_BIN, DIFFERENCE_LIMIT, SHARE_BINS, Counter, Frozen, Role

ALPHA: Final = 0.05


class Nearness(Frozen):
    """Cosines to the truth, on a bounded sample of labelled pairs; None where there are none.

    `low` and `high` are a 95 % confidence sequence of the mean difference: valid at every look.
    """

    n: int
    """Pairs compared; where the routing key is the unit, the first of each key."""
    mean: dict[Role, float | None]
    difference: float | None
    """Mean of the candidate's cosine minus the incumbent's, each cut off at +-0.3."""
    low: float | None
    high: float | None
    ln_e_nearer: float | None
    """ln of the e-value against: the candidate is no nearer to the truth."""
    ln_e_farther: float | None
    """ln of the e-value against: the candidate is no farther from it."""


def nearness(total: Mapping[str, int], *, by_key: bool) -> Nearness:
    """Compute the figures of a stage's checked counters."""
    first = Counter.first("") if by_key else ""
    bins = _bins(total, f"{first}truth.difference.")
    mean: dict[Role, float | None] = {
        "incumbent": _mean(_bins(total, f"{first}truth.incumbent.")),
        "candidate": _mean(_bins(total, f"{first}truth.candidate.")),
    }
    n = sum(bins.values())
    if not n:
        return Nearness(
            n=0, mean=mean, difference=None, low=None, high=None, ln_e_nearer=None,
            ln_e_farther=None,
        )  # fmt: skip
    most = DIFFERENCE_LIMIT
    counts = tuple(bins.values())
    lower = tuple(max(-most, bin_ * DIFFERENCE_BIN) for bin_ in bins)
    upper = tuple(min(most, (bin_ + 1) * DIFFERENCE_BIN) for bin_ in bins)
    middles = [(low + high) / 2 for low, high in zip(lower, upper, strict=True)]
    return Nearness(
        n=n,
        mean=mean,
        difference=sum(v * by for v, by in zip(middles, counts, strict=True)) / n,
        low=mean_interval(lower, counts, -most, most, ALPHA)[0],
        high=mean_interval(upper, counts, -most, most, ALPHA)[1],
        ln_e_nearer=ln_e_mean_above(lower, counts, 0.0, -most),
        ln_e_farther=ln_e_mean_below(upper, counts, 0.0, most),
    )


def _bins(total: Mapping[str, int], prefix: str) -> dict[int, int]:
    """Sort the counters that begin with `prefix`, by bin."""
    found = {
        int(name.removeprefix(prefix)): by for name, by in total.items() if name.startswith(prefix)
    }
    return dict(sorted(found.items()))


def _mean(bins: Mapping[int, int]) -> float | None:
    n = sum(bins.values())
    return sum(bin_ * by for bin_, by in bins.items()) / n / SHARE_BINS if n else None
