"""Traffic outside any rollout: what a start is forecast from, and what its latency marks are. Pure.

A gateway counts each answered request that the tier table alone decided about: under the tier that
the *whole* table, with all its arms active, would send it to, and under the arm that answered. So
the requests that a candidate would take are known before it is on trial, whatever the scope.

A store keeps a day of it, by the hour: `<minute>|requests`, `<minute>|keyed` and, over the hour,
`-|waited.<bin>`.
"""

from collections import Counter as Multiset
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rollout.minutes import MINUTE_S
from rollout.snapshot import ALL_MINUTES, Scope, Tier, latency_bin

ROLLOUT: Final = "-"
"""Stands for the rollout in a background cell: no rollout has such an id."""
HOUR: Final = 60
"""Minutes."""
KEPT_HOURS: Final = 24
BACKGROUND_TTL_S: Final = (KEPT_HOURS + 2) * HOUR * MINUTE_S
REQUESTS: Final = "requests"
KEYED: Final = "keyed"
WAITED: Final = "waited."


def place(tier: str, arm: str) -> str:
    """Name the cells of requests for a tier that an arm answered."""
    return f"{tier}/{arm}"


def waited(seconds: float) -> str:
    """Name the counter of requests whose client waited so long."""
    return f"{WAITED}{latency_bin(seconds)}"


def field_of(minute: int, counter: str) -> str:
    """Name a counter's field: latencies are kept by the hour, the rest by the minute."""
    return f"{ALL_MINUTES if counter.startswith(WAITED) else minute}|{counter}"


def hours(now: float) -> range:
    """List the hours that are read at Unix second `now`, by their first minute."""
    last = int(now // MINUTE_S) // HOUR * HOUR
    return range(last - KEPT_HOURS * HOUR, last + HOUR + 1, HOUR)


def serving(length: int, tiers: Sequence[Tier]) -> str:
    """Name the first of `tiers` that holds `length` vectors, or the last when none does."""
    return next((tier.arm for tier in tiers if length <= tier.max_length), tiers[-1].arm)


def tiers_in_scope(tiers: tuple[Tier, ...], candidate: str, scope: Scope) -> tuple[str, ...]:
    """Name the tiers of the whole table whose requests a rollout of `candidate` would split."""
    trial = [tier for tier in tiers if tier.active or tier.arm == candidate]
    return tuple(
        tier.arm for tier in tiers if scope == "all" or serving(tier.max_length, trial) == candidate
    )


@dataclass(frozen=True, slots=True)
class Background:
    """What was seen outside any rollout in some places, since a time."""

    requests: int = 0
    keyed: int = 0
    seconds: float = 0.0
    """From the first minute with a request until now."""
    bins: Mapping[int, int] = field(default_factory=dict)
    """What clients waited, by `latency_bin`; over whole hours."""

    @property
    def per_s(self) -> float:
        """Requests per second; 0 where there were none for a whole minute."""
        return self.requests / self.seconds if self.seconds >= MINUTE_S else 0.0


def background(hashes: Mapping[str, Mapping[str, int]], now: float, since: float) -> Background:
    """Add up the raw counts of places from Unix second `since` on. Foreign fields are left out."""
    requests, keyed, oldest = 0, 0, now
    bins: Multiset[int] = Multiset()
    for name, by in _fields(hashes):
        head, _, counter = name.partition("|")
        if counter.startswith(WAITED) and (bin_ := counter.removeprefix(WAITED)).isdecimal():
            bins[int(bin_)] += by
        elif head.isdecimal() and int(head) * MINUTE_S >= since:
            requests += by if counter == REQUESTS else 0
            keyed += by if counter == KEYED else 0
            oldest = min(oldest, float(int(head) * MINUTE_S))
    return Background(requests, keyed, now - oldest, dict(bins))


def _fields(hashes: Mapping[str, Mapping[str, int]]) -> Iterator[tuple[str, int]]:
    for counters in hashes.values():
        yield from counters.items()
