"""The gate's checks: what a stage must have shown, one by one. Pure.

What is required decides; what is not is reported beside it, with the same evidence. A test passes
when its e-value reaches 1/alpha_promote, and every required test must: so no correction for their
number is needed (the chance that all of them are wrong is no larger than that one is). It is a FAIL
when the opposite is proven at alpha_rollback.
"""

import math
from collections.abc import Collection, Iterator, Sequence

from rollout import wording
from rollout.gates import Required
from rollout.judging.bets import Floor
from rollout.judging.forms import (
    ERRORS,
    HITS,
    LATENCY_BUDGET,
    PAIRED_ERRORS,
    Form,
    Metric,
    relative,
    target,
)
from rollout.judging.telling import evidence, progress, said, share
from rollout.judging.trials import LN_E_RATIO, Tested, Trial, weigh
from rollout.plan import Plan
from rollout.snapshot import latency_of
from rollout.tally import percent
from rollout.verdict import Check, Kind
from rollout.wording import DROPPED, span

# --- whether there is enough, and whether it can be measured -------------------------------------


def enough(trial: Trial, elapsed_s: float) -> Iterator[Check]:
    """Look at the stage's minima: duration, requests, and pairs where it mirrors."""
    stage = trial.stage
    least = span(stage.min_duration_s)
    long_enough = elapsed_s >= stage.min_duration_s
    told = progress(span(elapsed_s), least, f"in the stage {stage.name}", enough=long_enough)
    yield Check(
        name="minimum duration",
        kind="PASS" if long_enough else "INCONCLUSIVE",
        observed=span(elapsed_s),
        required=f"at least {least}",
        reason=told,
        lack=max(0.0, stage.min_duration_s - elapsed_s),
    )
    # no data never passes, whatever the plan asks for
    yield _minimum("requests", trial.all.requests, max(1, stage.min_requests), "requests in scope")
    if stage.mirrors:
        what = "requests that both arms answered"
        yield _minimum("pairs", trial.all.pairs, stage.min_pairs, what)


def _minimum(name: str, found: int, need: int, what: str) -> Check:
    fine = found >= need
    return Check(
        name=f"minimum {name}",
        kind="PASS" if fine else "INCONCLUSIVE",
        observed=f"{found}",
        required=f"at least {need}",
        reason=progress(found, need, what, enough=fine),
        lack=max(0, need - found),
    )


def sound(trial: Trial, plan: Plan, marks: Collection[str]) -> Iterator[Check]:
    """Look at what the measuring itself rests on: counts that agree, splits as intended."""
    told = [*trial.contradictions, *_uncounted(trial, plan, marks)]
    if told:
        yield Check(
            name="counts",
            kind="ERROR",
            observed="contradictory",
            required="consistent",
            reason=f"the counts contradict each other: {'; '.join(told)}",
        )
    stage = trial.stage
    if stage.splits:
        counts = (trial.all.assigned("incumbent"), trial.all.assigned("candidate"))
        found = f"{counts[1]} of {sum(counts)} {_units(plan)} were assigned to the candidate"
        yield _ratio("sample ratio", counts, stage.weight, trial.ln_e_split, found)
    sample = stage.weight if stage.mode == "shadow" else stage.shadow_sample
    if stage.mirrors:
        counts = (trial.all.requests - trial.all.mirrors, trial.all.mirrors)
        found = f"{counts[1]} of {sum(counts)} {_units(plan)} were mirrored"
        yield _ratio("mirror ratio", counts, sample, trial.ln_e_mirrors, found)
    labels = (trial.all.labels("incumbent"), trial.all.labels("candidate"))
    if stage.splits and any(labels):
        found = f"{labels[1]} of {sum(labels)} labels are of the candidate's requests"
        yield _ratio("label ratio", labels, stage.weight, trial.ln_e_labels, found)


def _units(plan: Plan) -> str:
    return "keys" if plan.unit == "key" else "requests"


