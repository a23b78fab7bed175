"""The judge: four kinds of verdict, and silence is never a pass."""

import gc
import math
import weakref
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged import AB25, AB50, AB100, SHADOW, World, healthy, kinds, look

from rollout.judging.forms import relative
from rollout.judging.judge import KEPT_TRIALS, Check, Seen, Verdict, combine, unreadable
from rollout.plan import DEFAULT_PLAN, Stage
from rollout.snapshot import Counter, latency_bin
from rollout.tally import Counts, read

ENOUGH = healthy(SHADOW, 30_000).seen(), healthy(AB25).seen(), healthy(AB50).seen()


def by_name(found: Verdict) -> dict[str, Check]:
    return {check.name: check for check in found.checks}


def with_require(stage: Stage, *names: str) -> Stage:
    return Stage.model_validate({**stage.model_dump(), "require": names})


def test_a_judge_forgets_what_it_looked_at_long_ago() -> None:
    kept = []
    for _ in range(2 * KEPT_TRIALS):
        seen = healthy(SHADOW).seen()
        look(seen)
        kept.append(weakref.ref(seen))
    del seen
    gc.collect()
    assert sum(one() is not None for one in kept) == KEPT_TRIALS


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_enough_good_data_passes(stages: int) -> None:
    assert look(*ENOUGH[:stages]).gate.kind == "PASS"
    assert look(*ENOUGH, healthy(AB100).seen()).gate.kind == "PASS"


@pytest.mark.parametrize("stage", DEFAULT_PLAN.stages)
def test_no_data_never_passes(stage: Stage) -> None:
    undemanding = stage.model_copy(
        update={"min_requests": 0, "min_pairs": 0, "min_duration_s": 0, "require": ()}
    )
    for one in (stage, undemanding):
        found = look(Seen(one, Counts({}), Counts({})))
        assert (found.gate.kind, found.guard.kind) == ("INCONCLUSIVE", "PASS")


def test_each_default_gate_requires_what_its_mode_and_weight_can_show() -> None:
    asked = {stage.name: set(stage.required) for stage in DEFAULT_PLAN.stages}
    shadow = {"paired_errors", "latency_budget", "mirror_coverage"}
    assert asked["shadow-5"] == shadow
    assert asked["ab-25"] == shadow | {"errors"}
    assert asked["ab-50"] == shadow | {"errors", "hits"}
    assert asked["ab-100"] == shadow | {"errors"}


def test_an_early_verdict_says_what_is_missing() -> None:
    found = look(World(AB25, incumbent=30, candidate=10).seen(), elapsed_s=3600.0).gate
    assert found.kind == "INCONCLUSIVE"
    assert "40 of 1000 requests in scope" in found.reason
    assert "1 h of 7 d in the stage ab-25" in found.reason


def test_a_test_that_is_not_decided_projects_what_is_still_needed() -> None:
    found = look(healthy(SHADOW, 4000).seen()).gate
    errors = by_name(found)["paired errors"].evidence
    assert errors is not None
    assert (errors.per, errors.counts["alike"]) == ("pairs", 200)
    assert errors.needed is not None
    assert 500 < errors.needed < 1500
    assert f"about {errors.needed} more pairs to go" in found.reason
    more = round(1.25 * errors.needed)  # it is about right
    later = World(SHADOW, incumbent=25_000, pairs=200 + more).seen()
    assert kinds(look(later))["paired errors"] == "PASS"


# --- each kind of check --------------------------------------------------------------------------


def test_pairs_on_which_the_candidate_alone_fails_are_a_failure() -> None:
    world = replace(healthy(SHADOW, 30_000), pair_errors=(60, 0, 0))
    found = look(world.seen())
    assert kinds(found)["paired errors"] == "FAIL"
    assert found.guard.kind == "FAIL"
    shown = {check.name for check in found.guard.checks}
    assert {"guard: paired errors, paired", "guard: error rate, rate"} <= shown


