"""Was a history linearizable? Who asked for what and when, beside what the store says was done.

Each transition has a version, and versions are one line, so there is no order to search for: the
audit is the order, and what was seen from outside must agree with it (Herlihy and Wing, 1990: an
operation takes effect at one moment between its call and its return).
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Version = tuple[int, int]


@dataclass(frozen=True)
class Did:
    """One call, between two moments of one clock. `mark` is its reason, which no other call has."""

    mark: str
    began: float
    ended: float
    outcome: Literal["applied", "refused", "unknown", "read"]
    version: Version | None = None
    """Where it led, or what it read; None for an empty store and where it is not known."""


def faults(calls: Sequence[Did], audit: Sequence[tuple[Version, str]]) -> list[str]:
    """List what contradicts linearizability; `audit` is (version, reason), oldest first."""
    return [*_audit_faults(calls, audit), *_order_faults(calls, audit), *_read_faults(calls, audit)]


def _audit_faults(calls: Sequence[Did], audit: Sequence[tuple[Version, str]]) -> Iterator[str]:
    for (before, _), (after, mark) in itertools.pairwise(audit):
        if after != (before[0], before[1] + 1):
            yield f"{after} ({mark}) follows {before}"
    times = Counter(mark for _, mark in audit)
    at = {mark: version for version, mark in audit}
    for call in calls:
        found = times[call.mark]
        if call.outcome == "applied" and (found != 1 or at[call.mark] != call.version):
            yield f"{call} is in the audit {found} times, at {at.get(call.mark)}"
        if call.outcome == "refused" and found:
            yield f"{call} was refused and happened at {at[call.mark]}"
        if call.outcome == "unknown" and found > 1:
            yield f"{call} happened {found} times"


def _order_faults(calls: Sequence[Did], audit: Sequence[tuple[Version, str]]) -> Iterator[str]:
    """A call that had returned before another began comes before it."""
    by_mark = {call.mark: call for call in calls if call.outcome in ("applied", "unknown")}
    latest = -math.inf
    for version, mark in audit:
        call = by_mark.get(mark)
        if call is None:
            continue
        if call.outcome == "applied" and call.ended < latest:
            yield f"{call} had ended before one of a lower version than {version} began"
        latest = max(latest, call.began)


def _read_faults(calls: Sequence[Did], audit: Sequence[tuple[Version, str]]) -> Iterator[str]:
    """A read shows all that had ended when it began, and nothing that began after it ended."""
    began = {mark: call.began for call in calls for mark in [call.mark]}
    made = {version: began.get(mark, -math.inf) for version, mark in audit}
    done = sorted(
        (call.ended, call.version)
        for call in calls
        if call.outcome in ("applied", "read") and call.version is not None
    )
    reads = sorted((c for c in calls if c.outcome == "read"), key=lambda call: call.began)
    place, least = 0, (0, 0)
    for read in reads:
        while place < len(done) and done[place][0] < read.began:
            least = max(least, done[place][1])
            place += 1
        version = read.version or (0, 0)
        if version < least:
            yield f"{read} is older than {least}, which was known before"
        if version != (0, 0) and made.get(version, math.inf) > read.ended:
            yield f"{read} is of what nobody had asked for yet"
