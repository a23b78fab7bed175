"""Counts are a commutative monoid, and figures follow from them alone."""

from collections import Counter as Multiset
from collections.abc import Mapping
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.latencies import quantile
from rollout.plan import Stage
from rollout.snapshot import ALL_MINUTES, HITS, Counter, Role, latency_bin, latency_of, stratum
from rollout.tally import (
    STRATA,
    CountsError,
    StageTally,
    is_label,
    is_reported,
    read,
    stage_counts,
    summarise,
    tally,
)

STAGE = Stage(
    name="quarter", mode="ab", weight=25, shadow_sample=5, min_duration_s=60, min_requests=1,
    min_pairs=1,
)  # fmt: skip
SHADOW = STAGE.model_copy(update={"name": "shadow", "mode": "shadow", "weight": 5.0})

roles = st.sampled_from(["incumbent", "candidate"])
seconds = st.floats(1e-4, 100)
shares = st.floats(-1, 1)
kinds = st.sampled_from(["timeout", "connection", "status", "invalid"])
ks = st.sampled_from(HITS)
marks = st.sampled_from(["budget", "p50", "p95", "p99"])
label_counters = st.one_of(
    st.builds(Counter.due, roles),
    st.just(Counter.PAIR_DUE),
    st.builds(Counter.labels, roles),
    st.builds(Counter.hit, roles, ks),
    st.builds(Counter.pair_hit, ks, st.booleans(), st.booleans()),
)
counters = st.one_of(
    st.sampled_from([Counter.OVERRIDDEN, Counter.KEYLESS]),
    st.sampled_from([Counter.MIRROR_INTENDED, Counter.MIRROR_COMPARED]),
    st.builds(Counter.assigned, roles),
    st.builds(Counter.error, roles, kinds),
    st.builds(Counter.fallback, roles),
    st.builds(Counter.latency, roles, seconds),
    st.builds(Counter.arm_latency, roles, seconds),
    st.builds(
        Counter.by_prefix,
        st.builds(Counter.latency, roles, seconds) | st.builds(Counter.arm_latency, roles, seconds),
        st.sampled_from(["hit", "miss", "slid", "off"]),
    ),
    st.builds(Counter.mirror_dropped, st.sampled_from(["full", "timeout", "error", "bytes"])),
    st.builds(Counter.pair_error, st.booleans(), st.booleans()),
    st.builds(
        Counter.pair_value,
        st.sampled_from(["cosine", "overlap1", "overlap5", "overlap10", "rbo"]),
        shares,
    ),
    st.builds(Counter.over, roles, marks),
    st.builds(Counter.pair_over, marks, st.booleans(), st.booleans()),
    st.builds(Counter.truth_cosine, roles, shares),
    st.builds(Counter.truth_difference, st.floats(-2, 2)),
    label_counters,
)
observed = counters.filter(
    lambda name: not name.startswith((Counter.OVERRIDDEN, Counter.KEYLESS, "prefix."))
)
counters |= st.builds(Counter.first, observed) | st.just(Counter.KEYS_BEYOND)
fields = st.builds(
    lambda minute, length, counter: f"{minute}|{stratum(length)}|{counter}",
    st.integers(29_000_000, 29_000_005) | st.just(ALL_MINUTES), st.integers(1, 700), counters,
)  # fmt: skip
hashes = st.dictionaries(fields, st.integers(0, 50), max_size=30)


def of(counts: Mapping[str, int], stage: Stage = STAGE) -> StageTally:
    """Tally counters of one minute and one stratum."""
    return tally(stage, {f"29000000|<=100|{name}": value for name, value in counts.items()})


@given(hashes, hashes)
def test_the_tally_of_merged_hashes_is_the_merge_of_their_tallies(
    left: dict[str, int], right: dict[str, int]
) -> None:
    merged = dict(Multiset(left) + Multiset(right))
    assert read(merged) == read(left) + read(right)
    assert tally(STAGE, merged) == summarise(STAGE, read(left) + read(right))


@given(hashes, hashes, hashes)
def test_the_order_of_merging_never_matters(
    a: dict[str, int], b: dict[str, int], c: dict[str, int]
) -> None:
    assert read(a) + (read(b) + read(c)) == (read(c) + read(a)) + read(b)
    assert read(a) + read({}) == read(a)


@given(hashes, st.randoms(use_true_random=False))
def test_the_order_of_fields_and_the_minute_never_matter(
    counts: dict[str, int],
    random: Random,
) -> None:
    shuffled = list(counts.items())
    random.shuffle(shuffled)
    one_minute: Multiset[str] = Multiset()
    for field, value in shuffled:
        one_minute["7|" + field.partition("|")[2]] += value
    assert tally(STAGE, one_minute) == tally(STAGE, dict(shuffled)) == tally(STAGE, counts)


