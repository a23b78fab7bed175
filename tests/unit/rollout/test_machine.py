"""The machine: one table, and nothing but the table."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.judge import Verdict
from rollout.machine import (
    TRANSITIONS,
    Event,
    IllegalTransition,
    Record,
    begin,
    legal,
    live,
    mermaid,
    next_event,
    step,
    tiers_after,
)
from rollout.plan import DEFAULT_PLAN
from rollout.snapshot import DEFAULT_TIERS, Tier
from rollout.tiers import CannotStart, merge_tiers, table_changes

EVENTS: tuple[Event, ...] = ("start", "advance", "finish", "pause", "resume", "abort")


def begun(**changes: object) -> Record:
    plan = DEFAULT_PLAN.model_copy(update=changes)
    return begin(plan, DEFAULT_TIERS, id_="r1", salt="s", now=100.0)


def walk(record: Record, *events: Event) -> Record:
    for event in events:
        record = step(record, event, 200.0)
    return record


def active(record: Record) -> dict[str, bool]:
    return {tier.arm: tier.active for tier in tiers_after(record)}


def test_a_rollout_begins_in_its_first_stage_with_the_active_tier_below_as_incumbent() -> None:
    record = begun()
    assert (record.state, record.stage.name, record.incumbent) == ("running", "shadow-5", "phase1")
    split = live(record)
    assert split is not None
    assert (split.mode, split.weight, split.candidate) == ("shadow", 5, "phase2")


@pytest.mark.parametrize(
    ("tiers", "part"),
    [
        ((Tier(arm="phase1", max_length=100),), "is no tier: the table has phase1"),
        (
            (Tier(arm="phase1", max_length=100), Tier(arm="phase2", max_length=500)),
            "is active already",
        ),
        (
            (
                Tier(arm="phase1", max_length=100, active=False),
                Tier(arm="phase2", max_length=500, active=False),
                Tier(arm="phase3", max_length=900),
            ),
            "no active tier below",
        ),
    ],
)
def test_a_rollout_that_the_table_cannot_carry_out_does_not_begin(
    tiers: tuple[Tier, ...], part: str
) -> None:
    with pytest.raises(CannotStart, match=part):
        begin(DEFAULT_PLAN, tiers, id_="r", salt="s", now=0)


def table(**tiers: tuple[int, bool]) -> tuple[Tier, ...]:
    return tuple(Tier(arm=a, max_length=n, active=on) for a, (n, on) in tiers.items())


@pytest.mark.parametrize(
    ("candidate", "scope", "tiers", "part"),
    [
        (
            "phase2",
            "long",
            table(phase1=(100, True), phase2=(500, False), phase3=(1000, True)),
            r"served now by phase3 \(contexts of 101 and more vectors\), and all",
        ),
        (
            "phase2",
            "long",
            table(
                phase1=(100, True), phase2=(500, False), phase3=(1000, True), phase4=(2000, True)
            ),
            r"phase3 \(contexts of 101 to 1000 vectors\) and phase4 \(contexts of 1001 and more",
        ),
        (
            "phase3",
            "all",
            table(phase1=(100, True), phase2=(500, True), phase3=(1000, False)),
            r"served now by phase1 \(contexts of 1 to 100 vectors\), and all",
        ),
    ],
)
def test_a_rollout_whose_scope_a_third_arm_serves_does_not_begin(
    candidate: str, scope: str, tiers: tuple[Tier, ...], part: str
) -> None:
    plan = DEFAULT_PLAN.model_copy(update={"candidate": candidate, "scope": scope})
    with pytest.raises(CannotStart, match=part):
        begin(plan, tiers, id_="r", salt="s", now=0)


def test_tiers_below_the_incumbent_are_out_of_a_long_scope() -> None:
    tiers = table(phase1=(100, True), phase2=(500, True), phase3=(1000, False))
    plan = DEFAULT_PLAN.model_copy(update={"candidate": "phase3"})
    assert begin(plan, tiers, id_="r", salt="s", now=0).incumbent == "phase2"


def test_the_default_plan_walks_through_four_stages_to_success() -> None:
    record = begun()
    weights = []
    for _ in range(4):
        split = live(record)
        assert split is not None
        weights.append(split.weight)
        record = step(record, next_event(record), 200.0)
    assert weights == [5, 25, 50, 100]
    assert (record.state, record.ended_at, live(record)) == ("succeeded", 200.0, None)
    assert all(visit.left_at is not None for visit in record.visits)


def test_success_makes_the_candidate_active() -> None:
    walked = walk(begun(), "advance", "advance", "advance", "finish")
    assert active(walked) == {"phase1": True, "phase2": True}


def test_success_with_scope_all_makes_the_candidate_the_only_active_tier() -> None:
    walked = walk(begun(scope="all"), "advance", "advance", "advance", "finish")
    assert active(walked) == {"phase1": False, "phase2": True}


def test_an_abort_leaves_the_table_as_it_was() -> None:
    walked = walk(begun(), "advance", "pause", "abort")
    assert (tiers_after(walked), live(walked)) == (DEFAULT_TIERS, None)


def test_a_pause_keeps_the_split_as_it_is() -> None:
    running = walk(begun(), "advance")
    assert live(walk(running, "pause")) == live(running)


def test_an_illegal_event_names_the_state_the_event_and_what_is_legal() -> None:
    paused = walk(begun(), "pause")
    told = "advance is illegal: r1 is paused in its stage 'shadow-5'; legal is resume, abort"
    with pytest.raises(IllegalTransition, match=told):
        step(paused, "advance", 300.0)


def test_the_last_stage_is_finished_and_no_other() -> None:
    with pytest.raises(IllegalTransition, match="finish is illegal"):
        step(begun(), "finish", 300.0)
    with pytest.raises(IllegalTransition, match="advance is illegal"):
        walk(begun(), "advance", "advance", "advance", "advance")


def test_the_verdict_is_kept_under_the_stage_that_was_left() -> None:
    verdict = Verdict(kind="PASS", checks=(), reason="passed: enough")
    assert step(begun(), "advance", 300.0, verdict=verdict).verdicts == {"shadow-5": verdict}


@given(st.lists(st.sampled_from(EVENTS), max_size=12))
def test_any_sequence_of_events_keeps_to_the_table(events: list[Event]) -> None:
    record, now = begun(), 100.0
    for event in events:
        now += 1
        before = record.model_dump_json()
        try:
            after = step(record, event, now)
        except IllegalTransition:
            assert event not in legal(record)
            assert record.model_dump_json() == before
            continue
        assert after.state == TRANSITIONS[record.state, event]
        assert after.stage_index - record.stage_index == (event == "advance")
        assert after.ended == (live(after) is None) == (after.ended_at is not None)
        assert [visit.left_at is None for visit in after.visits].count(True) == (not after.ended)
        assert Record.model_validate_json(after.model_dump_json()) == after
        record = after
    if record.ended:
        assert legal(record) == ()


def test_a_tier_that_is_new_in_the_settings_joins_and_outcomes_stay() -> None:
    stored = tuple(tier.model_copy(update={"active": True}) for tier in DEFAULT_TIERS)
    settings = (*DEFAULT_TIERS, Tier(arm="phase3", max_length=1000, active=False))
    merged = {tier.arm: tier.active for tier in merge_tiers(settings, stored)}
    assert merged == {"phase1": True, "phase2": True, "phase3": False}


def test_an_empty_store_takes_the_settings_table_as_it_is() -> None:
    assert merge_tiers(DEFAULT_TIERS, ()) == DEFAULT_TIERS


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        (table(phase1=(150, True), phase2=(500, False)), "phase1 up to 150 serve, where"),
        (table(phase2=(500, True)), "have nothing serve, where phase1 up to 100 serves now"),
        (
            table(phase1=(100, True), phase2=(500, False), phase9=(900, True)),
            "phase1 up to 100 and phase9 up to 900 serve",
        ),
    ],
)
def test_settings_that_would_change_what_serves_are_refused(
    settings: tuple[Tier, ...], part: str
) -> None:
    with pytest.raises(CannotStart, match=part):
        merge_tiers(settings, DEFAULT_TIERS)


def test_every_change_of_a_table_is_told() -> None:
    before = table(a=(100, True), b=(200, False), c=(300, False))
    after = table(a=(100, False), c=(350, False), d=(400, False))
    assert table_changes(before, after) == (
        "b leaves",
        "d joins, up to 400",
        "c reads up to 350 instead of 300",
    )
    assert table_changes(before, before) == ()


def test_the_diagram_has_one_arrow_for_each_transition() -> None:
    drawn = mermaid()
    assert drawn.startswith("stateDiagram-v2\n")
    assert drawn.count("-->") == len(TRANSITIONS) + 2
    assert "    running --> paused: pause" in drawn


def test_the_diagram_in_the_docs_is_the_table() -> None:
    docs = Path(__file__).parents[3] / "docs" / "rollout.md"
    assert f"```mermaid\n{mermaid()}```" in docs.read_text()
