"""The judge: four kinds of verdict, and silence is never a pass."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.judge import Seen, Verdict, judge, unreadable
from rollout.plan import DEFAULT_PLAN, Plan, Stage
from rollout.snapshot import Counter
from rollout.tally import read

WEEK = 7 * 86_400.0
SHADOW, AB25, _, AB100 = DEFAULT_PLAN.stages


def verdict(
    stage: Stage, counts: dict[str, int], elapsed_s: float = WEEK, plan: Plan = DEFAULT_PLAN
) -> Verdict:
    raw = {f"1|101-200|{name}": n for name, n in counts.items()}
    seen = read(raw)
    return judge(plan, [Seen(stage, seen, seen)], elapsed_s).gate


def kinds(found: Verdict) -> dict[str, str]:
    return {check.name: check.kind for check in found.checks}


def ab(incumbent: int, candidate: int, errors: int = 0) -> dict[str, int]:
    return {
        Counter.assigned("incumbent"): incumbent,
        Counter.assigned("candidate"): candidate,
        Counter.error("candidate", "timeout"): errors,
        Counter.MIRROR_INTENDED: 60,
        Counter.MIRROR_COMPARED: 60,
        Counter.pair_error(incumbent=False, candidate=False): 60,
    }


def shadow(pairs: int, failed: int, dropped: int = 0) -> dict[str, int]:
    return {
        Counter.assigned("incumbent"): 2000,
        Counter.MIRROR_INTENDED: pairs + dropped,
        Counter.MIRROR_COMPARED: pairs - failed,
        Counter.mirror_dropped("error"): failed,
        Counter.mirror_dropped("full"): dropped,
        Counter.pair_error(incumbent=False, candidate=False): pairs - failed,
        Counter.pair_error(incumbent=False, candidate=True): failed,
    }


def test_enough_good_data_passes() -> None:
    assert verdict(AB25, ab(1500, 500)).kind == "PASS"
    assert verdict(SHADOW, shadow(100, 0)).kind == "PASS"


@pytest.mark.parametrize("stage", DEFAULT_PLAN.stages)
def test_no_data_never_passes(stage: Stage) -> None:
    undemanding = stage.model_copy(
        update={"min_requests": 0, "min_pairs": 0, "min_duration_s": 0, "shadow_sample": 0}
    )
    assert verdict(stage, {}).kind == "INCONCLUSIVE"
    assert verdict(undemanding, {}).kind == "INCONCLUSIVE"


def test_an_early_verdict_says_what_is_missing() -> None:
    found = verdict(AB25, ab(30, 10), elapsed_s=3600.0)
    assert found.kind == "INCONCLUSIVE"
    assert "40 of 1000 requests in scope" in found.reason
    assert "1 h of 7 d in the stage ab-25" in found.reason


def test_a_candidate_that_proves_bad_fails() -> None:
    found = verdict(AB25, ab(1500, 500, errors=25))
    assert (found.kind, kinds(found)["candidate errors"]) == ("FAIL", "FAIL")
    assert "failed 25 of 500 attempts" in found.reason


def test_a_candidate_that_fails_in_the_shadow_fails() -> None:
    assert verdict(SHADOW, shadow(100, 20)).kind == "FAIL"


def test_a_share_above_the_limit_without_proof_is_inconclusive() -> None:
    found = verdict(AB25, ab(1500, 500, errors=4))
    assert kinds(found)["candidate errors"] == "INCONCLUSIVE"
    assert "is no proof" in found.reason


def test_a_pass_on_errors_admits_that_it_is_no_test() -> None:
    found = verdict(AB25, ab(1500, 500, errors=2))
    assert found.kind == "PASS"
    assert "a threshold on the observed share, not a test yet" in found.reason


def test_a_skewed_split_is_an_error_and_holds() -> None:
    found = verdict(AB25, ab(1700, 300))
    assert (found.kind, kinds(found)["sample ratio"]) == ("ERROR", "ERROR")
    assert "cannot be measured" in found.reason


def test_the_split_is_not_judged_where_there_is_none() -> None:
    assert "sample ratio" not in kinds(verdict(AB100, ab(0, 2000)))
    by_key = DEFAULT_PLAN.model_copy(update={"unit": "key"})
    assert "sample ratio" not in kinds(verdict(AB25, ab(1700, 300), plan=by_key))


def test_lost_mirrors_are_an_error_that_names_where_they_went() -> None:
    found = verdict(SHADOW, shadow(100, 0, dropped=20))
    assert found.kind == "ERROR"
    assert "100 of 120 intended mirrors were seen to their end (dropped: 20 full)" in found.reason


def test_an_error_hides_a_failure_because_its_figures_cannot_be_believed() -> None:
    assert verdict(AB25, ab(1700, 300, errors=100)).kind == "ERROR"


@pytest.mark.parametrize(("limit", "errors", "kind"), [(0, 1, "FAIL"), (0, 0, "PASS")])
def test_a_plan_that_allows_no_error_fails_on_the_first(
    limit: float, errors: int, kind: str
) -> None:
    plan = DEFAULT_PLAN.model_copy(update={"max_error_rate": limit})
    assert verdict(AB25, ab(1500, 500, errors), plan=plan).kind == kind


def test_unreadable_counts_are_an_error() -> None:
    assert unreadable("the count 'x' has no name").kind == "ERROR"


@given(
    st.dictionaries(
        st.sampled_from([*ab(1, 1), *shadow(1, 1), Counter.error("incumbent", "status")]),
        st.integers(0, 10**7),
    ),
    st.sampled_from(DEFAULT_PLAN.stages),
    st.floats(0, 1e8),
)
def test_the_verdict_is_the_worst_of_its_checks_and_says_why(
    counts: dict[str, int], stage: Stage, elapsed_s: float
) -> None:
    found = verdict(stage, counts, elapsed_s)
    order = ["ERROR", "FAIL", "INCONCLUSIVE", "PASS"]
    assert found.kind == min((check.kind for check in found.checks), key=order.index)
    assert any(check.reason in found.reason for check in found.checks)
