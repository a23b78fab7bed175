"""The stages visited under one evidence epoch, ready to be tested. Pure.

A stage whose counts contradict each other proves nothing, and where the split was not the one
intended nothing that relies on the split does: their factors are 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple

from rollout.judging.bets import Bet
from rollout.judging.evidence import ln_e_ratio
from rollout.judging.forms import Form, Metric
from rollout.judging.readings import Reading, Seen
from rollout.plan import Plan, Stage

LN_E_RATIO: Final = math.log(1000)
"""Evidence that traffic is not split as intended."""


_KEPT: Final = 512
"""Results of a trial that are kept: more than a plan has, unless its forms are made anew."""


class Weighed(NamedTuple):
    """One form's evidence in one place."""

    bet: Bet
    counts: tuple[int, ...]
    ln_e: float


class Trial:
    """One visited stage. What was computed of it is kept: its counts do not change."""

    def __init__(self, seen: Seen, plan: Plan) -> None:
        self.stage: Stage = seen.stage
        self.plan = plan
        self._seen = seen
        self._strata = {name: Reading(seen, plan.unit, (name,)) for name in plan.stratum_names}
        names = plan.stratum_names
        self.all = Reading(seen, plan.unit, names, tuple(self._strata.values()))
        self.requests = self.all if plan.unit == "request" else Reading(seen, "request", names)
        """Requests even where keys are the unit: for coverage, which is no statistic."""
        self._weighed: dict[tuple[Form, str | None, bool], Weighed] = {}
        self._measurable: dict[Form, bool] = {}

    def reading(self, stratum: str | None) -> Reading:
        """Give the stage's counters in one stratum, or in all."""
        return self.all if stratum is None else self._strata[stratum]

    @cached_property
    def contradictions(self) -> tuple[str, ...]:
        """Counts that cannot both be true. What holds in every stratum holds in their sum."""
        readings = [one for one in self._strata.values() if not one.empty]
        if foreign := {*self._seen.counts.by_stratum, *self._seen.labels.by_stratum} - {
            *self._strata
        }:
            known = ", ".join(self._strata)
            return (f"counted in the strata {', '.join(sorted(foreign))}; the plan has {known}",)
        return tuple(told for reading in readings for told in reading.contradictions())

    @cached_property
    def ln_e_split(self) -> float:
        """Evidence against the intended split of the assignment, as ln E."""
        if not self.stage.splits:
            return 0.0
        counts = (self.all.assigned("incumbent"), self.all.assigned("candidate"))
        return self._ratio(counts)

    @cached_property
    def ln_e_labels(self) -> float:
        """Evidence against truths coming equally often for both arms, as ln E."""
        if not self.stage.splits:
            return 0.0
        return self._ratio((self.all.labels("incumbent"), self.all.labels("candidate")))

    @cached_property
    def ln_e_mirrors(self) -> float:
        """Evidence against the intended sample of mirrors, as ln E."""
        stage, mirrors = self.stage, self.all.mirrors
        sample = stage.weight if stage.mode == "shadow" else stage.shadow_sample
        return self._ratio((self.all.requests - mirrors, mirrors), sample)

    def weighed(self, form: Form, stratum: str | None, *, opposite: bool = False) -> "Weighed":
        """Give the evidence of one form in one place; it is computed once."""
        key = (form, stratum, opposite)
        found = self._weighed.get(key)
        if found is None:
            bet = form.bet(self.plan, self.stage, stratum is not None)
            bet = bet.opposite if opposite else bet
            counts = tuple(form.counts(self.reading(stratum), self.plan))
            if len(self._weighed) >= _KEPT:
                self._weighed.clear()
            ln_e = bet.ln_e(counts) if min(counts, default=0) >= 0 else 0.0  # contradictory
            found = self._weighed[key] = Weighed(bet, counts, ln_e)
        return found

    def measurable(self, form: Form) -> bool:
        """Whether `form` says anything in this stage."""
        found = self._measurable.get(form)
        if found is None:
            if len(self._measurable) >= _KEPT:
                self._measurable.clear()
            found = self._measurable[form] = self._measures(form)
        return found

    def _measures(self, form: Form) -> bool:
        if not form.applies(self.stage) or self.contradictions:
            return False
        split_holds = not form.splits or self.ln_e_split < LN_E_RATIO
        return split_holds and not (form.labelled and self.ln_e_labels >= LN_E_RATIO)

    def _ratio(self, counts: tuple[int, int], percent: float | None = None) -> float:
        share = (self.stage.weight if percent is None else percent) / 100
        if not 0 < share < 1 or min(counts) < 0:
            return 0.0
        return ln_e_ratio(counts, (1 - share, share))


class Side(NamedTuple):
    """One form of what was tested."""

    form: str
    bet: Bet
    counts: tuple[int, ...]
    """In the present stage."""
    ln_e: float
    """Over its stages."""


@dataclass(frozen=True, slots=True)
class Tested:
    """A metric's evidence, of one direction, over the stages that it is multiplied over."""

    ln_e: float
    here: float
    """Of the present stage alone."""
    by_stage: dict[str, float] = field(default_factory=dict)
    leading: Side | None = None
    """The form with the most evidence."""
    others: tuple[Side, ...] = ()
    size: int = 0
    """Observations of the leading form in all its stages."""


def weigh(
    metric: Metric,
    trials: Sequence[Trial],
    stratum: str | None = None,
    *,
    opposite: bool = False,
) -> Tested:
    """Test a metric: the average over its forms of the products over stages.

    Of claims of which one suffices (`Metric.either`) all must be refuted: the least one counts.
    """
    present = trials[-1]
    forms = [form for form in metric.forms if form.applies(present.stage)]
    over = trials if metric.over_stages else trials[-1:]
    found: list[tuple[float, float, int, Side]] = []
    by_stage: dict[str, float] = {}
    for form in forms:
        total, here, size = 0.0, 0.0, 0
        prefix = f"{form.name} " if len(forms) > 1 else ""
        for trial in over:
            if not trial.measurable(form):
                continue
            bet, counts, here = trial.weighed(form, stratum, opposite=opposite)
            total += here
            size += bet.size(counts)
            if metric.over_stages:
                by_stage[f"{prefix}{trial.stage.name}"] = here
        here = here if present.measurable(form) else 0.0
        bet, counts, _ = present.weighed(form, stratum, opposite=opposite)
        found.append((total, here, size, Side(form.name, bet, counts, total)))
    if not found:
        return Tested(0.0, 0.0)
    found.sort(key=lambda one: one[0], reverse=True)
    _, _, size, leading = found[0]
    combined = min if metric.either and opposite else _average
    return Tested(
        ln_e=combined([one[0] for one in found]),
        here=combined([one[1] for one in found]),
        by_stage=by_stage,
        leading=leading,
        others=tuple(one[3] for one in found[1:]),
        size=size,
    )


def _average(logarithms: Sequence[float]) -> float:
    """Give ln of the mean of exp."""
    top = max(logarithms)
    if not math.isfinite(top):
        return top
    return top + math.log(sum(math.exp(one - top) for one in logarithms) / len(logarithms))
