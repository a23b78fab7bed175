"""What happened to one request, and the counts it folds into."""

from collections import Counter as Multiset
from typing import Any

import numpy as np
import pytest

from backends.protocol import Floats, Prediction, PrefixOutcome
from rollout.plan import Stage
from rollout.snapshot import Cell, Live, Mark, difference_bin, latency_bin, share_bin
from rollout.tally import tally
from router.errors import (
    FailureKind,
    RefusedError,
    UpstreamError,
    UpstreamInvalidError,
    UpstreamTimeoutError,
)
from router.record import (
    Admission,
    Attempt,
    Pair,
    Record,
    cell_of,
    counts_of,
    counts_of_pair,
    counts_of_truth,
    failure_of,
    key_digest,
    observation_of,
    pending_of,
    sample_of,
    vectors_of,
    verdict_of,
)

ADMISSION = Admission("name", at=60.0 * 29_000_000 + 59.9, started=0.0)
LIVE = Live(
    id="r1",
    candidate="phase2",
    incumbent="phase1",
    scope="long",
    unit="request",
    salt="s",
    evidence_epoch=2,
    stage="ab25",
    mode="ab",
    weight=25,
    shadow_sample=5,
    label_window_s=60,
)
TIMEOUT = UpstreamTimeoutError("late")
REFUSED = RefusedError("no", 400)


def answer(arm: str, ids: tuple[int, ...] = tuple(range(10)), seconds: float = 0.01) -> Attempt:
    vector = np.zeros(768, dtype=np.float32)
    vector[0] = 1
    scores = np.linspace(1, 0, len(ids), dtype=np.float32)
    prediction = Prediction(vector, np.asarray(ids, np.int64), scores, 300, 100, "c", "b")
    return Attempt(arm, seconds, prediction=prediction)


def told(attempt: Attempt, prefix: PrefixOutcome) -> Attempt:
    assert attempt.prediction is not None
    return attempt._replace(prediction=attempt.prediction._replace(prefix=prefix))


def failed(arm: str, error: UpstreamError | RefusedError = TIMEOUT) -> Attempt:
    return Attempt(arm, 5.0, error=error)


def record(**changes: Any) -> Record:
    facts: dict[str, Any] = {
        "admission": ADMISSION,
        "length": 300,
        "live": LIVE,
        "assigned": "candidate",
        "counted": True,
        "keyless": False,
        "overridden": False,
        "failure": None,
        "fell_back": False,
        "mirrored": False,
        "seconds": 0.05,
    }
    return Record(**{**facts, **changes})


def pair(incumbent: Attempt, candidate: Attempt) -> Pair:
    return Pair(ADMISSION, 300, LIVE, incumbent, candidate)


def test_a_cell_is_the_minute_of_admission_and_the_stratum_of_the_length() -> None:
    assert cell_of(LIVE, ADMISSION, 300) == Cell("r1", 2, "ab25", 29_000_000, "201-350")
    halved = LIVE.model_copy(update={"strata": (300,)})
    assert cell_of(halved, ADMISSION, 300).stratum == "<=300"


def test_an_answered_request_counts_its_arm_and_what_the_client_waited() -> None:
    assert counts_of(record()) == {
        "assigned.candidate": 1,
        f"latency.candidate.{latency_bin(0.05)}": 1,
    }


def test_what_known_prefixes_did_is_counted_with_what_the_client_waited() -> None:
    latency = f"latency.candidate.{latency_bin(0.05)}"
    told = counts_of(record(prefix="hit"))
    assert told == {"assigned.candidate": 1, latency: 1, f"prefix.hit.{latency}": 1}
    seen = observation_of(KEYED, CELL, "request", "a key", told)
    assert seen is not None
    assert seen.counters == ("assigned.candidate",)


def test_a_failed_candidate_is_its_own_error_even_if_the_incumbent_answered() -> None:
    counts = counts_of(record(failure=TIMEOUT.kind, fell_back=True, mirrored=True))
    assert counts["error.candidate.timeout"] == counts["fallback.candidate"] == 1
    assert counts["assigned.candidate"] == counts["mirror.intended"] == 1
    assert not [name for name in counts if "incumbent" in name]


def test_what_is_outside_the_statistics_counts_nothing_but_why() -> None:
    assert counts_of(record(counted=False)) == {}
    assert counts_of(record(counted=False, keyless=True)) == {"keyless": 1}
    assert counts_of(record(counted=False, overridden=True)) == {"overridden": 1}


