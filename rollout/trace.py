"""What the evidence was, over time: when a look is worth keeping, and what is kept of it. Pure.

Counts are kept as totals, so nobody can tell what they were an hour before: the trace remembers. A
point is one look of the controller that leads: the counts that the judge read, and the e-values
that followed from them. Points grow sparser with the age of the rollout: 28 days leave about 2,000
of them, each of less than a kilobyte.
"""

from collections.abc import Sequence
from typing import Final

from pydantic import Field

from rollout.machine import Record, State, Visit
from rollout.snapshot import Frozen
from rollout.tally import StageTally
from rollout.verdict import Judgement, Kind, Verdict

KEPT_POINTS: Final = 4000
"""Of each rollout, the newest."""
SHORTEST_S: Final = 2.0
PER_LIFE: Final = 200
"""Points are this part of the rollout's age apart, so that at any age a chart has a few hundred."""

_CERTAIN: Final = 690.0


class Point(Frozen):
    """One look: the present stage, what was counted in it, and the evidence of that moment."""

    at: float
    evidence_epoch: int
    stage: str
    state: State
    gate: Kind
    guard: Kind
    guard_ln_e: float | None
    """ln of the guard's average e-value; None where the judge gave none."""
    guard_high: float
    """ln of the highest one so far."""
    ln_e: dict[str, float] = Field(default_factory=dict)
    """ln of the e-value of each required check of the gate that has one, by the check's name."""
    requests: int = 0
    pairs: int = 0
    labels: int | None = None
    """Truths that had come; None in a look that a former version kept."""
    pair_hits: dict[int, dict[str, int]] = Field(default_factory=dict)
    """For each k, labelled pairs by whose own first k held the truth."""


def due(last: Point | None, record: Record, now: float, *, acts: bool = False) -> bool:
    """Whether a look at `now` is worth keeping: a stage's first, those that act, some between."""
    here = (record.evidence_epoch, record.stage.name)
    if acts or last is None or (last.evidence_epoch, last.stage) != here:
        return True
    return now - last.at >= max(SHORTEST_S, (now - record.started_at) / PER_LIFE)


def point(record: Record, figures: StageTally | None, judged: Judgement, now: float) -> Point:
    """Say what is kept of a look; `figures` is None where the counts could not be read."""
    return Point(
        at=now,
        evidence_epoch=record.evidence_epoch,
        stage=record.stage.name,
        state=record.state,
        gate=judged.gate.kind,
        guard=judged.guard.kind,
        guard_ln_e=_weight(judged.guard),
        guard_high=_finite(judged.guard_high),
        ln_e={
            check.name: _finite(check.evidence.ln_e)
            for check in judged.gate.checks
            if check.decides and check.evidence
        },
        requests=figures.requests if figures else 0,
        pairs=figures.pairs if figures else 0,
        labels=figures.incumbent.labels + figures.candidate.labels if figures else None,
        pair_hits=figures.pair_hits if figures else {},
    )


def _weight(guard: Verdict) -> float | None:
    """Find the guard's own e-value: of its first check that has one."""
    return next((_finite(check.evidence.ln_e) for check in guard.checks if check.evidence), None)


def _finite(ln_e: float) -> float:
    """Bound what JSON could not hold: certainty is 1e+300 to 1 here."""
    return max(-_CERTAIN, min(_CERTAIN, ln_e))


def of_visit(points: Sequence[Point], visit: Visit) -> list[Point]:
    """Select the looks at one visit of a stage, oldest first."""
    found = [
        one
        for one in points
        if (one.stage, one.evidence_epoch) == (visit.stage, visit.evidence_epoch)
    ]
    return sorted(found, key=lambda one: one.at)
