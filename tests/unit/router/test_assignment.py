"""Which arm answers a request, and why."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.snapshot import DEFAULT_TIERS, Live, Snapshot, Tier
from router.assignment import (
    MIRROR_SALT,
    Decision,
    Reason,
    Refusal,
    bucket,
    decide,
    serving_tier,
    within,
)

UNIT = "0192f1b2-7a51-7c2d-b1f0-0123456789ab"
KEYS = 200_000
HALF_WIDTH = 3.29  # standard normal quantile of a two-sided 99.9 % interval
PERCENT = st.integers(0, 10_000).map(lambda hundredths: hundredths / 100)


def live(**changes: Any) -> Live:
    facts = {
        "id": "r1",
        "candidate": "phase2",
        "incumbent": "phase1",
        "scope": "long",
        "unit": "request",
        "salt": "salt",
        "evidence_epoch": 1,
        "stage": "ab25",
        "mode": "ab",
        "weight": 25,
        "shadow_sample": 5,
        "label_window_s": 60,
    }
    return Live(**{**facts, **changes})


def under(rollout: Live | None, tiers: tuple[Tier, ...] = DEFAULT_TIERS) -> Snapshot:
    return Snapshot(epoch=1, version=1, tiers=tiers, rollout=rollout)


def decided(length: int, snapshot: Snapshot, unit: str = UNIT, **options: Any) -> Decision:
    decision = decide(length, snapshot, request_id=unit, **options)
    assert isinstance(decision, Decision)
    return decision


# --- overrides ----------------------------------------------------------------------------------


@given(
    length=st.integers(1, 1000),
    arm=st.sampled_from(["phase1", "phase2"]),
    weight=PERCENT,
    scope=st.sampled_from(["long", "all"]),
    unit=st.sampled_from(["request", "key"]),
    mode=st.sampled_from(["shadow", "ab"]),
)
def test_an_override_always_wins_and_never_counts_mirrors_or_falls_back(
    length: int, arm: str, weight: float, scope: str, unit: str, mode: str
) -> None:
    rollout = live(weight=weight, scope=scope, unit=unit, mode=mode, shadow_sample=100)
    decision = decided(length, under(rollout), override=arm)
    in_scope = scope == "all" or length > 100
    assert decision == Decision(arm, Reason.OVERRIDE, rollout if in_scope else None)
    assert decided(length, under(None), override=arm) == Decision(arm, Reason.OVERRIDE)


def test_an_override_does_not_make_a_long_context_short() -> None:
    decision = decide(501, under(None), request_id=UNIT, override="phase2", too_long="reject")
    assert decision == Refusal(500)


# --- buckets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("salt", "unit", "expected"),
    [
        ("", "a", 3343),
        ("salt", UNIT, 5109),
        ("salt:mirror", UNIT, 4530),
        ("salt", "customer-17", 7005),
        ("x" * 65, "customer-17", 5507),
        ("sälz", "ключ", 5381),
    ],
)
def test_a_bucket_is_what_every_gateway_of_every_version_computes(
    salt: str, unit: str, expected: int
) -> None:
    assert bucket(salt, unit) == expected


def test_a_bucket_is_the_keyed_hash_of_the_design() -> None:
    digest = hashlib.blake2b(b"customer-17", digest_size=8, key=b"salt").digest()
    assert bucket("salt", "customer-17") == int.from_bytes(digest, "big") % 10_000


def test_a_key_that_is_no_valid_unicode_has_a_bucket_too() -> None:
    assert 0 <= bucket("salt", "\ud800") < 10_000


@given(st.text(), st.text(), PERCENT, PERCENT)
def test_stages_nest_so_no_unit_leaves_while_a_stage_widens(
    salt: str, unit: str, one: float, other: float
) -> None:
    narrow, wide = sorted((one, other))
    assert within(salt, unit, wide) or not within(salt, unit, narrow)


@given(st.text(), st.text())
def test_nobody_is_in_at_0_percent_and_everybody_at_100(salt: str, unit: str) -> None:
    assert (within(salt, unit, 0), within(salt, unit, 100)) == (False, True)


@given(st.integers(0, 10_000))
def test_a_weight_means_that_many_buckets_whatever_its_float_is(hundredths: int) -> None:
    assert round(hundredths / 100 * 10_000 / 100) == hundredths


def test_the_share_of_a_million_keys_is_inside_its_999_per_mille_interval() -> None:
    million = 1_000_000
    buckets = [bucket("s", f"key-{i}") for i in range(million)]
    for percent in (5, 25, 50):
        expected = percent / 100
        share = sum(found < percent * 100 for found in buckets) / million
        assert abs(share - expected) < HALF_WIDTH * (expected * (1 - expected) / million) ** 0.5


def test_the_mirror_sample_says_nothing_about_the_assignment() -> None:
    mirrored = [f"key-{i}" for i in range(KEYS) if within("s" + MIRROR_SALT, f"key-{i}", 10)]
    share = sum(within("s", key, 25) for key in mirrored) / len(mirrored)
    assert abs(share - 0.25) < HALF_WIDTH * (0.25 * 0.75 / len(mirrored)) ** 0.5


def test_a_new_salt_deals_anew() -> None:
    keys = [f"key-{i}" for i in range(20_000)]
    share = sum(within("b", key, 50) for key in keys if within("a", key, 50)) / 10_000
    assert 0.45 < share < 0.55


# --- without a rollout --------------------------------------------------------------------------


@given(
    length=st.integers(1, 3000),
    limits=st.lists(st.integers(1, 2500), min_size=1, max_size=5, unique=True).map(sorted),
    data=st.data(),
)
def test_without_a_rollout_the_first_active_tier_that_holds_the_length_serves(
    length: int, limits: list[int], data: st.DataObject
) -> None:
    flags = data.draw(
        st.lists(st.booleans(), min_size=len(limits), max_size=len(limits)).filter(any)
    )
    tiers = tuple(
        Tier(arm=f"arm{i}", max_length=limit, active=active)
        for i, (limit, active) in enumerate(zip(limits, flags, strict=True))
    )
    decision = decided(length, under(None, tiers))
    active = [tier for tier in tiers if tier.active]
    holding = [tier for tier in active if tier.max_length >= length]
    assert decision.arm == (holding[0] if holding else active[-1]).arm
    assert decision.reason is (Reason.TIER if holding else Reason.OVERFLOW)
    assert (decision.live, decision.role, decision.mirror, decision.fallback) == (None,) * 4
    assert not decision.counted


def test_an_inactive_tier_serves_nothing() -> None:
    assert decided(300, under(None)).arm == "phase1"


def test_a_length_of_exactly_the_limit_is_held() -> None:
    both = (Tier(arm="phase1", max_length=100), Tier(arm="phase2", max_length=500))
    assert [decided(n, under(None, both)).arm for n in (100, 101, 500, 501)] == [
        "phase1",
        "phase2",
        "phase2",
        "phase2",
    ]


def test_the_serving_tier_of_a_length_beyond_all_is_the_last() -> None:
    assert serving_tier(10_000, DEFAULT_TIERS).arm == "phase2"


# --- with a rollout -----------------------------------------------------------------------------


@given(st.integers(1, 100), st.uuids())
def test_what_the_candidate_would_not_be_sent_is_untouched(length: int, unit: Any) -> None:
    decision = decided(length, under(live(weight=100)), str(unit))
    assert (decision.arm, decision.reason, decision.live) == ("phase1", Reason.TIER, None)


@pytest.mark.parametrize("length", [101, 500, 800])
def test_long_contexts_are_in_scope_even_beyond_the_candidates_own_limit(length: int) -> None:
    assert decided(length, under(live())).live == live()


def test_scope_all_takes_short_contexts_in_too() -> None:
    assert decided(1, under(live(scope="all", weight=100))).role == "candidate"


def test_a_candidate_in_the_middle_of_the_table_leaves_longer_contexts_alone() -> None:
    tiers = (
        Tier(arm="phase1", max_length=100),
        Tier(arm="phase2", max_length=500, active=False),
        Tier(arm="phase3", max_length=1000),
    )
    arms = [decided(n, under(live(weight=100), tiers)).arm for n in (50, 300, 800)]
    assert arms == ["phase1", "phase2", "phase3"]


@given(st.uuids(), PERCENT)
def test_in_a_shadow_stage_the_incumbent_answers_and_the_weight_is_mirrored(
    unit: Any, weight: float
) -> None:
    decision = decided(300, under(live(mode="shadow", weight=weight)), str(unit))
    assert (decision.arm, decision.role, decision.reason) == ("phase1", "incumbent", Reason.SHADOW)
    assert decision.mirror == ("phase2" if within("salt:mirror", str(unit), weight) else None)
    assert decision.counted


@given(st.uuids(), PERCENT)
def test_in_an_ab_stage_the_bucket_decides_and_the_other_arm_is_mirrored(
    unit: Any, weight: float
) -> None:
    rollout = live(weight=weight, shadow_sample=100)
    decision = decided(300, under(rollout), str(unit))
    chosen = within("salt", str(unit), weight)
    assert decision.arm == ("phase2" if chosen else "phase1")
    assert decision.mirror == ("phase1" if chosen else "phase2")
    assert decision.reason is (Reason.BUCKET_IN if chosen else Reason.BUCKET_OUT)
    assert decision.fallback == ("phase1" if chosen else None)
    assert decision.counted


@given(st.text(min_size=1), st.uuids(), st.uuids())
def test_with_keys_as_the_unit_equal_keys_stay_together(key: str, one: Any, other: Any) -> None:
    snapshot = under(live(unit="key", weight=50))
    first, second = (decided(300, snapshot, str(unit), key=key) for unit in (one, other))
    assert first == second


@pytest.mark.parametrize(
    ("mode", "weight", "arm"),
    [("ab", 99.99, "phase1"), ("ab", 100, "phase2"), ("shadow", 100, "phase1")],
)
def test_without_its_key_a_request_stays_with_the_incumbent_until_100_percent_and_uncounted(
    mode: str, weight: float, arm: str
) -> None:
    decision = decided(300, under(live(unit="key", mode=mode, weight=weight, shadow_sample=100)))
    assert (decision.arm, decision.reason) == (arm, Reason.KEYLESS)
    assert (decision.counted, decision.mirror) == (False, None)


def test_where_requests_are_the_unit_a_key_changes_nothing() -> None:
    snapshot = under(live(weight=50))
    assert decided(300, snapshot, key="a") == decided(300, snapshot)


@pytest.mark.parametrize("mode", ["ab", "shadow"])
def test_a_held_gateway_sends_the_candidate_nothing_and_counts_nothing(mode: str) -> None:
    decision = decided(300, under(live(mode=mode, weight=100, shadow_sample=100)), held=True)
    assert (decision.arm, decision.reason) == ("phase1", Reason.HELD)
    assert (decision.mirror, decision.counted) == (None, False)


# --- too long -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rollout", [None, live(weight=0), live(weight=100)])
def test_the_policy_reject_looks_at_the_whole_table_and_never_at_the_arm(
    rollout: Live | None,
) -> None:
    held = decide(500, under(rollout), request_id=UNIT, too_long="reject")
    beyond = decide(501, under(rollout), request_id=UNIT, too_long="reject")
    assert isinstance(held, Decision)
    assert beyond == Refusal(limit=500, reason=Reason.TOO_LONG)


def test_the_policy_truncate_refuses_nothing() -> None:
    assert decided(2000, under(None)).reason is Reason.OVERFLOW