def test_as_many_failures_of_each_arm_alone_are_none() -> None:
    world = replace(healthy(SHADOW, 60_000), pair_errors=(2, 2, 0))
    assert kinds(look(world.seen()))["paired errors"] == "PASS"


@pytest.mark.parametrize(
    ("candidate", "incumbent", "kind"),
    [(0, 0, "PASS"), (100, 300, "PASS"), (30, 70, "INCONCLUSIVE"), (400, 60, "FAIL")],
)
def test_errors_pass_below_the_limit_or_beside_the_incumbents(
    candidate: int, incumbent: int, kind: str
) -> None:
    world = replace(healthy(AB25), candidate_errors=candidate, incumbent_errors=incumbent)
    assert kinds(look(world.seen()))["errors"] == kind


def test_errors_of_both_arms_alike_pass_where_they_are_many() -> None:
    world = replace(healthy(AB50), candidate_errors=500, incumbent_errors=500)
    found = look(*ENOUGH[:2], world.seen())
    assert kinds(found)["errors"] == "PASS"  # five per cent, and not twice as many
    plan = DEFAULT_PLAN.model_copy(update={"guard": {"errors": 1, "paired_errors": 1}})
    assert look(world.seen(), plan=plan).guard.kind == "PASS"


@pytest.mark.parametrize(
    ("stage", "over", "kind"),
    [
        (SHADOW, 0, "PASS"),
        (SHADOW, 15, "INCONCLUSIVE"),
        (SHADOW, 120, "FAIL"),
        (AB25, 0, "PASS"),
        (AB25, 50, "INCONCLUSIVE"),
        (AB25, 200, "FAIL"),
    ],
)
def test_the_latency_budget_is_for_a_quantile(stage: Stage, over: int, kind: str) -> None:
    found = look(replace(healthy(stage, 20_000), over=over).seen())
    assert kinds(found)["latency budget"] == kind
    assert found.guard.kind == ("FAIL" if kind == "FAIL" else "PASS")


def test_latency_is_judged_afresh_in_each_stage() -> None:
    slow = look(*ENOUGH[:1], replace(healthy(AB25, 2000), over=10).seen())
    assert kinds(slow)["latency budget"] == "INCONCLUSIVE"


def test_without_a_mark_the_budget_cannot_be_measured() -> None:
    found = look(ENOUGH[0], marks=())
    assert kinds(found)["latency budget"] == "ERROR"


def test_a_gateway_that_does_not_count_the_budget_is_found_out() -> None:
    slow = {f"latency.candidate.{latency_bin(1.5)}": 40}
    found = look(replace(healthy(AB25), more=slow).seen())
    assert found.gate.kind == "ERROR"
    assert "40 latencies of the candidate over the budget, of which 0 were counted" in (
        found.gate.reason
    )


@pytest.mark.parametrize(
    ("pairs", "kind"),
    [
        ((250, 150, 100, 500), "PASS"),
        ((250, 20, 20, 100), "INCONCLUSIVE"),
        ((250, 50, 400, 300), "FAIL"),
    ],
)
def test_paired_hits_are_compared_with_a_margin(
    pairs: tuple[int, int, int, int], kind: str
) -> None:
    stage = with_require(SHADOW, "hits")
    world = World(stage, incumbent=20_000, pairs=sum(pairs), pair_hits=pairs)
    assert kinds(look(world.seen()))["Hit@5"] == kind


@pytest.mark.parametrize(("hits", "kind"), [(6100, "PASS"), (5750, "INCONCLUSIVE"), (5000, "FAIL")])
def test_hits_of_the_split_are_compared_with_a_margin(hits: int, kind: str) -> None:
    stage = with_require(AB50.model_copy(update={"shadow_sample": 0}), "hits")
    world = replace(
        World(stage, incumbent=10_000, candidate=10_000),
        labels=(10_000, 10_000),
        hits=(6000, hits),
    )
    found = look(world.seen())
    assert kinds(found)["Hit@5"] == kind
    assert found.guard.kind == ("FAIL" if kind == "FAIL" else "PASS")


