"""The latencies that a rollout counts against: frozen when it begins."""

import pytest

from rollout.machine import begin, live
from rollout.marks import marks_of, quantiles, unknown_marks
from rollout.plan import DEFAULT_PLAN, Plan
from rollout.snapshot import DEFAULT_TIERS, Mark, latency_bin


def test_the_budget_is_the_same_for_both_and_a_quantile_has_the_margin_on_the_candidates_side() -> (
    None
):
    plan = DEFAULT_PLAN.model_copy(update={"latency_margins": {"p95": 20.0, "p99": 50.0}})
    assert marks_of(plan, {"p95": 0.2, "p50": 0.1}) == {
        "budget": Mark(incumbent=1, candidate=1),
        "p95": Mark(incumbent=0.2, candidate=0.2 * 1.2),
    }


def test_a_quantile_is_known_when_enough_lies_beyond_it() -> None:
    few = {latency_bin(0.1): 40}
    assert set(quantiles(few)) == {"p50"}
    many = {latency_bin(0.1): 1900, latency_bin(0.5): 100}
    assert quantiles(many) == {
        "p50": pytest.approx(0.1, rel=0.01),
        "p95": pytest.approx(0.1, rel=0.01),
        "p99": pytest.approx(0.5, rel=0.01),
    }
    assert quantiles({}) == {}


def test_gateways_are_told_the_marks_of_the_record() -> None:
    marks = marks_of(DEFAULT_PLAN, {"p50": 0.05})
    record = begin(DEFAULT_PLAN, DEFAULT_TIERS, id_="r", salt="s", now=0, marks=marks)
    split = live(record)
    assert split is not None
    assert split.marks == marks
    assert begin(DEFAULT_PLAN, DEFAULT_TIERS, id_="r", salt="s", now=0).marks == {
        "budget": Mark(incumbent=1, candidate=1)
    }


def test_a_plan_that_requires_relative_latency_needs_the_incumbents() -> None:
    stages = [stage.model_dump() for stage in DEFAULT_PLAN.stages]
    asking = [{**stages[1], "require": ["latency_relative"]}, *stages[2:]]
    plan = Plan.model_validate({**DEFAULT_PLAN.model_dump(), "stages": asking})
    assert unknown_marks(plan, marks_of(plan, {"p50": 0.1})) == ("p95",)
    assert unknown_marks(DEFAULT_PLAN, {}) == ()
