"""What the guard's average is made of, in a few rows that add up to it. Pure.

The average is the sum, over all entries, of weight times e-value. The largest parts are shown one
by one, and the rest in one row: its e-value is their own weighted average, so that the rows add up.
"""

import math
from collections.abc import Sequence
from typing import Final

from rollout.machine import Record
from rollout.snapshot import Frozen
from rollout.verdict import Judgement, Stake, Verdict

SHOWN: Final = 6


class StakeRow(Frozen):
    """One entry of the average, or several together."""

    name: str
    entries: int
    weight: float
    """Percent of the average."""
    ln_e: float
    """ln of the e-value; of several, of their weighted average."""
    ln_part: float
    """ln of weight times e-value: what this row adds to the average."""


def guard_of(record: Record, judgement: Judgement | None) -> tuple[Verdict, float] | None:
    """Give what the guard said when the rollout ended by itself, else what it says now.

    With it comes ln of the highest average that it ever saw. None where nothing was judged.
    """
    if kept := record.guard:
        said = [check.evidence.ln_e for check in kept.checks[:1] if check.evidence]
        return kept, max([record.guard_high, *said])
    return (judgement.guard, judgement.guard_high) if judgement else None


def rows(stakes: Sequence[Stake], shown: int = SHOWN) -> tuple[StakeRow, ...]:
    """Give the largest parts, largest first, and all others in one row."""
    order = sorted(stakes, key=_ln_part, reverse=True)
    found = [_row(_told(one), [one]) for one in order[:shown]]
    if rest := order[shown:]:
        found.append(_row(f"{len(rest)} others together", rest))
    return tuple(found)


def _row(name: str, stakes: Sequence[Stake]) -> StakeRow:
    weight = sum(one.weight for one in stakes)
    ln_part = _ln_sum([_ln_part(one) for one in stakes])
    return StakeRow(
        name=name,
        entries=len(stakes),
        weight=100 * weight,
        ln_e=ln_part - math.log(weight),
        ln_part=ln_part,
    )


def _told(one: Stake) -> str:
    stage = f" in {one.stage}" if one.stage else ""
    return one.name + (f" of {one.stratum} vectors" if one.stratum else "") + stage


def _ln_part(one: Stake) -> float:
    return math.log(one.weight) + one.ln_e


def _ln_sum(logarithms: Sequence[float]) -> float:
    top = max(logarithms)
    return top + math.log(sum(math.exp(one - top) for one in logarithms))