def test_a_stratum_that_is_worse_closes_the_gate_although_all_together_are_not() -> None:
    good = replace(healthy(AB50), hits=(6000, 7500))
    bad = replace(healthy(AB50, 6000), stratum="351-500", hits=(1800, 1200))
    found = look(*ENOUGH[:2], good.seen(bad))
    found_kinds = kinds(found)
    assert found_kinds["Hit@5"] == "PASS"
    assert found_kinds["Hit@5 of 351-500 vectors"] == "FAIL"


def test_a_stratum_with_little_traffic_is_not_asked() -> None:
    few = replace(healthy(AB50, 1000), stratum="351-500", hits=(300, 100))
    assert "Hit@5 of 351-500 vectors" not in kinds(look(*ENOUGH[:2], healthy(AB50).seen(few)))


def test_targets_agreement_and_relative_latency_are_reported_and_decide_nothing() -> None:
    marks = ("budget", "p50", "p95")
    bad = {
        "over.candidate.p95": 4000, "over.incumbent.p95": 500, "pair.overlap10.5": 900,
    }  # fmt: skip
    world = replace(healthy(AB50), hits=(1000, 1000), pair_hits=(900, 30, 30, 40), more=bad)
    found = look(*ENOUGH[:2], world.seen(), marks=marks)
    checks = by_name(found.gate)
    for name in (
        "target of Hit@5", "agreement overlap10", "latency p95 against the incumbent",
    ):  # fmt: skip
        assert (checks[name].kind, checks[name].decides) == ("FAIL", False), name
    assert (found.gate.kind, found.guard.kind) == ("PASS", "PASS")


def test_what_a_stage_requires_decides() -> None:
    stage = with_require(AB50, "targets")
    world = replace(healthy(stage), hits=(6000, 5000), k=5)
    found = look(world.seen())
    assert kinds(found)["target of Hit@5"] == "FAIL"
    assert found.gate.kind == "FAIL"


# --- what cannot be measured ---------------------------------------------------------------------


def test_a_skewed_split_is_an_error_and_holds() -> None:
    found = look(replace(healthy(AB25), incumbent=17_000, candidate=3000).seen())
    assert (found.gate.kind, kinds(found)["sample ratio"]) == ("ERROR", "ERROR")
    assert "could not be measured" in found.gate.reason


def test_labels_that_come_for_one_arm_are_an_error() -> None:
    found = look(*ENOUGH[:2], replace(healthy(AB50), labels=(9000, 7000), hits=(1, 1)).seen())
    assert kinds(found)["label ratio"] == "ERROR"


def test_mirrors_that_are_not_the_intended_sample_are_an_error() -> None:
    found = look(replace(healthy(SHADOW), pairs=2000, pair_hits=(0, 0, 0, 0)).seen())
    assert kinds(found)["mirror ratio"] == "ERROR"


def test_lost_mirrors_are_an_error_that_names_where_they_went() -> None:
    found = look(replace(healthy(SHADOW), pairs=1000, lost=200).seen())
    assert found.gate.kind == "ERROR"
    told = "1000 of 1200 intended mirrors were seen to their end (dropped: 200 mirror queue full)"
    assert told in found.gate.reason


def test_too_few_labels_are_an_error_and_never_misses() -> None:
    world = replace(healthy(AB50), labels=(2000, 2000), due=(10_000, 10_000), hits=(1200, 1200))
    found = look(*ENOUGH[:2], world.seen())
    assert kinds(found)["label coverage"] == "ERROR"
    assert "4000 of 20000 awaited labels have come" in found.gate.reason


@pytest.mark.parametrize(
    "change",
    [
        {"candidate_errors": 6000},
        {"over": 5001},
        {"hits": (15_001, 100)},
        {"labels": (15_000, 5000), "due": (100, 100)},
        {"pairs": 25_000},
    ],
)
def test_counts_that_contradict_each_other_are_an_error_and_prove_nothing(
    change: dict[str, object],
) -> None:
    world = replace(healthy(AB25), **change)  # type: ignore[arg-type] # the fields vary
    found = look(world.seen())
    assert kinds(found)["counts"] == "ERROR"
    assert "contradict each other" in found.gate.reason
    assert found.guard.kind == "PASS"


