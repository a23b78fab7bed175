"""Which figure is tested how, in which stage: the table of the judge's statistics as code. Pure.

A metric has one or two *forms*: on pairs (the same request asked of both arms) and on the split
(clients' requests, by assigned arm). Where a stage has both, their e-values are averaged, which is
valid under any dependence; so what decides does not depend on which form happens to speak first.
Errors of answers are fine where they are rare *or* about as many as the incumbent's: two claims, of
which one suffices, so the average certifies, and only the least of the opposites is a failure.

The constants are the bets of the gate, that the candidate is good enough; `GUARD` holds those that
it is not. The guard weighs errors against equality (or `rollback_error_ratio`), and answers against
the same margin as the gate: what the plan tolerates must not be rolled back for being there.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Final, Literal, NamedTuple

from rollout.gates import QUANTILES, GuardMetric
from rollout.judging.bets import Bet, Difference, Events, Share, SplitDifference
from rollout.judging.readings import Reading
from rollout.plan import Plan, Stage
from rollout.verdict import Per

_LEAST_T_OPT: Final = 20.0
_CENTRE: Final = (0.01, 0.99)


class Form(NamedTuple):
    """One way to measure a metric. `wide` asks for the margin of a single stratum."""

    name: Literal["paired", "split", "rate"]
    splits: bool
    """Whether it relies on the split being the one intended."""
    applies: Callable[[Stage], bool]
    bet: Callable[[Plan, Stage, bool], Bet]
    counts: Callable[[Reading, Plan], tuple[int, ...]]
    labelled: bool = False
    """Whether it also relies on truths coming equally often for both arms."""


class Metric(NamedTuple):
    """What is tested, in words, and how."""

    title: str
    forms: tuple[Form, ...]
    over_stages: bool
    """Whether evidence is multiplied over stages; what depends on load is not."""
    either: bool = False
    """Whether its forms are different claims of which one suffices: it fails when all do."""


def _mirrors(stage: Stage) -> bool:
    return stage.mirrors


def _splits(stage: Stage) -> bool:
    return stage.splits


def _serves(stage: Stage) -> bool:
    return stage.mode == "ab"


def _always(_: Stage) -> bool:
    return True


def t_opt(stage: Stage) -> float:
    """Give the sample at which intervals are tightest: what the stage asks for at least."""
    wanted = stage.min_pairs if stage.mode == "shadow" else stage.min_requests * stage.weight / 100
    return max(_LEAST_T_OPT, float(wanted))


# --- errors --------------------------------------------------------------------------------------


def _rate(plan: Plan, stage: Stage, *, above: bool) -> Share:
    return Share(
        limit=plan.max_error_rate / 100,
        above=above,
        names=("candidate_failed", "candidate_fine"),
        what="the candidate's error rate",
        t_opt=t_opt(stage),
        per="pairs" if stage.mode == "shadow" else "candidate requests",
    )


def _rate_form(*, above: bool) -> Form:
    return Form(
        "rate",
        splits=False,
        applies=_always if above else _serves,
        bet=lambda plan, stage, _wide: _rate(plan, stage, above=above),
        counts=lambda reading, _plan: reading.attempts,
    )


def _split_errors(*, above: bool) -> Form:
    def bet(plan: Plan, stage: Stage, _wide: bool) -> Events:
        return Events(
            share=stage.weight / 100,
            ratio=plan.rollback_error_ratio if above else plan.error_ratio,
            above=above,
            names=("candidate_failed", "incumbent_failed", "others"),
            what="errors per request",
            t_opt=_LEAST_T_OPT,
        )

    def counts(reading: Reading, _: Plan) -> tuple[int, ...]:
        mine, theirs = reading.errors("candidate"), reading.errors("incumbent")
        return mine, theirs, reading.requests - mine - theirs

    return Form("split", splits=True, applies=_splits, bet=bet, counts=counts)


def _paired_error_margin(plan: Plan, _stage: Stage, _wide: bool) -> Difference:
    return Difference(
        margin=plan.error_margin / 100,
        above=True,
        names=("incumbent_alone_failed", "candidate_alone_failed", "alike"),
        what="errors",
    )


def _discordant_errors(plan: Plan, _stage: Stage, _wide: bool) -> Events:
    return Events(
        share=0.5,
        ratio=plan.rollback_error_ratio,
        above=True,
        names=("candidate_alone_failed", "incumbent_alone_failed", "alike"),
        what="errors alone",
        t_opt=_LEAST_T_OPT,
        per="pairs",
    )


def _worse_first(reading: Reading, name: str) -> tuple[int, ...]:
    pairs = reading.paired_bad(name)
    return pairs.worse, pairs.better, pairs.alike


# --- latency -------------------------------------------------------------------------------------


def _budget_form(*, above: bool) -> Form:
    def bet(plan: Plan, stage: Stage, _wide: bool) -> Share:
        return Share(
            limit=1 - QUANTILES[plan.latency_quantile],
            above=above,
            names=("over_budget", "in_budget"),
            what=f"the part over {1e3 * plan.latency_budget_s:g} ms",
            t_opt=t_opt(stage),
            per="pairs" if stage.mode == "shadow" else "candidate requests",
        )

    def counts(reading: Reading, _: Plan) -> tuple[int, ...]:
        return reading.slow("budget")

    return Form("rate", splits=False, applies=_always, bet=bet, counts=counts)


@cache
def relative(mark: str) -> Metric:
    """Compare the arms at a frozen quantile: the candidate over (1+d)x, the incumbent over x."""

    def bet(share: float, per: Per) -> Events:
        return Events(
            share=share,
            ratio=1,
            above=False,
            names=("candidate_over", "incumbent_over", "others"),
            what=f"requests over its side of the mark {mark}",
            t_opt=_LEAST_T_OPT,
            per=per,
        )

    def split_counts(reading: Reading, _: Plan) -> tuple[int, ...]:
        mine, theirs = reading.over("candidate", mark), reading.over("incumbent", mark)
        return mine, theirs, reading.requests - mine - theirs

    paired = Form(
        "paired",
        splits=False,
        applies=_mirrors,
        bet=lambda _plan, _stage, _wide: bet(0.5, "pairs"),
        counts=lambda reading, _plan: _worse_first(reading, f"over.{mark}"),
    )
    split = Form(
        "split",
        splits=True,
        applies=_splits,
        bet=lambda _plan, stage, _wide: bet(stage.weight / 100, "requests"),
        counts=split_counts,
    )
    return Metric(f"latency {mark} against the incumbent", (paired, split), over_stages=False)


# --- answers -------------------------------------------------------------------------------------


def _hit_margin(plan: Plan, *, wide: bool) -> float:
    return (plan.stratum_margin if wide else plan.hit_margin) / 100


def _paired_hits(*, above: bool) -> Form:
    def bet(plan: Plan, _stage: Stage, wide: bool) -> Difference:
        return Difference(
            margin=_hit_margin(plan, wide=wide),
            above=above,
            names=("candidate_alone_hit", "incumbent_alone_hit", "alike"),
            what=f"Hit@{plan.gate_hit}",
            per="labelled pairs",
        )

    return Form(
        "paired",
        splits=False,
        applies=_mirrors,
        bet=bet,
        counts=lambda reading, plan: reading.paired_hits(plan.gate_hit),
    )


def _split_hits(*, above: bool) -> Form:
    def bet(plan: Plan, stage: Stage, wide: bool) -> SplitDifference:
        low, high = _CENTRE
        centre = plan.targets.get(plan.gate_hit, 50) / 100
        return SplitDifference(
            pi=stage.weight / 100,
            centre=min(max(centre, low), high),
            margin=_hit_margin(plan, wide=wide),
            above=above,
            names=("candidate_hit", "candidate_missed", "incumbent_hit", "incumbent_missed"),
            what=f"Hit@{plan.gate_hit}",
        )

    return Form(
        "split",
        splits=True,
        applies=_splits,
        bet=bet,
        counts=lambda reading, plan: reading.split_hits(plan.gate_hit),
        labelled=True,
    )


@cache
def target(k: int) -> Metric:
    """Compare the candidate's Hit@k with its target."""

    def bet(plan: Plan, stage: Stage, _wide: bool) -> Share:
        return Share(
            limit=plan.targets[k] / 100,
            above=True,
            names=("hit", "missed"),
            what=f"the candidate's Hit@{k}",
            t_opt=t_opt(stage),
            per="labelled pairs" if stage.mode == "shadow" else "labelled candidate requests",
        )

    form = Form("rate", False, _always, bet, lambda reading, _plan: reading.hits(k))
    return Metric(f"target of Hit@{k}", (form,), over_stages=True)