def _ratio(name: str, counts: tuple[int, int], weight: float, ln_e: float, found: str) -> Check:
    broken = ln_e >= LN_E_RATIO
    return Check(
        name=name,
        kind="ERROR" if broken else "PASS" if sum(counts) else "INCONCLUSIVE",
        observed=share(percent(counts[1], sum(counts))),
        required=f"{share(weight)}, e-value below 1000",
        reason=f"{found}, {share(weight)} intended: e-value {wording.evidence(ln_e)}",
    )


def _uncounted(trial: Trial, plan: Plan, marks: Collection[str]) -> Iterator[str]:
    """Compare the exact counter at the budget with the histogram, which any gateway fills."""
    if "budget" not in marks or trial.stage.mode == "shadow":
        return
    clearly = 1.05 * plan.latency_budget_s  # a bin is 2 % wide
    slow = sum(count for bin_, count in trial.requests.latencies() if latency_of(bin_) > clearly)
    over = trial.requests.over("candidate", "budget")
    if slow > over:
        yield f"{slow} latencies of the candidate over the budget, of which {over} were counted"


def coverage(trial: Trial, plan: Plan) -> Iterator[tuple[Required, Check]]:
    """Look for comparisons and truths that were lost."""
    if trial.stage.mirrors:
        seen, intended = trial.requests.pairs, trial.requests.mirrors
        found = percent(seen, intended)
        kind = _covered(found, plan.min_mirror_coverage)
        why = ", ".join(
            f"{count} {DROPPED.get(name, name)}" for name, count in trial.requests.dropped().items()
        )
        yield (
            "mirror_coverage",
            Check(
                name="mirror coverage",
                kind=kind,
                observed=share(found),
                required=f"at least {share(plan.min_mirror_coverage)}",
                reason=f"{seen} of {intended} intended mirrors were seen to their end"
                + (f" (dropped: {why})" if why and kind == "ERROR" else ""),
            ),
        )
    reading, what = trial.requests, "labels"
    if trial.stage.mode == "shadow":
        labels, due, what = reading.labelled_pairs, reading.pairs_due, "labels of pairs"
    else:
        labels = reading.labels("incumbent") + reading.labels("candidate")
        due = reading.due("incumbent") + reading.due("candidate")
    found = percent(labels, due)
    yield (
        "label_coverage",
        Check(
            name="label coverage",
            kind=_covered(found, plan.min_label_coverage),
            observed=share(found),
            required=f"at least {share(plan.min_label_coverage)}",
            reason=f"{labels} of {due} awaited {what} have come",
        ),
    )


def _covered(found: float | None, need: float) -> Kind:
    if found is None:
        return "INCONCLUSIVE"
    return "PASS" if found >= need else "ERROR"


# --- what must be shown --------------------------------------------------------------------------


def tests(
    plan: Plan, trials: Sequence[Trial], marks: Collection[str]
) -> Iterator[tuple[Required, Check]]:
    """Test everything that the present stage can measure, required or not."""
    stage = trials[-1].stage
    if stage.mirrors:
        yield "paired_errors", _tested(PAIRED_ERRORS, "paired_errors", plan, trials)
    if stage.mode == "ab":
        yield "errors", _tested(ERRORS, "errors", plan, trials)
    if "budget" in marks:
        yield "latency_budget", _tested(LATENCY_BUDGET, "latency_budget", plan, trials)
    else:
        yield "latency_budget", _unmarked("latency budget", "the budget", "ERROR")
    if stage.mirrors or stage.splits:
        yield from _comparisons(plan, trials, marks)
    for k in sorted(plan.targets):
        if 0 < plan.targets[k] < 100:  # noqa: PLR2004 - percent: the ends need no test
            yield "targets", _tested(target(k), "targets", plan, trials)
    if stage.mirrors:
        for name, floor in plan.agreement_floor.items():
            yield "agreement", _agreement(name, floor, plan, trials)


