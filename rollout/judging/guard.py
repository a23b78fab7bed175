"""The rollback guard: one average of e-values over everything that may be wrong. Pure.

Its entries are metrics, in all strata and in each; errors and answers are multiplied over stages,
latency is not, because it depends on load: there each stage has entries of its own. Weights are
fixed at birth, by the plan alone, half of them on the entries without a stratum; an entry that has
not started counts 1. A weighted average of e-values is one, under any dependence, so it reaches
1/alpha with a chance of at most alpha, ever, if nothing is wrong. What is latched is the highest
average; an average of highest values would be no e-value.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from rollout import wording
from rollout.gates import GuardMetric
from rollout.judging.forms import GUARD, Form, Metric
from rollout.judging.telling import evidence
from rollout.judging.trials import Side, Tested, Trial
from rollout.plan import Plan
from rollout.verdict import GUARD as NAME
from rollout.verdict import Check, Evidence, Stake, Verdict, combine, e_value

_SHOWN: Final = 3
_CERTAIN: Final = 1e300
"""JSON knows no infinity."""
_RULE: Final = (
    "the average, weighted as fixed by the plan, of the e-values of all entries of the guard; "
    "H0 says that nothing is worse than the plan allows"
)


class Entry(NamedTuple):
    """One thing that the guard looks at."""

    metric: GuardMetric
    form: Form
    stage: str | None
    """None: multiplied over all stages."""
    stratum: str | None
    weight: float


def entries(plan: Plan) -> tuple[Entry, ...]:
    """Lay out the guard of a plan; the weights sum to 1.

    A metric's weight is shared out equally among its forms, and the stages of one that is not
    multiplied. What no stage of the plan can measure has no entry.
    """
    cells: list[tuple[GuardMetric, Form, str | None, float]] = []
    for name, weight in plan.guard.items():
        metric = GUARD[name]
        found = [(form, stage) for form in metric.forms for stage in _stages(plan, metric, form)]
        cells += [(name, form, stage, weight / len(found)) for form, stage in found]
    total = sum(weight for *_, weight in cells)
    strata = plan.stratum_names
    places = [(None, 0.5), *((stratum, 0.5 / len(strata)) for stratum in strata)]
    return tuple(
        Entry(name, form, stage, stratum, weight / total * part)
        for name, form, stage, weight in cells
        for stratum, part in places
    )


def _stages(plan: Plan, metric: Metric, form: Form) -> list[str | None]:
    able = [stage.name for stage in plan.stages if form.applies(stage)]
    if metric.over_stages:
        return [None] if able else []
    return [*able]


def guard(plan: Plan, trials: Sequence[Trial], high: float) -> tuple[Verdict, float]:
    """Say whether the guard fires, and ln of the highest average so far (`high` before this)."""
    stage = trials[-1].stage.name
    weighed = [(entry, _ln_e(entry, trials)) for entry in entries(plan)]
    if not weighed:
        check = _check(plan, stage, 0.0, high, ())
        return combine((check,)), high
    shares = [math.log(entry.weight) + ln_e for entry, ln_e in weighed]
    top = max(shares)
    average = top
    if math.isfinite(top):
        average += math.log(sum(math.exp(one - top) for one in shares))
    high = max(high, average)
    order = sorted(range(len(shares)), key=shares.__getitem__, reverse=True)
    leading = tuple(weighed[place] for place in order[:_SHOWN] if weighed[place][1] > 0)
    shown = tuple(_entry_check(plan, trials, entry, ln_e) for entry, ln_e in leading)
    said = combine((_check(plan, stage, average, high, shown), *shown))
    return said.model_copy(update={"stakes": tuple(_stake(plan, *one) for one in weighed)}), high


def _stake(plan: Plan, entry: Entry, ln_e: float) -> Stake:
    return Stake(
        name=_name(plan, entry),
        stage=entry.stage,
        stratum=entry.stratum,
        weight=entry.weight,
        ln_e=max(-_CERTAIN, min(_CERTAIN, ln_e)),
    )


def _name(plan: Plan, entry: Entry) -> str:
    title = GUARD[entry.metric].title.replace("@k", f"@{plan.gate_hit}")
    return f"{title}, {entry.form.name}"


def _ln_e(entry: Entry, trials: Sequence[Trial]) -> float:
    form, stratum, total = entry.form, entry.stratum, 0.0
    for trial in trials:
        if entry.stage not in (None, trial.stage.name) or not trial.measurable(form):
            continue
        _, counts, ln_e = trial.weighed(form, stratum)
        if any(counts):
            total += ln_e
    return total


def _check(plan: Plan, stage: str, average: float, high: float, shown: tuple[Check, ...]) -> Check:
    bar = -math.log(plan.alpha_rollback)
    fires = high >= bar
    told = (
        f"the guard's average e-value is {wording.evidence(average)} ({math.exp(bar):.4g} fires it)"
    )
    if fires and average < bar:
        told += f", and was {wording.evidence(high)} before"
    if fires and shown:
        told += f"; most of it from {shown[0].reason}"
    return Check(
        name=NAME,
        kind="FAIL" if fires else "PASS",
        observed=f"e-value {wording.evidence(average)}",
        required=f"below {math.exp(bar):.4g}",
        reason=told,
        evidence=Evidence(
            metric="guard",
            stage=stage,
            counts={},
            ln_e=average,
            e_value=e_value(average),
            threshold=e_value(bar),
            rule=_RULE,
            needed=None,
        ),
    )


def _entry_check(plan: Plan, trials: Sequence[Trial], entry: Entry, ln_e: float) -> Check:
    """Show one entry. It is reported: what fires is the average."""
    bar = -math.log(plan.alpha_rollback)
    trial = next(
        trial
        for trial in reversed(trials)
        if entry.stage in (None, trial.stage.name) and trial.measurable(entry.form)
    )
    bet, counts, _ = trial.weighed(entry.form, entry.stratum)
    side = Side(entry.form.name, bet, counts, ln_e)
    tested = Tested(ln_e, ln_e, leading=side, size=bet.size(counts))
    seen = evidence(tested, bar, metric=entry.metric, stage=trial.stage.name, stratum=entry.stratum)
    where = f" of {entry.stratum} vectors" if entry.stratum else ""
    name = f"{_name(plan, entry)}{where}"
    found = wording.evidence(ln_e)
    return Check(
        name=f"guard: {name}",
        kind="FAIL" if ln_e >= bar else "INCONCLUSIVE",
        observed=f"e-value {found}",
        required=f"weight {100 * entry.weight:.3g} %",
        reason=f"{name} in {trial.stage.name} ({bet.said(counts)}): e-value {found}",
        decides=False,
        evidence=seen,
    )
