"""What may be the matter with a candidate, by name. Pure.

A scenario is told relative to a plan: a regression lies well beyond what the plan tolerates, and a
`margin-...` scenario exactly at it, where a gate is most likely to open wrongly. So what a
simulation calls false follows from the plan's own margins.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from scipy import special

from rollout.gates import QUANTILES, Required
from rollout.plan import Plan
from rollout.simulate.world import (
    AT_ONCE,
    LATE,
    SIGMA,
    Arm,
    Concord,
    Drift,
    World,
    keyed_groups,
    plain_groups,
)
from rollout.snapshot import HITS

Metric = Literal["errors", "latency", "hits"]
Size = Literal["none", "margin", "beyond", "better"]
REQUIREMENTS: Final[dict[Metric, frozenset[Required]]] = {
    "errors": frozenset({"paired_errors", "errors"}),
    "latency": frozenset({"latency_budget"}),
    "hits": frozenset({"hits"}),
}
"""The checks of a gate that must keep a candidate back that is worse in this."""
BUSIEST_PER_HOUR: Final = 200.0
"""Requests of one of the busiest keys."""
HEADROOM: Final = 0.75
"""The incumbent's latency quantile, as a share of the plan's budget for it."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One name of the list: what it is, and how it differs from two equal arms."""

    name: str
    told: str
    metric: Metric = "errors"
    """What it is about: the one metric that the rivals watch, which is kindest to them."""
    size: Size = "none"
    drift: Drift = "none"
    sticky: bool = False
    late: bool = False