@given(st.lists(seconds, min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_from_bins_is_within_one_percent_of_the_nearest_rank(
    durations: list[float], q: float
) -> None:
    bins = Multiset(map(latency_bin, durations))
    found = quantile(bins, q)
    assert found is not None
    exact = sorted(durations)[max(1, -int(-q * len(durations) // 1)) - 1]
    assert latency_of(found) == pytest.approx(exact, rel=0.0101)


@given(hashes, hashes)
def test_what_is_added_can_be_taken_away(left: dict[str, int], right: dict[str, int]) -> None:
    assert read(left) + read(right) - read(right) == read(left)


@given(hashes, hashes, hashes)
def test_a_judge_reads_the_old_minutes_and_the_closed_labels(
    old: dict[str, int], recent: dict[str, int], unclosed: dict[str, int]
) -> None:
    recent, unclosed = (
        {field: by for field, by in part.items() if is_label(field.rpartition("|")[2]) == label}
        for part, label in ((recent, False), (unclosed, True))
    )
    total = dict(Multiset(old) + Multiset(recent) + Multiset(unclosed))
    seen = stage_counts(total, recent, unclosed)
    assert seen.total == read(total)
    assert seen.counts + seen.labels == read(old).only(lambda name: not is_reported(name))
    assert all(map(is_label, seen.labels.total))
    assert not any(map(is_label, seen.counts.total))


def test_what_is_for_the_report_alone_is_in_the_totals_and_not_before_the_judge() -> None:
    latency = Counter.latency("candidate", 0.01)
    shown = [
        Counter.by_prefix(latency, "hit"),
        Counter.truth_cosine("candidate", 0.4),
        Counter.truth_difference(0.1),
        Counter.first(Counter.truth_difference(0.1)),
    ]
    counts = {f"|<=100|{name}": 2 for name in (*shown, latency)}
    recent = {f"29000000{name}": 1 for name in counts}
    seen = stage_counts({f"-{name}": by for name, by in counts.items()}, recent, {})
    assert set(seen.total.total) == {*shown, latency}
    assert seen.counts.total == {latency: 1}
    assert seen.labels.total == {}


@given(label_counters)
def test_labels_are_what_is_awaited_what_came_and_hits(counter: str) -> None:
    assert is_label(counter)
    assert is_label(Counter.first(counter))


def test_minutes_that_hold_more_than_their_stage_are_refused() -> None:
    with pytest.raises(CountsError, match=r"more of 'assigned.candidate' \(<=100\)"):
        stage_counts({"-|<=100|assigned.candidate": 1}, {"7|<=100|assigned.candidate": 2}, {})


def test_the_twins_that_count_keys_leave_the_figures_as_they_are() -> None:
    counts = {Counter.assigned("candidate"): 9, Counter.labels("candidate"): 4}
    assert of(counts) == of(counts | {Counter.first(name): 2 for name in counts})


def test_no_counts_give_no_figures_instead_of_zeros() -> None:
    empty = tally(STAGE, {})
    assert empty.requests == 0
    assert empty.actual_share is None
    assert empty.mirror_coverage is None
    assert empty.candidate.error_percent is None
    assert empty.candidate.latency_ms.p99 is None
    assert empty.agreement["cosine"].mean is None
    assert [row.stratum for row in empty.strata] == list(STRATA)


def test_an_ab_stage_is_shared_by_assignment_and_a_shadow_stage_by_mirrors() -> None:
    counts = {
        Counter.assigned("incumbent"): 75,
        Counter.assigned("candidate"): 25,
        Counter.MIRROR_INTENDED: 5,
        Counter.MIRROR_COMPARED: 3,
        Counter.pair_error(incumbent=False, candidate=False): 3,
        Counter.pair_error(incumbent=False, candidate=True): 1,
        Counter.mirror_dropped("full"): 1,
    }
    assert of(counts).actual_share == 25
    shadow = of(counts, SHADOW)
    assert (shadow.actual_share, shadow.intended_share) == (5, 5)
    assert shadow.mirror_coverage == 80
    assert shadow.mirror_dropped == {"full": 1}


@pytest.mark.parametrize("role", ["incumbent", "candidate"])
def test_errors_are_the_assigned_arms_by_kind(role: Role) -> None:
    counts = {
        Counter.assigned(role): 200,
        Counter.error(role, "timeout"): 3,
        Counter.error(role, "status"): 1,
        Counter.fallback(role): 2,
    }
    found = of(counts).role(role)
    assert found.errors == {"status": 1, "timeout": 3}
    assert (found.error_count, found.error_percent, found.fallbacks) == (4, 2, 2)


def test_agreement_is_read_back_from_hundredths() -> None:
    values = Multiset(Counter.pair_value("cosine", value) for value in (1.0, 0.5, 0.5, -0.25))
    found = of(values).agreement["cosine"]
    assert found.histogram == ((-0.25, 1), (0.5, 2), (1.0, 1))
    assert (found.n, found.mean, found.p10, found.p50) == (4, 0.4375, -0.25, 0.5)
    assert of(values).agreement["rbo"].n == 0


def test_what_clients_waited_and_what_the_arms_took_are_kept_apart() -> None:
    found = of({Counter.latency("candidate", 0.1): 3, Counter.arm_latency("candidate", 0.2): 5})
    assert found.candidate.latency_ms.n == 3
    assert found.candidate.latency_ms.p50 == pytest.approx(100, rel=0.01)
    assert found.candidate.arm_latency_ms.n == 5
    assert found.candidate.arm_latency_ms.p95 == pytest.approx(200, rel=0.01)


def test_a_latency_is_told_apart_by_what_known_prefixes_did() -> None:
    quick, slow = Counter.latency("candidate", 0.01), Counter.latency("candidate", 0.1)
    counts = {
        quick: 6,
        slow: 5,
        Counter.by_prefix(quick, "hit"): 6,
        Counter.by_prefix(slow, "miss"): 1,
        Counter.by_prefix(slow, "slid"): 2,
        Counter.by_prefix(slow, "off"): 1,
        Counter.by_prefix(Counter.arm_latency("candidate", 0.2), "hit"): 1,
    }
    found = of(counts).candidate
    assert found.latency_ms.n == 11
    served = found.latency_by_prefix
    assert (served.hits.n, served.misses.n, served.slid, served.off) == (6, 4, 2, 1)
    assert (served.hit_percent, served.not_told) == (60, 1)
    assert served.hits.p99 == pytest.approx(10, rel=0.01)
    assert served.misses.p50 == pytest.approx(100, rel=0.01)
    assert found.arm_latency_by_prefix.hits.n == 1
    assert of(counts).incumbent.latency_by_prefix.hit_percent is None


def test_what_an_older_model_server_does_not_tell_is_not_told() -> None:
    found = of({Counter.latency("candidate", 0.01): 3}).candidate.latency_by_prefix
    assert (found.hit_percent, found.not_told, found.hits.n) == (None, 3, 0)


def test_hits_count_by_assigned_arm_and_by_pair() -> None:
    counts = {
        Counter.labels("candidate"): 10,
        Counter.hit("candidate", 1): 3,
        Counter.hit("candidate", 10): 8,
        Counter.pair_hit(10, incumbent=False, candidate=True): 4,
        Counter.pair_error(incumbent=False, candidate=False): 9,
        Counter.pair_error(incumbent=True, candidate=False): 1,
    }
    found = of(counts)
    assert found.candidate.hits == {1: 3, 5: 0, 10: 8}
    assert found.pair_hits[10] == {"00": 0, "01": 4, "10": 0, "11": 0}
    assert found.pairs == 10


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("7|<=100|assigned.nobody", 1, "unknown counter 'assigned.nobody'"),
        ("7|<=100|hit3.candidate", 1, "unknown counter 'hit3.candidate'"),
        ("7|<=100|latency.candidate.x", 1, "unknown counter 'latency.candidate.x'"),
        ("7|<=100|assigned.candidate\n", 1, "unknown counter"),
        ("7|<=100|over.candidate.p42", 1, "unknown counter 'over.candidate.p42'"),
        ("7|<=100|first.first.assigned.candidate", 1, "unknown counter"),
        ("7|<=100|prefix.near.latency.candidate.7", 1, "unknown counter"),
        ("7|<=100|first.prefix.hit.latency.candidate.7", 1, "unknown counter"),
        ("7|<=100|first.keyless", 1, "unknown counter 'first.keyless'"),
        ("7|0-100|keyless", 1, "unknown stratum '0-100'"),
        ("keyless", 1, "minute|stratum|counter"),
        ("x|<=100|keyless", 1, "minute|stratum|counter"),
        ("|<=100|keyless", 1, "minute|stratum|counter"),
        ("--|<=100|keyless", 1, "minute|stratum|counter"),
        ("7|<=100|keyless", -1, "a whole number, 0 or more"),
        ("7|<=100|keyless", "1", "a whole number, 0 or more"),
    ],
)
def test_a_count_outside_the_closed_set_is_refused_in_one_sentence(
    field: str, value: int, words: str
) -> None:
    with pytest.raises(CountsError) as caught:
        tally(STAGE, {field: value})
    assert words in str(caught.value)
    assert repr(field) in str(caught.value)