MARKED = LIVE.model_copy(
    update={
        "marks": {
            "budget": Mark(incumbent=0.1, candidate=0.1),
            "p95": Mark(incumbent=0.05, candidate=0.075),
        }
    }
)


@pytest.mark.parametrize(
    ("role", "seconds", "over"),
    [
        ("incumbent", 0.05, set()),
        ("incumbent", 0.0501, {"over.incumbent.p95"}),
        ("candidate", 0.0501, set()),
        ("candidate", 0.08, {"over.candidate.p95"}),
        ("candidate", 0.11, {"over.candidate.p95", "over.candidate.budget"}),
    ],
)
def test_a_request_is_over_the_marks_of_the_arm_that_it_was_assigned(
    role: str, seconds: float, over: set[str]
) -> None:
    counts = counts_of(record(live=MARKED, assigned=role, seconds=seconds, fell_back=True))
    assert {name for name in counts if name.startswith("over.")} == over


def test_a_timeout_is_over_every_mark_however_soon_the_client_gave_up() -> None:
    counts = counts_of(record(live=MARKED, seconds=0.01, failure=TIMEOUT.kind))
    assert counts["over.candidate.budget"] == counts["over.candidate.p95"] == 1


@pytest.mark.parametrize(
    ("incumbent", "candidate", "over"),
    [
        (answer("phase1", seconds=0.06), answer("phase2", seconds=0.07), {"p95.10", "budget.00"}),
        (answer("phase1", seconds=0.04), answer("phase2", seconds=0.2), {"p95.01", "budget.01"}),
        (answer("phase1"), Attempt("phase2", 0.01, error=TIMEOUT), {"p95.01", "budget.01"}),
        (answer("phase1"), failed("phase2", UpstreamInvalidError("junk")), set()),
        (failed("phase1", REFUSED), failed("phase2", REFUSED), set()),
    ],
)
def test_a_pair_is_over_marks_by_each_arms_own_side_where_both_arms_times_are_known(
    incumbent: Attempt, candidate: Attempt, over: set[str]
) -> None:
    counts = counts_of_pair(Pair(ADMISSION, 300, MARKED, incumbent, candidate))
    found = {name for name in counts if name.startswith("pair.over.")}
    assert found == {f"pair.over.{name}" for name in over}


def test_what_is_decided_before_the_counting_begins_counts_under_the_warm_up() -> None:
    early = LIVE.model_copy(update={"counting": False})
    assert cell_of(early, ADMISSION, 300).stage == "ab25/warm-up"


KEYED = LIVE.model_copy(update={"unit": "key"})


def test_a_routing_key_is_known_by_a_digest_that_the_rollouts_salt_keys() -> None:
    digest = key_digest(KEYED, "mara@example.org")
    assert digest is not None
    assert len(digest) == 16
    assert digest == key_digest(KEYED.model_copy(update={"stage": "ab50"}), "mara@example.org")
    assert digest != key_digest(KEYED.model_copy(update={"salt": "t"}), "mara@example.org")
    assert digest != key_digest(KEYED, "mara@example.com")
    assert key_digest(KEYED, None) is None
    assert key_digest(LIVE, "mara@example.org") is None
    assert key_digest(KEYED.model_copy(update={"salt": "s" * 999}), "\ud800") is not None


def test_an_observation_of_a_key_leaves_the_histograms_out() -> None:
    counts = counts_of(record(live=KEYED, failure=TIMEOUT.kind))
    seen = observation_of(KEYED, CELL, "request", "k", counts)
    assert seen is not None
    assert set(seen.counters) == {"assigned.candidate", "error.candidate.timeout"}
    assert observation_of(LIVE, CELL, "request", "k", counts) is None


def test_a_pending_label_knows_what_its_truth_may_come_to() -> None:
    facts: dict[str, Any] = {"cell": CELL, "live": KEYED, "assigned": "candidate"}
    alone = pending_of(ADMISSION, answered=answer("phase1"), key="k", label_window_s=9, **facts)
    both = pending_of(
        ADMISSION,
        answered=answer("phase2"),
        other=answer("phase1"),
        key="k",
        label_window_s=9,
        **facts,
    )
    assert alone.awaited == ("due.candidate",)
    assert both.awaited == ("due.candidate", "pair.due")
    assert both.key == key_digest(KEYED, "k")
    assert pending_of(ADMISSION, answered=answer("phase1"), label_window_s=9).awaited == ()