SCENARIOS: Final = {
    one.name: one
    for one in (
        Scenario("aa", "Both arms are the same."),
        Scenario(
            "regression-errors",
            "The candidate fails at least twice as often as the plan tolerates.",
            size="beyond",
        ),
        Scenario(
            "regression-latency",
            "Three times as many answers of the candidate are over the budget as may be.",
            metric="latency",
            size="beyond",
        ),
        Scenario(
            "regression-hits",
            "The candidate's Hit@k is lower by twice the plan's margin.",
            metric="hits",
            size="beyond",
        ),
        Scenario(
            "margin-errors",
            "The candidate fails exactly as often as just too often: the hardest to keep back.",
            size="margin",
        ),
        Scenario(
            "margin-latency",
            "The candidate's latency quantile lies exactly at the budget.",
            metric="latency",
            size="margin",
        ),
        Scenario(
            "margin-hits",
            "The candidate's Hit@k is lower by exactly the plan's margin.",
            metric="hits",
            size="margin",
        ),
        Scenario(
            "non-inferior",
            "The candidate is right more often (7 points), 20 % slower, and fails as often.",
            size="better",
        ),
        Scenario(
            "ramp-drift",
            "Equal arms; while the weights rise, errors triple and hits fall for both.",
            drift="trend",
        ),
        Scenario(
            "ar1-drift",
            "Equal arms under a shared drift (AR(1) by the minute): errors between a third and "
            "three times the base.",
            drift="ar1",
        ),
        Scenario(
            "sticky-keys",
            "Equal arms and sticky keys: few are busy, half are worse than the others.",
            sticky=True,
        ),
        Scenario(
            "label-delay",
            "Equal arms; truths come late, and misses later than hits.",
            metric="hits",
            late=True,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Levels:
    """What a person may set. Shares are between 0 and 1; None follows from the plan."""

    rps: float = 20.0
    error: float = 0.001
    """Of the incumbent."""
    hits: tuple[float, float, float] = (0.30, 0.593, 0.70)
    """The incumbent's Hit@1/5/10."""
    candidate_error: float | None = None
    candidate_hit: float | None = None
    """The candidate's Hit@gate_hit."""
    slower: float | None = None
    """The candidate's latency over the incumbent's."""
    labelled: float = 0.95
    """Share of the answered requests that get a truth."""
    concord: Concord = field(default_factory=Concord)


@dataclass(frozen=True, slots=True)
class Setting:
    """A scenario made concrete for one plan."""

    scenario: Scenario
    plan: Plan
    """The plan as it is simulated: it goes on by itself, and is sticky where the scenario is."""
    world: World
    harms: tuple[Metric, ...]
    """What is as bad as the plan tolerates or worse: to promote that is false. Empty: to roll back
    is false."""

    @property
    def barrier(self) -> int | None:
        """The first stage whose gate must keep the candidate back; None where none must."""
        wanted = frozenset[Required]().union(*(REQUIREMENTS[harm] for harm in self.harms))
        for index, stage in enumerate(self.plan.stages):
            if wanted & set(stage.required):
                return index
        return None


def setting(plan: Plan, scenario: Scenario, levels: Levels) -> Setting:
    """Make a scenario concrete.

    The incumbent's latency is lognormal with its quantile at three quarters of the budget.
    """
    if scenario.sticky:
        plan = plan.model_copy(update={"unit": "key"})
    plan = plan.model_copy(update={"on_pass": "advance", "strata": None})  # those of the world
    z = float(special.ndtri(QUANTILES[plan.latency_quantile]))
    incumbent = Arm(
        error=levels.error,
        hits=levels.hits,
        median_s=HEADROOM * plan.latency_budget_s / math.exp(SIGMA * z),
    )
    candidate = _candidate(plan, scenario, levels, incumbent)
    world = World(
        rps=levels.rps,
        incumbent=incumbent,
        candidate=candidate,
        groups=keyed_groups(BUSIEST_PER_HOUR) if plan.unit == "key" else plain_groups(),
        concord=levels.concord,
        drift=scenario.drift,
        arrivals=LATE if scenario.late else AT_ONCE,
        labelled=levels.labelled,
    )
    return Setting(scenario, plan, world, harms(plan, world))


def tolerated_error(plan: Plan, error: float) -> float:
    """Give the candidate's error rate that every test of errors must already keep back.

    Paired: `error_margin` points more; served: `error_ratio` times as often and `max_error_rate`.
    """
    return max(error + plan.error_margin / 100, error * plan.error_ratio, plan.max_error_rate / 100)


def harms(plan: Plan, world: World) -> tuple[Metric, ...]:
    """Say in what the candidate is as bad as the plan tolerates, or worse."""
    found: list[Metric] = []
    if world.candidate.error >= tolerated_error(plan, world.incumbent.error) - _EPSILON:
        found.append("errors")
    over = 1 - QUANTILES[plan.latency_quantile]
    if _over_budget(plan, world.candidate.median_s) >= over - _EPSILON:
        found.append("latency")
    place = _place(plan)
    lower = world.incumbent.hits[place] - world.candidate.hits[place]
    if lower >= plan.hit_margin / 100 - _EPSILON:
        found.append("hits")
    return tuple(found)


_EPSILON: Final = 1e-9
_BEYOND: Final = 2.0
_OVER_BEYOND: Final = 3.0
_BETTER: Final = 0.072
_SLOWER: Final = 1.2


def _candidate(plan: Plan, scenario: Scenario, levels: Levels, incumbent: Arm) -> Arm:
    size, metric = scenario.size, scenario.metric
    arm = incumbent
    if size in ("margin", "beyond") and metric == "errors":
        tolerated = tolerated_error(plan, incumbent.error)
        arm = replace(arm, error=min(tolerated * (_BEYOND if size == "beyond" else 1), 1.0))
    if size in ("margin", "beyond") and metric == "latency":
        over = (1 - QUANTILES[plan.latency_quantile]) * (_OVER_BEYOND if size == "beyond" else 1)
        z = float(special.ndtri(1 - min(over, _MOST_OVER)))
        arm = replace(arm, median_s=plan.latency_budget_s / math.exp(SIGMA * z))
    if size in ("margin", "beyond") and metric == "hits":
        points = plan.hit_margin / 100 * (_BEYOND if size == "beyond" else 1)
        arm = replace(arm, hits=_moved(arm.hits, -points))
    if size == "better":
        arm = replace(arm, hits=_moved(arm.hits, _BETTER), median_s=arm.median_s * _SLOWER)
    if levels.candidate_error is not None:
        arm = replace(arm, error=levels.candidate_error)
    if levels.candidate_hit is not None:
        arm = replace(arm, hits=_moved(arm.hits, levels.candidate_hit - arm.hits[_place(plan)]))
    if levels.slower is not None:
        arm = replace(arm, median_s=incumbent.median_s * levels.slower)
    return arm


_MOST_OVER: Final = 0.9


def _place(plan: Plan) -> int:
    """Say which of Hit@1/5/10 the gate compares."""
    return HITS.index(plan.gate_hit)


def _moved(hits: tuple[float, float, float], by: float) -> tuple[float, float, float]:
    one, five, ten = (min(max(share + by, 0.0), 1.0) for share in hits)
    return one, five, ten


def _over_budget(plan: Plan, median_s: float) -> float:
    return float(special.ndtr(-math.log(plan.latency_budget_s / median_s) / SIGMA))
