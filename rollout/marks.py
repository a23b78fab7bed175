"""The latencies that a rollout counts against, frozen when it begins. Pure.

A latency border that moved with the traffic would test nothing, so each is a number of seconds that
stays: the plan's budget, and the incumbent's quantiles as they were before the rollout, with the
plan's margin on the candidate's side.
"""

from collections.abc import Mapping
from typing import Final

from rollout.gates import QUANTILES, LatencyQuantile
from rollout.latencies import quantile
from rollout.plan import Plan
from rollout.snapshot import Mark, MarkName, latency_of

BUDGET: Final = "budget"
_LEAST_BEYOND: Final = 20
"""A quantile is known when at least so many observations lie beyond it."""


def marks_of(plan: Plan, incumbent: Mapping[LatencyQuantile, float]) -> dict[MarkName, Mark]:
    """Freeze the marks of a plan; `incumbent` holds the quantiles that are known, in seconds."""
    budget = Mark(incumbent=plan.latency_budget_s, candidate=plan.latency_budget_s)
    return {BUDGET: budget} | {
        name: Mark(incumbent=incumbent[name], candidate=incumbent[name] * (1 + margin / 100))
        for name, margin in plan.latency_margins.items()
        if name in incumbent
    }


def unknown_marks(plan: Plan, marks: Mapping[MarkName, Mark]) -> tuple[str, ...]:
    """List the marks that a stage of the plan requires and that are not known."""
    if not any("latency_relative" in stage.required for stage in plan.stages):
        return ()
    return tuple(name for name in plan.latency_margins if name not in marks)


def quantiles(bins: Mapping[int, int]) -> dict[LatencyQuantile, float]:
    """Give the quantiles (seconds) of a latency histogram that it has enough observations for."""
    n = sum(bins.values())
    return {
        name: latency_of(bin_)
        for name, q in QUANTILES.items()
        if n * (1 - q) >= _LEAST_BEYOND
        for bin_ in [quantile(bins, q)]
        if bin_ is not None
    }
