"""The machine: one table, and nothing but the table."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.diagram import markdown, mermaid
from rollout.judging.judge import Check, Verdict, combine
from rollout.machine import (
    EVENTS_OF,
    LIVE,
    MEANING,
    TRANSITIONS,
    Command,
    Detail,
    Event,
    IllegalTransition,
    Record,
    begin,
    commands,
    event_of,
    legal,
    live,
    step,
    tiers_after,
)
from rollout.orders import describe
from rollout.plan import DEFAULT_PLAN
from rollout.snapshot import DEFAULT_TIERS, Tier
from rollout.tiers import CannotStart, merge_tiers, table_changes

EVENTS: tuple[Event, ...] = tuple(MEANING)


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
        record = step(record, event_of("advance", record), 200.0)
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
    told = "is illegal: r1 is paused in its stage 'shadow-5'; possible is resume, abort"
    with pytest.raises(IllegalTransition, match=f"advance {told}"):
        step(paused, "advance", 300.0)
    with pytest.raises(IllegalTransition, match=f"approve {told}"):
        event_of("approve", paused)
    ended = walk(paused, "abort")
    with pytest.raises(
        IllegalTransition, match=r"advance .* has ended \(aborted\); possible is retry"
    ):
        event_of("advance", ended)


def test_the_last_stage_is_finished_and_no_other() -> None:
    with pytest.raises(IllegalTransition, match="finish is illegal"):
        step(begun(), "finish", 300.0)
    with pytest.raises(IllegalTransition, match="advance is illegal"):
        walk(begun(), "advance", "advance", "advance", "advance")


def test_the_verdict_is_kept_under_the_stage_that_was_left() -> None:
    verdict = Verdict(kind="PASS", checks=(), reason="passed: enough")
    left = step(begun(), "advance", 300.0, Detail(verdict=verdict))
    assert left.verdicts == {"shadow-5": verdict}


DETAIL = Detail(actor="ann", cause="approval", reason="why", identities={"phase2": ("b",)})


@given(st.lists(st.sampled_from(EVENTS), max_size=16))
def test_any_sequence_of_events_keeps_to_the_table(events: list[Event]) -> None:
    record, now = begun(), 100.0
    for event in events:
        now += 1
        before = record.model_dump_json()
        try:
            after = step(record, event, now, DETAIL)
        except IllegalTransition:
            assert event not in legal(record)
            assert record.model_dump_json() == before
            continue
        assert after.state == TRANSITIONS[record.state, event]
        assert after.stage_index - record.stage_index == (event in ("advance", "promote"))
        assert after.evidence_epoch - record.evidence_epoch == (event == "void")
        assert after.ended == (live(after) is None) == (after.ended_at is not None)
        assert [visit.left_at is None for visit in after.visits].count(True) == (not after.ended)
        assert after.visits[-1].evidence_epoch == after.evidence_epoch
        assert (after.asked_at is not None) == (after.state == "waiting")
        assert after.hold is not None or after.state != "held"
        if after.state != "succeeded":
            assert tiers_after(after) == DEFAULT_TIERS
        assert Record.model_validate_json(after.model_dump_json()) == after
        record = after
    if record.ended and record.state != "succeeded":
        assert legal(record) == commands(record) == ()


def test_an_abort_and_a_rollback_are_legal_in_every_live_state() -> None:
    assert {state for state, event in TRANSITIONS if event == "abort"} == set(LIVE)
    assert {state for state, event in TRANSITIONS if event == "rollback"} == set(LIVE)


def test_a_stage_settles_once_in_every_live_state_and_anew_when_it_is_entered_again() -> None:
    assert {state for state, event in TRANSITIONS if event == "settle"} == set(LIVE)
    record = walk(begun(), "pause", "settle")
    assert record.visits[-1].settled_at == 200.0
    with pytest.raises(IllegalTransition, match="settle is illegal"):
        walk(record, "settle")
    for event in ("void", "resume"):
        again = walk(record, event)
        assert ("settle" in legal(again)) == (event == "void")
    assert "settle" in legal(walk(record, "resume", "advance"))


def test_what_is_over_stays_over_but_for_the_undo_of_a_success() -> None:
    ends = {"aborted", "rolled_back", "undone", "succeeded"}
    assert {(s, e) for s, e in TRANSITIONS if s in ends} == {("succeeded", "undo")}


def test_no_command_means_two_events_at_once() -> None:
    reached = [begun(), walk(begun(), "advance", "advance", "advance"), walk(begun(), "ask")]
    reached += [step(walk(begun(), "ask"), "lapse", 300.0, DETAIL), walk(begun(), "pause")]
    for record in reached:
        for events in EVENTS_OF.values():
            assert len(set(events) & set(legal(record))) <= 1


def test_an_undo_takes_a_success_back_in_one_step() -> None:
    succeeded = walk(begun(scope="all"), "advance", "advance", "advance", "finish")
    assert active(succeeded) == {"phase1": False, "phase2": True}
    undone = walk(succeeded, "undo")
    assert (undone.state, tiers_after(undone), live(undone)) == ("undone", DEFAULT_TIERS, None)
    assert undone.ended_at == succeeded.ended_at


def test_a_promotion_may_go_to_the_last_stage_and_never_back() -> None:
    record = step(begun(), "promote", 300.0, Detail(to=3))
    assert (record.stage.name, record.state) == ("ab-100", "running")
    for to in (0, 9):
        with pytest.raises(IllegalTransition, match="ahead lie ab-50, ab-100"):
            step(walk(begun(), "advance"), "promote", 300.0, Detail(to=to))


def test_an_approval_is_of_its_stage_alone() -> None:
    asked = walk(begun(), "ask")
    assert commands(asked) == ("promote", "approve", "pause", "abort")
    approved = step(asked, "approve", 300.0, DETAIL)
    assert approved.approval is not None
    assert (approved.state, approved.approval.actor) == ("running", "ann")
    assert walk(approved, "advance").approval is None


def test_a_late_approval_releases_what_was_held_for_it_and_nothing_else() -> None:
    late = step(walk(begun(), "ask"), "lapse", 300.0, DETAIL)
    assert event_of("approve", late) == "reopen"
    held = step(begun(), "hold", 300.0, Detail(cause="evidence", reason="errors"))
    with pytest.raises(IllegalTransition, match="approve is illegal"):
        event_of("approve", held)


def test_a_model_that_changed_voids_the_evidence_and_holds() -> None:
    known = step(begun(), "identify", 150.0, Detail(identities={"phase1": ("a",)}))
    record = step(known, "void", 300.0, Detail(identities={"phase1": ("c",)}, reason="new weights"))
    assert (record.state, record.evidence_epoch, record.stage_index) == ("held", 2, 0)
    assert [(v.stage, v.evidence_epoch, v.left_at) for v in record.visits] == [
        ("shadow-5", 1, 300.0),
        ("shadow-5", 2, None),
    ]
    assert record.hold is not None
    assert (record.hold.cause, record.identities) == ("model", {"phase1": ("c",)})
    split = live(record)
    assert split is not None
    assert (split.evidence_epoch, split.weight) == (2, 5)


def test_a_retry_knows_which_attempt_it_is_and_of_what() -> None:
    first = walk(begun(), "abort")
    again = begin(first.plan, DEFAULT_TIERS, id_="r2", salt="t", now=400.0, retry_of=first)
    assert (again.attempt, again.retry_of, again.evidence_epoch) == (2, "r1", 1)


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


def test_the_diagram_has_one_arrow_for_each_pair_of_states() -> None:
    drawn = mermaid()
    assert drawn.startswith("stateDiagram-v2\n")
    pairs = {(before, after) for (before, _), after in TRANSITIONS.items()}
    assert drawn.count("-->") == len(pairs) + 3
    assert "    running --> held: hold, void" in drawn


def test_the_diagram_and_the_events_in_the_docs_are_the_table() -> None:
    docs = (Path(__file__).parents[3] / "docs" / "rollout.md").read_text()
    assert f"```mermaid\n{mermaid()}```" in docs
    assert markdown() in docs


def test_every_event_is_explained_and_every_command_means_something() -> None:
    assert {event for _, event in TRANSITIONS} == set(MEANING)
    meant: set[Command] = set(EVENTS_OF)
    assert {event for name in meant for event in EVENTS_OF[name]} <= set(MEANING)


def test_a_record_in_which_the_guard_took_the_place_of_the_gate_is_read() -> None:
    """A former version kept one verdict of a stage that was rolled back: the guard's."""
    fired = Check(
        name="rollback guard", kind="FAIL", observed="e-value 101", required="below 100", reason="-"
    )
    record = step(begun(), "rollback", 9.0, Detail(verdict=combine((fired,))))
    old = record.model_dump(mode="json", exclude={"guard"})
    read = Record.model_validate_json(json.dumps(old))
    assert read.verdicts == {}
    assert read.guard == record.verdicts["shadow-5"]
    left = step(begun(), "advance", 9.0, Detail(verdict=Verdict(kind="PASS", checks=(), reason="")))
    old = left.model_dump(mode="json", exclude={"guard"})
    assert Record.model_validate(old) == left


def test_what_is_offered_leads_on() -> None:
    """An approval only where one is asked for, and a retry where the plan allows another."""
    assert "approve" not in commands(begun())
    asked = tuple(stage.model_copy(update={"approval": True}) for stage in DEFAULT_PLAN.stages)
    assert "approve" in commands(begun(stages=asked))
    ended = step(begun(), "abort", 9.0)
    with pytest.raises(IllegalTransition, match=r"has ended \(aborted\); possible is retry"):
        step(ended, "pause", 9.0)
    assert describe(ended).commands == ("retry",)
    last = step(begun(max_retries=0), "abort", 9.0)
    with pytest.raises(IllegalTransition, match="possible is nothing"):
        step(last, "pause", 9.0)