def test_an_error_hides_a_failure_because_its_figures_cannot_be_believed() -> None:
    world = replace(healthy(AB25), incumbent=17_000, candidate=3000, candidate_errors=300)
    assert look(world.seen()).gate.kind == "ERROR"


def test_unreadable_counts_are_an_error() -> None:
    assert unreadable("the count 'x' has no name").kind == "ERROR"


# --- over stages, and by key ---------------------------------------------------------------------


def test_labels_of_earlier_stages_count_and_each_factor_is_shown() -> None:
    here = World(AB50, incumbent=600, candidate=600, pairs=60, labels=(600, 600), hits=(1, 1))
    here = replace(here, hits=(360, 380), pair_hits=(15, 8, 7, 30))
    check = by_name(look(*ENOUGH[:2], here.seen()).gate)["Hit@5"]
    assert check.evidence is not None
    assert set(check.evidence.by_stage) == {
        "paired shadow-5", "paired ab-25", "paired ab-50", "split ab-25", "split ab-50",
    }  # fmt: skip
    alone = by_name(look(here.seen()).gate)["Hit@5"]
    assert (check.kind, alone.kind) == ("PASS", "INCONCLUSIVE")


def test_evidence_of_earlier_stages_does_not_hide_what_is_wrong_now() -> None:
    here = replace(healthy(AB50), candidate_errors=90, incumbent_errors=9)
    before = replace(healthy(AB25, 200_000)).seen()
    found = look(*ENOUGH[:1], before, here.seen())
    assert kinds(found)["errors"] == "INCONCLUSIVE"
    assert "this stage by itself speaks against it" in found.gate.reason


def test_with_keys_only_the_first_observation_of_each_counts() -> None:
    plan = DEFAULT_PLAN.model_copy(update={"unit": "key"})
    loud = replace(healthy(AB25), candidate_errors=2000)  # one key, two thousand times
    assert look(loud.seen(), plan=plan).guard.kind == "PASS"
    assert look(loud.seen(), plan=plan).gate.kind == "INCONCLUSIVE"
    assert look(loud.seen(first=True), plan=plan).guard.kind == "FAIL"
    good = look(healthy(AB25, 40_000).seen(first=True), plan=plan)
    assert (good.gate.kind, kinds(good)["sample ratio"]) == ("PASS", "PASS")


# --- what a verdict is ---------------------------------------------------------------------------


def test_a_figure_its_interval_and_what_is_required_of_it_have_one_unit() -> None:
    world = replace(healthy(AB50), more={"pair.overlap10.95": 1000})
    checks = by_name(look(*ENOUGH[:2], world.seen()).gate)
    for name, unit in (("errors", "%"), ("Hit@5", "points"), ("agreement overlap10", "")):
        one = checks[name].evidence
        assert one is not None
        assert one.unit == unit
        assert checks[name].observed == f"{one.estimate:.4g} {unit}".rstrip()
    agreement = checks["agreement overlap10"]
    assert (agreement.observed, agreement.required.partition(":")[0]) == (
        "0.95", "a mean overlap10 above 0.3",
    )  # fmt: skip
    assert agreement.evidence is not None
    assert agreement.evidence.interval is not None
    low, high = agreement.evidence.interval
    assert 0.3 < low <= 0.95 <= high <= 1


def test_every_deciding_test_carries_its_evidence() -> None:
    found = look(*ENOUGH)
    tested = [check for check in found.gate.checks if check.decides and check.evidence]
    assert {check.evidence.metric for check in tested if check.evidence} == {
        "paired_errors", "errors", "latency_budget", "hits",
    }  # fmt: skip
    for check in tested:
        one = check.evidence
        assert one is not None
        assert one.stage == "ab-50"
        assert one.rule
        assert one.interval
        assert one.interval[0] <= (one.estimate or 0) <= one.interval[1]
        assert (one.e_value >= one.threshold) == (check.kind == "PASS")


