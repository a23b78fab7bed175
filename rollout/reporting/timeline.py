"""The evidence over time, for the report: the trace with its figures computed. Pure.

Of a stage only the looks under its last evidence epoch are shown: what was seen of other models is
no evidence about these. A long trace is thinned, evenly by look, and a stage's first and last look
always stay.
"""

from collections.abc import Sequence
from typing import Final

from rollout.machine import Record
from rollout.reporting.document import Moment, Timeline
from rollout.reporting.stagereport import pair_differences, pair_hit_rates
from rollout.trace import Point, of_visit

SHOWN: Final = 240
"""How many looks a report shows, about."""


def timeline(record: Record, trace: Sequence[Point]) -> Timeline:
    """Compute what each look that is shown had seen."""
    last = {visit.stage: visit for visit in record.visits}  # the last visit of a stage wins
    visits = [of_visit(trace, visit) for visit in last.values()]
    kept = sum(map(len, visits))
    shown = [one for points in visits for one in _thinned(points, kept)]
    return Timeline(kept=kept, moments=tuple(_moment(record, one) for one in shown))


def _thinned(points: Sequence[Point], kept: int) -> list[Point]:
    """Take a stage's part of about SHOWN looks."""
    every = max(1, -(-kept // SHOWN))
    return [
        one for place, one in enumerate(points) if place % every == 0 or place == len(points) - 1
    ]


def _moment(record: Record, one: Point) -> Moment:
    rates = pair_hit_rates(one.pair_hits)
    return Moment(
        at=one.at,
        since_start_s=one.at - record.started_at,
        stage=one.stage,
        gate=one.gate,
        guard_ln_e=one.guard_ln_e,
        guard_high=one.guard_high,
        ln_e=one.ln_e,
        requests=one.requests,
        pairs=one.pairs,
        pair_hit_rates={
            role: {k: found.percent for k, found in by_k.items()} for role, by_k in rates.items()
        },
        pair_differences=pair_differences(one.pair_hits),
    )
