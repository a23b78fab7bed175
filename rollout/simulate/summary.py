"""What thousands of replicates add up to: shares with their Monte Carlo errors. Pure.

A share of n replicates has the standard error sqrt(p (1 - p) / n). Where it is printed, p is moved
a little towards a half (Agresti and Coull 1998: two successes and two failures are added), so that
a share of 0 has an error too. Against a promise of alpha, the error is that of alpha itself.

Requests to a decision are taken over all replicates: one that was never decided needed more than
every one that was, so a median may be `not decided`, and is then None.
"""

import math
from collections import Counter as Multiset
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple, Self

from rollout.simulate.replicate import WE, Outcome, Party
from rollout.simulate.rivals import RIVALS
from rollout.simulate.scenario import Setting

PARTIES: Final[tuple[Party, ...]] = (WE, *RIVALS)
SIGMAS: Final = 3
"""Standard errors above alpha that a simulated share may lie, and still keep the promise."""


@dataclass(frozen=True, slots=True)
class Share:
    """`count` of `of` replicates."""

    count: int
    of: int

    @property
    def value(self) -> float:
        """Between 0 and 1; 0 of none is 0."""
        return self.count / self.of if self.of else 0.0

    @property
    def error(self) -> float:
        """The Monte Carlo standard error, never 0."""
        p = (self.count + 2) / (self.of + 4)
        return math.sqrt(p * (1 - p) / (self.of + 4))

    def keeps(self, alpha: float) -> bool:
        """Whether the share is at most alpha and three standard errors."""
        return self.value <= limit(alpha, self.of)

    def as_json(self) -> dict[str, Any]:
        """Give the figures by name."""
        return {"count": self.count, "of": self.of, "share": self.value, "error": self.error}


def limit(alpha: float, replicates: int) -> float:
    """Give the largest share of `replicates` that still keeps a promise of alpha."""
    return alpha + SIGMAS * math.sqrt(alpha * (1 - alpha) / max(replicates, 1))


class Needed(NamedTuple):
    """Requests in scope until the decision, over all replicates; None where most never decide."""

    median: int | None
    p90: int | None


@dataclass(frozen=True, slots=True)
class Row:
    """One party in one scenario."""

    party: Party
    promoted: Share
    rolled_back: Share
    inconclusive: Share
    """Held, or not decided within the horizon."""
    let_through: Share | None
    """Past the gate that must keep the candidate back; None where none must."""
    requests: Needed
    hours: float | None
    """Until the decision, the median."""
    why: dict[str, int]
    """What decided, most frequent first."""

    @property
    def false(self) -> Share:
        """The mistake of the scenario: letting a bad candidate through, or rolling back a good."""
        return self.rolled_back if self.let_through is None else self.let_through

    @property
    def right(self) -> Share:
        """Rolling back a bad candidate, or promoting a good one."""
        return self.promoted if self.let_through is None else self.rolled_back

    def as_json(self) -> dict[str, Any]:
        """Give the figures by name."""
        harmful = self.let_through is not None
        return {
            "party": self.party,
            "false_promotion": self.let_through.as_json() if self.let_through else None,
            "false_rollback": None if harmful else self.rolled_back.as_json(),
            "promoted": self.promoted.as_json(),
            "rolled_back": self.rolled_back.as_json(),
            "inconclusive": self.inconclusive.as_json(),
            "requests": self.requests._asdict(),
            "hours": self.hours,
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class Stretch:
    """One stage under our controller."""

    stage: str
    entered: Share
    passed: Share
    requests: Needed
    """Of those that passed: in scope, in this stage."""

    def as_json(self) -> dict[str, Any]:
        """Give the figures by name."""
        return {
            "stage": self.stage,
            "entered": self.entered.as_json(),
            "passed": self.passed.as_json(),
            "requests": self.requests._asdict(),
        }


@dataclass(frozen=True, slots=True)
class Summary:
    """One scenario: every party, and our way through the stages."""

    setting: Setting
    replicates: int
    rows: tuple[Row, ...]
    stretches: tuple[Stretch, ...]

    @classmethod
    def of(cls, setting: Setting, outcomes: Iterable[Outcome]) -> Self:
        """Add up the outcomes of any number of replicates."""
        by_party: dict[Party, list[Outcome]] = {party: [] for party in PARTIES}
        for outcome in outcomes:
            by_party[outcome.party].append(outcome)
        ours = by_party[WE]
        return cls(
            setting,
            len(ours),
            tuple(_row(party, found, setting) for party, found in by_party.items() if found),
            tuple(_stretch(setting, index, ours) for index in range(len(setting.plan.stages))),
        )

    def row(self, party: Party) -> Row:
        """Give one party's figures."""
        return next(row for row in self.rows if row.party == party)

    def as_json(self) -> dict[str, Any]:
        """Give the figures by name."""
        world = self.setting.world
        return {
            "scenario": self.setting.scenario.name,
            "told": self.setting.scenario.told,
            "harms": list(self.setting.harms),
            "barrier": _barrier(self.setting),
            "replicates": self.replicates,
            "rps": world.rps,
            "incumbent": asdict(world.incumbent),
            "candidate": asdict(world.candidate),
            "parties": [row.as_json() for row in self.rows],
            "stages": [stretch.as_json() for stretch in self.stretches],
        }


def _barrier(setting: Setting) -> str | None:
    place = setting.barrier
    return None if place is None else setting.plan.stages[place].name


def _row(party: Party, found: Sequence[Outcome], setting: Setting) -> Row:
    n = len(found)
    ends = Multiset(one.end for one in found)
    barrier = setting.barrier
    through = None
    if barrier is not None:
        through = Share(sum(one.end == "promoted" or one.stage > barrier for one in found), n)
    decided = [one for one in found if one.end in ("promoted", "rolled_back")]
    hours = _quantile([one.seconds / 3600 for one in decided], n, 0.5)
    return Row(
        party=party,
        promoted=Share(ends["promoted"], n),
        rolled_back=Share(ends["rolled_back"], n),
        inconclusive=Share(ends["held"] + ends["undecided"], n),
        let_through=through,
        requests=_needed([one.requests for one in decided], n),
        hours=hours,
        why=dict(Multiset(f"{one.end}: {one.why}" for one in found).most_common(5)),
    )


def _stretch(setting: Setting, index: int, ours: Sequence[Outcome]) -> Stretch:
    entered = sum(one.stage >= index for one in ours)
    passed = [one.passed[index] for one in ours if len(one.passed) > index]
    name = setting.plan.stages[index].name
    needed = _needed(passed, len(passed))
    return Stretch(name, Share(entered, len(ours)), Share(len(passed), entered), needed)


def _needed(found: Sequence[float], of: int) -> Needed:
    median, p90 = (_quantile(found, of, q) for q in (0.5, 0.9))
    return Needed(None if median is None else round(median), None if p90 is None else round(p90))


def _quantile(found: Sequence[float], of: int, q: float) -> float | None:
    """Give the nearest-rank quantile, where the `of - len(found)` others lie above all."""
    rank = max(1, math.ceil(q * of))
    return sorted(found)[rank - 1] if rank <= len(found) else None