def test_two_equal_answers_agree_in_everything() -> None:
    both = pair(answer("phase1", seconds=0.01), answer("phase2", seconds=0.04))
    assert counts_of_pair(both) == {
        "pair.error.00": 1,
        "mirror.compared": 1,
        f"pair.latency.incumbent.{latency_bin(0.01)}": 1,
        f"pair.latency.candidate.{latency_bin(0.04)}": 1,
        **{
            f"pair.{name}.100": 1 for name in ("cosine", "rbo", "overlap1", "overlap5", "overlap10")
        },
    }


def test_what_known_prefixes_did_is_counted_with_each_arms_own_time() -> None:
    counts = counts_of_pair(pair(told(answer("phase1"), "slid"), told(answer("phase2"), "hit")))
    assert {name: by for name, by in counts.items() if name.startswith("prefix.")} == {
        f"prefix.slid.pair.latency.incumbent.{latency_bin(0.01)}": 1,
        f"prefix.hit.pair.latency.candidate.{latency_bin(0.01)}": 1,
    }
    assert failed("phase1").prefix is None


def test_agreement_is_over_the_first_ten_however_many_were_asked_for() -> None:
    one = answer("phase1", (*range(10), *range(100, 150)))
    other = answer("phase2", (*range(10), *range(200, 250)))
    assert counts_of_pair(pair(one, other))["pair.rbo.100"] == 1


@pytest.mark.parametrize(
    ("incumbent", "candidate", "expected"),
    [
        (answer("phase1"), failed("phase2"), {"pair.error.01": 1, "mirror.dropped.timeout": 1}),
        (failed("phase1"), answer("phase2"), {"pair.error.10": 1, "mirror.dropped.timeout": 1}),
        (failed("phase1"), failed("phase2"), {"pair.error.11": 1, "mirror.dropped.timeout": 1}),
        (
            answer("phase1"),
            failed("phase2", UpstreamInvalidError("junk")),
            {"pair.error.01": 1, "mirror.dropped.error": 1},
        ),
        (
            answer("phase1"),
            failed("phase2", REFUSED),
            {"pair.error.01": 1, "mirror.dropped.error": 1},
        ),
        (
            failed("phase1", REFUSED),
            failed("phase2", REFUSED),
            {"pair.error.00": 1, "mirror.dropped.refused": 1},
        ),
        (
            failed("phase1", REFUSED),
            failed("phase2"),
            {"pair.error.11": 1, "mirror.dropped.timeout": 1},
        ),
    ],
)
def test_a_pair_with_a_failure_tells_who_failed_and_compares_nothing(
    incumbent: Attempt, candidate: Attempt, expected: dict[str, int]
) -> None:
    failing = pair(incumbent, candidate)
    assert counts_of_pair(failing) == expected
    assert f"mirror.dropped.{verdict_of(failing)}" in expected
    assert sample_of(failing) is None


@pytest.mark.parametrize(
    ("assigned", "answered", "kind"),
    [
        (failed("phase2", REFUSED), answer("phase1"), "refused"),
        (failed("phase2", REFUSED), failed("phase1"), "refused"),
        (failed("phase2", REFUSED), failed("phase1", REFUSED), None),
        (failed("phase2"), failed("phase1", REFUSED), "timeout"),
        (failed("phase2"), answer("phase1"), "timeout"),
        (answer("phase2"), answer("phase2"), None),
    ],
)
def test_a_refusal_is_the_arms_error_unless_the_other_arm_refuses_too(
    assigned: Attempt, answered: Attempt, kind: str | None
) -> None:
    assert failure_of(assigned, answered) == kind


def test_a_refusal_by_both_arms_loses_no_mirror() -> None:
    counts = (
        Multiset(counts_of(record(mirrored=True)))
        + Multiset(counts_of(record(failure=FailureKind.REFUSED, fell_back=True, mirrored=True)))
        + counts_of_pair(pair(failed("phase1", REFUSED), failed("phase2", REFUSED)))
        + counts_of_pair(pair(answer("phase1"), failed("phase2", REFUSED)))
    )
    stage = Stage(name="ab25", mode="ab", weight=25, min_duration_s=1, min_requests=1, min_pairs=1)
    figures = tally(stage, {f"1|201-350|{name}": by for name, by in counts.items()})
    assert figures.mirror_intended == figures.pairs == 2
    assert figures.pair_errors == {"00": 1, "01": 1, "10": 0, "11": 0}
    assert figures.mirror_dropped == {"error": 1, "refused": 1}
    assert figures.candidate.errors == {"refused": 1}