PAIRED_ERRORS: Final = Metric(
    "paired errors",
    (
        Form(
            "paired",
            splits=False,
            applies=_mirrors,
            bet=_paired_error_margin,
            counts=lambda reading, _plan: reading.paired_bad("error"),
        ),
    ),
    over_stages=True,
)
ERRORS: Final = Metric(
    "errors",
    (_rate_form(above=False), _split_errors(above=False)),
    over_stages=True,
    either=True,
)
LATENCY_BUDGET: Final = Metric("latency budget", (_budget_form(above=False),), over_stages=False)
HITS: Final = Metric("Hit@k", (_paired_hits(above=True), _split_hits(above=True)), over_stages=True)

GUARD: Final[Mapping[GuardMetric, Metric]] = {
    "error_rate": Metric("error rate", (_rate_form(above=True),), over_stages=True),
    "paired_errors": Metric(
        "paired errors",
        (
            Form(
                "paired",
                splits=False,
                applies=_mirrors,
                bet=_discordant_errors,
                counts=lambda reading, _plan: _worse_first(reading, "error"),
            ),
        ),
        over_stages=True,
    ),
    "errors": Metric("errors", (_split_errors(above=True),), over_stages=True),
    "latency_budget": Metric("latency budget", (_budget_form(above=True),), over_stages=False),
    "hits": Metric("Hit@k", (_paired_hits(above=False), _split_hits(above=False)), True),
}
"""What the rollback guard weighs: bets that the candidate is worse than the plan allows."""
