"""The rollback guard: one average over everything, with weights that are fixed at birth."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged import AB25, AB50, SHADOW, World, healthy, look

from rollout.judging.guard import entries
from rollout.plan import DEFAULT_PLAN, Plan
from rollout.stakes import rows

METRICS = ("error_rate", "paired_errors", "errors", "latency_budget", "hits")
GUARDS = st.dictionaries(st.sampled_from(METRICS), st.floats(0.01, 100), min_size=1)


def guarded(**weights: float) -> Plan:
    return Plan.model_validate({**DEFAULT_PLAN.model_dump(), "guard": weights})


@given(GUARDS)
def test_the_weights_sum_to_one_and_half_of_them_are_on_what_has_no_stratum(
    weights: dict[str, float],
) -> None:
    laid_out = entries(guarded(**weights))
    assert sum(one.weight for one in laid_out) == pytest.approx(1)
    assert sum(one.weight for one in laid_out if one.stratum is None) == pytest.approx(0.5)
    assert len({(one.metric, one.form.name, one.stage, one.stratum) for one in laid_out}) == len(
        laid_out
    )
    for name, weight in weights.items():
        share = sum(one.weight for one in laid_out if one.metric == name)
        assert share == pytest.approx(weight / sum(weights.values()))


def test_latency_has_an_entry_for_each_stage_and_the_rest_one_for_all() -> None:
    laid_out = entries(DEFAULT_PLAN)
    stages = [stage.name for stage in DEFAULT_PLAN.stages]
    found = [one.stage for one in laid_out if one.metric == "latency_budget" and not one.stratum]
    assert found == stages
    assert {one.stage for one in laid_out if one.metric != "latency_budget"} == {None}


def test_what_no_stage_can_measure_takes_no_weight() -> None:
    stages = [
        {**stage.model_dump(), "shadow_sample": 0, "min_pairs": 0}
        for stage in DEFAULT_PLAN.stages[1:]
    ]
    plan = Plan.model_validate({**DEFAULT_PLAN.model_dump(), "stages": stages})
    assert "paired_errors" not in {one.metric for one in entries(plan)}
    assert sum(one.weight for one in entries(plan)) == pytest.approx(1)


def test_before_anything_is_seen_the_average_is_one() -> None:
    found = look(World(SHADOW).seen())
    assert found.guard.checks[0].evidence is not None
    assert found.guard.checks[0].evidence.e_value == pytest.approx(1)
    assert found.guard_high == pytest.approx(0)


def test_the_highest_average_is_latched() -> None:
    low = look(healthy(AB25).seen(), guard_high=math.log(150))
    assert (low.guard.kind, low.guard_high) == ("FAIL", math.log(150))
    assert "was 150 before" in low.guard.reason
    bad = look(replace(healthy(AB25), candidate_errors=300).seen(), guard_high=1.0)
    assert bad.guard.checks[0].evidence is not None
    assert bad.guard_high == bad.guard.checks[0].evidence.ln_e > math.log(100)


def test_errors_of_one_stratum_fire_it_although_they_drown_in_all() -> None:
    plan = guarded(errors=1)
    worse = replace(healthy(AB50, 2000), stratum="351-500", candidate_errors=40, incumbent_errors=4)
    rest = replace(healthy(AB50, 60_000), candidate_errors=900, incumbent_errors=930)
    found = look(rest.seen(worse), plan=plan).guard
    assert found.kind == "FAIL"
    assert "of 351-500 vectors" in found.reason
    assert look(rest.seen(), plan=plan).guard.kind == "PASS"


def test_errors_are_multiplied_over_stages_and_latency_is_not() -> None:
    plan = guarded(errors=1)
    stages = [
        replace(healthy(stage, 4000), candidate_errors=e, incumbent_errors=i).seen()
        for stage, e, i in ((AB25, 12, 8), (AB50, 20, 5))
    ]
    assert look(stages[0], plan=plan).guard.kind == "PASS"
    assert look(stages[1], plan=plan).guard.kind == "PASS"
    assert look(*stages, plan=plan).guard.kind == "FAIL"
    plan = guarded(latency_budget=1)
    stages = [replace(healthy(stage, 4000), over=n).seen() for stage, n in ((AB25, 24), (AB50, 38))]
    assert look(stages[0], plan=plan).guard.kind == "PASS"
    assert look(stages[1], plan=plan).guard.kind == "PASS"
    assert look(*stages, plan=plan).guard.kind == "PASS"


def test_where_the_split_is_not_the_intended_one_what_relies_on_it_proves_nothing() -> None:
    plan = guarded(errors=1)
    skewed = World(AB25, incumbent=10_000, candidate=10_000)
    skewed = replace(skewed, candidate_errors=200, incumbent_errors=200)
    assert look(skewed.seen(), plan=plan).guard.kind == "PASS"
    absolute = replace(skewed, candidate_errors=2000)
    assert look(absolute.seen(), plan=guarded(error_rate=1)).guard.kind == "FAIL"


def test_what_the_plan_tolerates_is_not_rolled_back() -> None:
    two_points = replace(healthy(AB50, 400_000), hits=(120_000, 116_000), pair_hits=(0, 0, 0, 0))
    assert look(two_points.seen(), plan=guarded(hits=1)).guard.kind == "PASS"
    ten_points = replace(two_points, hits=(120_000, 100_000))
    assert look(ten_points.seen(), plan=guarded(hits=1)).guard.kind == "FAIL"


def test_wrong_answers_fire_it_within_a_few_hundred_labels() -> None:
    wrong = World(
        SHADOW, incumbent=4000, pairs=200, labels=(4000, 0), hits=(2400, 0),
        pair_hits=(80, 0, 120, 0),
    )  # fmt: skip
    found = look(wrong.seen()).guard
    assert found.kind == "FAIL"
    assert "Hit@5, paired in shadow-5 (0 candidate alone hit, 120 incumbent alone hit" in (
        found.reason
    )


def test_the_guard_shows_its_largest_entries_with_their_evidence_and_they_do_not_decide() -> None:
    found = look(replace(healthy(AB25), candidate_errors=300).seen()).guard
    first, *shown = found.checks
    assert (first.name, first.decides) == ("rollback guard", True)
    assert 1 <= len(shown) <= 3
    assert all(check.evidence and not check.decides for check in shown)


@settings(deadline=None)  # a busy machine takes longer than 200 ms over an example
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=5),
)
def test_strata_may_be_reported_in_any_order(errors: list[tuple[int, int]]) -> None:
    names = ("<=100", "101-200", "201-350", "351-500", ">500")
    worlds = [
        replace(healthy(AB50, 2000), stratum=name, candidate_errors=mine, incumbent_errors=theirs)
        for name, (mine, theirs) in zip(names, errors, strict=False)
    ]
    found = look(worlds[0].seen(*worlds[1:]))
    turned = worlds[::-1]
    assert look(turned[0].seen(*turned[1:])) == found


@given(st.integers(0, 80), st.integers(0, 80))
def test_the_average_can_be_checked_from_all_entries_and_from_the_rows(
    mine: int, theirs: int
) -> None:
    world = replace(healthy(AB25, 4000), candidate_errors=mine, incumbent_errors=theirs)
    found = look(healthy(SHADOW, 4000).seen(), world.seen()).guard
    laid_out = entries(DEFAULT_PLAN)
    assert [(one.stage, one.stratum, one.weight) for one in found.stakes] == [
        (one.stage, one.stratum, one.weight) for one in laid_out
    ]
    average = found.checks[0].evidence
    assert average is not None
    total = sum(one.weight * math.exp(one.ln_e) for one in found.stakes)
    assert math.log(total) == pytest.approx(average.ln_e)
    shown = rows(found.stakes)
    assert sum(row.entries for row in shown) == len(laid_out)
    assert sum(row.weight for row in shown) == pytest.approx(100)
    assert math.log(sum(math.exp(row.ln_part) for row in shown)) == pytest.approx(average.ln_e)
    assert all(row.ln_part == pytest.approx(math.log(row.weight / 100) + row.ln_e) for row in shown)