RAW = st.dictionaries(
    st.sampled_from(sorted(healthy(SHADOW).counts | healthy(AB25).counts)),
    st.integers(0, 10**7),
)


@given(RAW, RAW, st.sampled_from(DEFAULT_PLAN.stages), st.floats(0, 1e8))
def test_the_verdict_is_the_worst_of_its_checks_and_says_why(
    one: dict[str, int], other: dict[str, int], stage: Stage, elapsed_s: float
) -> None:
    raw = {f"-|101-200|{name}": n for name, n in one.items()}
    raw |= {f"-|>500|{name}": n for name, n in other.items()}
    seen = Seen(stage, read(raw), read(raw))
    found = look(seen, elapsed_s=elapsed_s)
    order = ["ERROR", "FAIL", "INCONCLUSIVE", "PASS"]
    deciding = [check for check in found.gate.checks if check.decides]
    assert found.gate.kind == min((check.kind for check in deciding), key=order.index)
    assert any(check.reason in found.gate.reason or check.kind == "PASS" for check in deciding)
    for check in (*found.gate.checks, *found.guard.checks):
        assert Check.model_validate_json(check.model_dump_json()) == check


def test_a_check_that_is_only_reported_is_no_part_of_the_kind() -> None:
    fine = Check(name="a", kind="PASS", observed="", required="", reason="fine")
    bad = Check(name="b", kind="ERROR", observed="", required="", reason="bad", decides=False)
    assert combine((fine, bad)).kind == "PASS"


def test_each_form_of_a_check_keeps_its_own_counts_and_their_e_values_average() -> None:
    """On pairs and on the split the same words count different requests."""
    stage = AB25
    world = replace(
        healthy(stage, 2000),
        more={"pair.over.p50.10": 25, "pair.over.p50.00": 75, "over.incumbent.p50": 700},
    )
    found = look(world.seen(), marks=("budget", "p50"))
    (check,) = [one for one in found.gate.checks if one.name == "latency p50 against the incumbent"]
    proof = check.evidence
    assert proof is not None
    counts = {part.form: part.counts for part in proof.parts}
    assert counts == {
        "paired": {"candidate_over": 0, "incumbent_over": 25, "others": 75},
        "split": {"candidate_over": 0, "incumbent_over": 700, "others": 1300},
    }
    assert proof.counts == proof.parts[0].counts
    assert "on pairs 0 candidate over, 25 incumbent over, 75 others" in check.reason
    assert "on the split 0 candidate over, 700 incumbent over, 1300 others" in check.reason
    metric = relative("p50")
    for form, part in zip(metric.forms, sorted(proof.parts, key=lambda one: one.form), strict=True):
        bet = form.bet(DEFAULT_PLAN, stage, False)
        assert bet.ln_e(tuple(part.counts.values())) == pytest.approx(part.ln_e)
    average = sum(math.exp(part.ln_e) for part in proof.parts) / len(proof.parts)
    assert math.log(average) == pytest.approx(proof.ln_e)
    alone = [one for one in found.gate.checks if one.name == "latency budget"]
    assert alone[0].evidence is not None
    assert alone[0].evidence.parts == ()


@pytest.mark.parametrize("stage", DEFAULT_PLAN.stages, ids=lambda stage: stage.name)
def test_what_is_for_the_report_alone_moves_no_verdict(stage: Stage) -> None:
    world = healthy(stage)
    more = {
        Counter.by_prefix(f"{measure}.{role}.{bin_}", outcome): 5
        for measure in ("latency", "pair.latency")
        for role in ("incumbent", "candidate")
        for bin_ in (200, 900)
        for outcome in ("hit", "miss", "slid", "off")
    }
    more |= {Counter.truth_difference(-0.2): 900, Counter.truth_cosine("candidate", 0.1): 900}
    assert look(replace(world, more=more).seen()) == look(world.seen())
