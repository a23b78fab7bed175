"""Binned durations and their quantiles, also told apart by known prefixes. Pure.

Quantiles are nearest-rank on bins: the smallest bin with at least `q n` observations at or below.
They carry the 1 % relative error of `latency_bin`.
"""

import math
import re
from collections import Counter as Multiset
from collections.abc import Mapping
from typing import Final

from backends.protocol import PREFIX_OUTCOMES
from rollout.snapshot import Frozen, latency_of

BY_PREFIX: Final = re.compile(
    rf"prefix\.({'|'.join(PREFIX_OUTCOMES)})\.((?:pair\.)?latency\.(?:incumbent|candidate))\.([0-9]+)"
)
"""The counters `Counter.by_prefix`: outcome, latency and role, bin."""


class Quantiles(Frozen):
    """A duration's distribution, in milliseconds; None where nothing was measured."""

    n: int
    p50: float | None
    p95: float | None
    p99: float | None


class ByPrefix(Frozen):
    """A duration told apart by what the arm's known prefixes did. Shares are percent."""

    hit_percent: float | None
    """Of the requests for which the model server told."""
    hits: Quantiles
    """The context continued a known prefix: only the rest of it was read."""
    misses: Quantiles
    """The window was read from its first vector."""
    slid: int
    """Of the misses, windows that slid: the context is longer than the arm reads."""
    off: int
    """Of the misses, those of servers that keep no prefixes."""
    not_told: int
    """Failed attempts, and answers of model servers that do not tell."""


def quantile(bins: Mapping[int, int], q: float) -> int | None:
    """The nearest-rank quantile of binned observations: a bin, or None when there are none."""
    n = sum(bins.values())
    if n == 0:
        return None
    rank, seen = max(1, math.ceil(q * n - 1e-9)), 0
    for bin_ in sorted(bins):
        seen += bins[bin_]
        if seen >= rank:
            return bin_
    raise AssertionError("unreachable: the ranks end with the last bin")


def told_apart(bins: Mapping[str, Mapping[int, int]], measured: int) -> ByPrefix:
    """Tell a duration of `measured` requests apart, by outcome."""
    n = {outcome: sum(held.values()) for outcome, held in bins.items()}
    misses: Multiset[int] = Multiset()
    for outcome, held in bins.items():
        if outcome != "hit":
            misses.update(held)
    told = sum(n.values())
    return ByPrefix(
        hit_percent=100 * n.get("hit", 0) / told if told else None,
        hits=quantiles_of(bins.get("hit", {})),
        misses=quantiles_of(misses),
        slid=n.get("slid", 0),
        off=n.get("off", 0),
        not_told=max(0, measured - told),
    )


def quantiles_of(bins: Mapping[int, int]) -> Quantiles:
    """Compute the quantiles of durations, binned by `latency_bin`."""

    def milliseconds(q: float) -> float | None:
        bin_ = quantile(bins, q)
        return None if bin_ is None else 1e3 * latency_of(bin_)

    return Quantiles(
        n=sum(bins.values()),
        p50=milliseconds(0.50),
        p95=milliseconds(0.95),
        p99=milliseconds(0.99),
    )