def test_the_tally_knows_every_counter_that_is_written_here() -> None:
    counts = (
        Multiset(counts_of(record(failure=TIMEOUT.kind, fell_back=True, mirrored=True)))
        + Multiset(counts_of(record(assigned="incumbent")))
        + Multiset(counts_of(record(counted=False, keyless=True)))
        + counts_of_pair(pair(answer("phase1"), answer("phase2")))
        + counts_of_pair(pair(answer("phase1"), failed("phase2")))
    )
    stage = Stage(name="ab25", mode="ab", weight=25, min_duration_s=1, min_requests=1, min_pairs=1)
    figures = tally(stage, {f"1|201-350|{name}": by for name, by in counts.items()})
    assert (figures.requests, figures.keyless, figures.pairs) == (2, 1, 2)
    assert (figures.mirror_intended, figures.mirror_compared) == (1, 1)


def test_a_sample_keeps_both_arms_first_ten_and_times() -> None:
    sample = sample_of(pair(answer("phase1", tuple(range(40))), answer("phase2", seconds=0.04)))
    assert sample is not None
    assert sample.top == {"incumbent": tuple(range(10)), "candidate": tuple(range(10))}
    assert sample.latency_ms == {"incumbent": 10.0, "candidate": 40.0}
    assert (sample.cosine, sample.overlap10, sample.rbo) == (1.0, 1.0, 1.0)


def test_a_pair_is_kept_as_what_a_truth_can_be_compared_with() -> None:
    rng = np.random.default_rng(1)
    drawn = rng.normal(size=(3, 768)).astype(np.float32)
    truth, one, other = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    near = (truth + 0.5 * other) / np.linalg.norm(truth + 0.5 * other)
    both = pair(pointing("phase1", one), pointing("phase2", near))
    kept = vectors_of(both._replace(live=KEYED, key="k"))
    assert kept is not None
    assert (kept.cell, kept.at, kept.key) == (CELL, ADMISSION.at, key_digest(KEYED, "k"))
    exact = float(truth @ one), float(truth @ near)
    assert counts_of_truth(kept, truth) == {
        f"truth.incumbent.{share_bin(exact[0])}": 1,
        f"truth.candidate.{share_bin(exact[1])}": 1,
        f"truth.difference.{difference_bin(exact[1] - exact[0])}": 1,
    }
    assert difference_bin(exact[1] - exact[0]) == 150
    assert vectors_of(pair(answer("phase1"), failed("phase2"))) is None


def pointing(arm: str, vector: Floats) -> Attempt:
    attempt = answer(arm)
    assert attempt.prediction is not None
    return attempt._replace(prediction=attempt.prediction._replace(vector=vector))


CELL = cell_of(LIVE, ADMISSION, 300)


def test_a_label_of_a_mirrored_request_judges_both_arms() -> None:
    pending = pending_of(
        ADMISSION,
        answered=answer("phase1", (1, 2)),
        other=answer("phase2", (3,)),
        cell=CELL,
        live=LIVE,
        assigned="incumbent",
        label_window_s=9,
    )
    assert pending.top == {"incumbent": (1, 2), "candidate": (3,)}
    assert (pending.cell, pending.assigned, pending.label_window_s) == (CELL, "incumbent", 60)


def test_a_label_judges_only_the_arms_that_answered() -> None:
    pending = pending_of(
        ADMISSION,
        answered=answer("phase1", (1, 2)),
        other=failed("phase2"),
        cell=CELL,
        live=LIVE,
        assigned="incumbent",
        label_window_s=9,
    )
    assert pending.top == {"incumbent": (1, 2)}


def test_where_a_fallback_answered_its_answer_is_judged_and_not_the_mirrors() -> None:
    pending = pending_of(
        ADMISSION,
        answered=answer("phase1", (1,)),
        other=answer("phase1", (2,)),
        cell=CELL,
        live=LIVE,
        assigned="candidate",
        label_window_s=9,
    )
    assert (pending.assigned, pending.top) == ("candidate", {"incumbent": (1,)})


def test_a_label_outside_a_rollout_judges_nothing() -> None:
    pending = pending_of(ADMISSION, answered=answer("phase1"), label_window_s=9)
    assert (pending.cell, pending.top, pending.label_window_s) == (None, {}, 9)
