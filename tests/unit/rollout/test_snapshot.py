"""The snapshot: the contract between controllers and gateways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rollout.keys import Keys
from rollout.machine import begin, live, step
from rollout.plan import DEFAULT_PLAN
from rollout.snapshot import (
    DEFAULT_TIERS,
    RELATIVE_ERROR,
    Live,
    Position,
    Snapshot,
    Tier,
    latency_bin,
    latency_of,
    share_bin,
    stratum,
)


def test_positions_are_ordered_by_epoch_then_version_and_written_so() -> None:
    assert Position(2, 1) > Position(1, 9) > Position(1, 8)
    assert Position.parse(str(Position(3, 14))) == (3, 14)


def test_a_snapshot_survives_its_json() -> None:
    record = begin(DEFAULT_PLAN, DEFAULT_TIERS, id_="r", salt="s", now=0)
    snapshot = Snapshot(epoch=1, version=2, tiers=DEFAULT_TIERS, rollout=live(record))
    assert Snapshot.model_validate_json(snapshot.model_dump_json()) == snapshot


def test_a_snapshot_with_an_unknown_arm_is_refused() -> None:
    record = begin(DEFAULT_PLAN, DEFAULT_TIERS, id_="r", salt="s", now=0)
    with pytest.raises(ValidationError, match="the tier table does not hold"):
        Snapshot(epoch=1, version=1, tiers=DEFAULT_TIERS[:1], rollout=live(record))


def test_what_is_decided_before_the_counting_begins_has_a_stage_of_its_own() -> None:
    record = begin(DEFAULT_PLAN, DEFAULT_TIERS, id_="r", salt="s", now=0)
    split = live(record)
    assert split is not None
    settled = live(step(record, "settle", 1.0))
    assert settled is not None
    assert (settled.counted_stage, split.counted_stage) == ("shadow-5", "shadow-5/warm-up")
    assert split.counted_stage not in {stage.name for stage in DEFAULT_PLAN.stages}


def test_marks_have_names_of_a_closed_set_and_survive_json() -> None:
    record = begin(DEFAULT_PLAN, DEFAULT_TIERS, id_="r", salt="s", now=0)
    split = live(record)
    assert split is not None
    marks = {"budget": {"incumbent": 0.5, "candidate": 0.5}}
    marked = Live.model_validate({**split.model_dump(), "marks": marks})
    assert Live.model_validate_json(marked.model_dump_json()) == marked
    assert marked.marks["budget"].candidate == 0.5
    with pytest.raises(ValidationError, match="marks"):
        Live.model_validate({**split.model_dump(), "marks": {"p42": marks["budget"]}})


@pytest.mark.parametrize(
    ("tiers", "part"),
    [
        ((Tier(arm="a", max_length=1), Tier(arm="a", max_length=2)), "stands twice"),
        ((Tier(arm="a", max_length=2), Tier(arm="b", max_length=1)), "must rise"),
        ((Tier(arm="a", max_length=2, active=False),), "no tier is active"),
        ((), "no tier is active"),
    ],
)
def test_a_table_that_could_not_serve_is_refused(tiers: tuple[Tier, ...], part: str) -> None:
    with pytest.raises(ValidationError, match=part):
        Snapshot(epoch=1, version=1, tiers=tiers)


@given(st.floats(2e-6, 1e5))
def test_a_latency_bin_is_within_one_percent(seconds: float) -> None:
    assert latency_of(latency_bin(seconds)) == pytest.approx(seconds, rel=RELATIVE_ERROR * 1.001)


def test_the_latency_bin_equals_the_reference_of_ddsketch() -> None:
    assert latency_bin(100e-6) == 231


@given(st.floats(-1, 1))
def test_a_share_bin_rounds_down_by_less_than_a_hundredth(value: float) -> None:
    assert -1e-6 <= value - share_bin(value) / 100 < 0.01 + 1e-6


@pytest.mark.parametrize(
    ("length", "name"),
    [(1, "<=100"), (100, "<=100"), (101, "101-200"), (500, "351-500"), (501, ">500")],
)
def test_strata_break_at_the_tiers_borders(length: int, name: str) -> None:
    assert stratum(length) == name


def test_all_keys_share_one_hash_tag() -> None:
    keys = Keys("t")
    named = (keys.snapshot, keys.record, keys.audit, keys.changed, keys.gateways)
    made = (keys.idempotency("k"), keys.counts("r", 1, "s"), keys.pending("q"), keys.sequence("b"))
    assert keys.minute("r", 1, "s", 10).startswith("{t}:")
    assert all(key.startswith("{t}:") for key in (*named, *made))