def _comparisons(
    plan: Plan, trials: Sequence[Trial], marks: Collection[str]
) -> Iterator[tuple[Required, Check]]:
    """Test the arms against each other."""
    for stratum in (None, *_major(trials[-1], plan)):
        yield "hits", _tested(HITS, "hits", plan, trials, stratum)
    for mark in plan.latency_margins:
        if mark in marks:
            check = _tested(relative(mark), "latency_relative", plan, trials)
        else:
            check = _unmarked(f"latency {mark} against the incumbent", f"the incumbent's {mark}")
        yield "latency_relative", check


def _major(trial: Trial, plan: Plan) -> list[str]:
    """List the strata that hold enough of the stage's traffic to be looked at by themselves."""
    total = trial.all.requests
    if not total:
        return []
    return [
        stratum
        for stratum in plan.stratum_names
        if 100 * trial.reading(stratum).requests >= plan.major_stratum * total
        and trial.reading(stratum).requests
    ]


def _unmarked(name: str, what: str, kind: Kind = "INCONCLUSIVE") -> Check:
    return Check(
        name=name,
        kind=kind,
        observed="not measured",
        required="a mark frozen at start",
        reason=f"{what} was not known when the rollout was started, so nothing is counted over it",
    )


def _agreement(name: str, floor: float, plan: Plan, trials: Sequence[Trial]) -> Check:
    bins = trials[-1].all.agreement(name)
    order = tuple(sorted(bins))

    form = Form(
        "paired",
        splits=False,
        applies=lambda stage: stage.mirrors,
        bet=lambda _plan, _stage, _wide: Floor(floor, above=True, bins=order, what=name),
        counts=lambda _reading, _plan: tuple(bins[bin_] for bin_ in order),
    )
    return _tested(Metric(f"agreement {name}", (form,), over_stages=False), name, plan, trials)


def _tested(
    metric: Metric,
    name: str,
    plan: Plan,
    trials: Sequence[Trial],
    stratum: str | None = None,
) -> Check:
    good = weigh(metric, trials, stratum)
    bad = weigh(metric, trials, stratum, opposite=True)
    title = metric.title.replace("@k", f"@{plan.gate_hit}")
    title = f"{title} of {stratum} vectors" if stratum else title
    bar, breach = -math.log(plan.alpha_promote), -math.log(plan.alpha_rollback)
    kind = _kind(good, bad, bar, breach)
    if good.leading is None:
        raise ValueError(f"{title} is not measured in the stage {trials[-1].stage.name}")
    seen = evidence(good, bar, metric=name, stage=trials[-1].stage.name, stratum=stratum)
    bet = good.leading.bet
    if not any(map(any, (good.leading.counts, *(other.counts for other in good.others)))):
        told = "nothing was counted yet"
    else:
        found = wording.evidence(good.ln_e)
        told = f"{said(good)}: e-value {found} ({math.exp(bar):.4g} passes)"
    if kind == "FAIL":
        told += f", and the opposite is proven with {wording.evidence(bad.ln_e)}"
    elif kind == "INCONCLUSIVE" and good.ln_e >= bar:
        told += f", but this stage by itself speaks against it with {wording.evidence(bad.here)}"
    elif kind == "INCONCLUSIVE" and seen.needed:
        told += f", about {seen.needed} more {seen.per} to go"
    goals = dict.fromkeys((bet.goal, *(other.bet.goal for other in good.others)))
    observed = "none yet" if seen.estimate is None else f"{seen.estimate:.4g} {bet.told}".rstrip()
    return Check(
        name=title,
        kind=kind,
        observed=observed,
        required=f"{' or '.join(goals)}: e-value {math.exp(bar):.4g}",
        reason=f"{title}: {told}",
        evidence=seen,
    )


def _kind(good: Tested, bad: Tested, bar: float, breach: float) -> Kind:
    if bad.ln_e >= breach:
        return "FAIL"
    return "PASS" if good.ln_e >= bar and bad.here < bar else "INCONCLUSIVE"
