"""What a rollout does by itself, and all the reasons for which it does nothing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.freeze import Freeze
from rollout.judging.judge import Judgement, Kind, Verdict
from rollout.machine import Detail, Event, Record, begin, step
from rollout.plan import DEFAULT_PLAN, Plan
from rollout.snapshot import DEFAULT_TIERS
from rollout.tick import Act, Facts, Move, Stay, models, tick

PLAN = Plan.model_validate(DEFAULT_PLAN.model_dump() | {"on_pass": "advance"})
HEALTHY = Facts(gateways=2, requests=5000)
ALWAYS = Freeze(begins="1970-01-01 00:00", ends="2100-01-01 00:00", why="the year's end")


def plan(stage: dict[str, Any] | None = None, **changes: Any) -> Plan:
    small = {"min_duration_s": 0.0, "min_requests": 1, **(stage or {})}
    stages = tuple(each.model_copy(update=small) for each in PLAN.stages)
    return PLAN.model_copy(update={"stages": stages, **changes})


def begun(plan_: Plan = PLAN, *events: Event, at: float = 100.0) -> Record:
    record = begin(plan_, DEFAULT_TIERS, id_="r1", salt="s", now=at)
    for event in events:
        record = step(record, event, at, Detail(cause="limit", reason="a reason"))
    return record if record.ended else step(record, "settle", at)


def entered(plan_: Plan = PLAN, *events: Event) -> Record:
    """Give a record whose stage gateways have not all applied yet."""
    record = begun(plan_, *events)
    *before, last = record.visits
    return record.model_copy(
        update={"visits": (*before, last.model_copy(update={"settled_at": None}))}
    )


def judged(gate: Kind = "PASS", guard: Kind = "PASS") -> Judgement:
    asked, armed = (Verdict(kind=kind, checks=(), reason=f"it is {kind}") for kind in (gate, guard))
    return Judgement(asked, armed)


def look(
    record: Record, judgement: Judgement | None = None, now: float = 200.0, facts: Facts = HEALTHY
) -> Move:
    return tick(record, judgement or judged(), now, facts)


def event(move: Move) -> Event:
    assert isinstance(move, Act), move
    return move.event


def said(move: Move) -> str:
    assert isinstance(move, Stay), move
    return move.reason


def test_a_gate_that_passes_advances_by_itself_where_the_plan_says_so() -> None:
    assert event(look(begun())) == "advance"
    assert event(look(begun(PLAN, "advance", "advance", "advance"))) == "finish"
    assert "a person decides" in said(look(begun(DEFAULT_PLAN)))


@pytest.mark.parametrize("kind", ["INCONCLUSIVE", "ERROR", "FAIL"])
def test_nothing_but_a_pass_advances(kind: Kind) -> None:
    assert said(look(begun(), judged(kind))) == f"it is {kind}"


@pytest.mark.parametrize(
    ("facts", "part"),
    [
        (Facts(), "no gateway is alive"),
        (Facts(gateways=3, behind=1), "1 of 3 gateways have not applied this version"),
        (Facts(gateways=3, store_lost=True), "the store lost its memory"),
    ],
)
def test_silence_never_promotes(facts: Facts, part: str) -> None:
    assert part in said(look(begun(), facts=facts))


@pytest.mark.parametrize("before", [(), ("ask",), ("hold",), ("pause",)])
def test_the_guard_rolls_back_from_every_live_state(before: tuple[Event, ...]) -> None:
    for windows in ((), (ALWAYS,)):
        move = look(begun(plan(freeze=windows), *before), judged("FAIL", "FAIL"))
        assert event(move) == "rollback"


def test_a_plan_may_have_the_guard_hold_and_a_pause_stays_one() -> None:
    holding = plan(on_fail="hold")
    move = look(begun(holding), judged("FAIL", "FAIL"))
    assert (event(move), move.reason) == ("hold", "it is FAIL")
    assert "held" in said(look(begun(holding, "hold"), judged("FAIL", "FAIL")))
    assert "paused" in said(look(begun(holding, "pause"), judged("FAIL", "FAIL")))


def test_a_freeze_window_holds_what_would_advance_and_says_until_when() -> None:
    frozen = said(look(begun(plan(freeze=(ALWAYS,)))))
    assert frozen == "the gate has passed, but frozen until 2100-01-01 00:00 UTC (the year's end)"


def test_an_approval_is_asked_for_awaited_and_lapses_into_a_hold() -> None:
    asking = plan({"approval": True, "approval_timeout_s": 60.0})
    assert event(look(begun(asking))) == "ask"
    waiting = begun(asking, "ask")
    assert "an approval is awaited, for 20 s more" in said(look(waiting, now=140.0))
    move = look(waiting, now=160.0)
    assert (event(move), move.reason) == ("lapse", "nobody approved within 1 min")
    assert event(look(step(waiting, "approve", 150.0, Detail(actor="ann")))) == "advance"


def test_no_approval_is_asked_for_in_a_freeze_window() -> None:
    assert "frozen" in said(look(begun(plan({"approval": True}, freeze=(ALWAYS,)))))


@pytest.mark.parametrize(
    ("limits", "facts", "part"),
    [
        ({"max_duration_s": 100.0}, HEALTHY, "has lasted 1 min 40 s of at most 1 min 40 s"),
        ({"max_requests": 5000}, HEALTHY, "5000 of at most 5000 requests"),
    ],
)
def test_a_limit_reached_undecided_holds_or_rolls_back(
    limits: dict[str, Any], facts: Facts, part: str
) -> None:
    move = look(begun(plan(limits)), judged("INCONCLUSIVE"), facts=facts)
    assert event(move) == "hold"
    assert part in move.reason
    back = look(begun(plan(limits, on_inconclusive="rollback")), judged("ERROR"), facts=facts)
    assert event(back) == "rollback"
    assert event(look(begun(plan(limits)), facts=facts)) == "advance"


def test_a_person_may_let_a_stage_go_on_past_its_limit() -> None:
    released = begun(plan({"max_requests": 10}), "hold", "release")
    assert said(look(released, judged("INCONCLUSIVE"))) == "it is INCONCLUSIVE"


def test_what_cannot_be_measured_waits_or_holds() -> None:
    assert said(look(begun(), judged("ERROR"))) == "it is ERROR"
    assert event(look(begun(plan(on_error="hold")), judged("ERROR"))) == "hold"


@pytest.mark.parametrize("before", [(), ("ask",), ("hold",), ("pause",), ("advance",)])
def test_a_stage_counts_from_when_every_live_gateway_has_applied_it(
    before: tuple[Event, ...],
) -> None:
    record = entered(PLAN, *before)
    for facts in (Facts(), Facts(gateways=3, behind=1)):
        move = look(record, judged("INCONCLUSIVE"), facts=facts)
        assert isinstance(move, Stay), move
    move = look(record, judged("INCONCLUSIVE"), facts=Facts(gateways=3))
    assert event(move) == "settle"
    assert move.reason.startswith("every live gateway (3) has applied the stage")
    settled = step(record, "settle", 300.0)
    assert settled.visits[-1].settled_at == 300.0
    assert settled.state == record.state
    assert not isinstance(look(settled, judged("INCONCLUSIVE")), Act)


def test_a_guard_that_fires_does_not_wait_until_a_stage_has_settled() -> None:
    assert event(look(entered(), judged("FAIL", "FAIL"))) == "rollback"


def test_after_an_outage_a_tick_skips_no_gate_and_takes_one_step_at_a_time() -> None:
    """Nearly three weeks have passed while nobody looked: each stage still asks its own gate."""
    record, now, steps = entered(), 100.0 + 20 * 86_400.0, list[Event]()
    gates: list[Kind] = ["PASS", "INCONCLUSIVE", "INCONCLUSIVE", "PASS", "PASS", "PASS", "PASS"]
    for gate in gates:
        stages = record.stage_index
        move = look(record, judged(gate), now)
        if isinstance(move, Act):
            steps.append(move.event)
            record = step(record, move.event, now, move.detail)
        assert record.stage_index - stages in (0, 1)
    assert steps == ["settle", "advance", "settle", "advance", "settle"]
    assert record.stage.name == "ab-50"


def test_the_default_plan_holds_for_a_person_what_is_undecided_after_four_weeks() -> None:
    record = begun(DEFAULT_PLAN)
    for days, expected in ((27.9, None), (28.0, "hold")):
        move = look(record, judged("INCONCLUSIVE"), record.visits[-1].entered_at + days * 86_400)
        assert (move.event if isinstance(move, Act) else None) == expected
    assert isinstance(move, Act)
    assert "the stage has lasted 28 d of at most 28 d" in move.reason
    assert look(record, judged("PASS"), 1e9) == look(record, judged("PASS"), 200.0)


def test_models_are_learned_once_and_a_change_voids_the_evidence() -> None:
    seen = Facts(gateways=1, identities={"phase1": ("a",), "phase2": ("b",), "phase9": ("x",)})
    learned = look(begun(), facts=seen)
    assert isinstance(learned, Act)
    assert (learned.event, learned.detail.identities) == (
        "identify", {"phase1": ("a",), "phase2": ("b",)},
    )  # fmt: skip
    known = step(begun(), "identify", 150.0, learned.detail)
    assert event(look(known, facts=seen)) == "advance"
    changed = look(known, facts=Facts(gateways=1, identities={"phase2": ("b", "c")}))
    assert isinstance(changed, Act)
    assert (changed.event, changed.detail.identities) == ("void", {"phase2": ("b", "c")})
    assert "phase2 was b and is b and c" in changed.reason
    voided = step(step(known, "void", 160.0, changed.detail), "settle", 161.0)
    replaced = Facts(gateways=1, identities={"phase2": ("c",)})
    assert "held: a model changed" in said(look(voided, facts=replaced))


def test_a_model_that_nobody_reports_any_more_is_no_change() -> None:
    known = step(begun(), "identify", 150.0, Detail(identities={"phase2": ("b",)}))
    assert event(look(known, facts=HEALTHY)) == "advance"


def test_what_gateways_see_is_gathered_by_arm() -> None:
    seen = [{"phase1": "a"}, {"phase1": "b", "phase2": "c"}, {}]
    assert models(seen) == {"phase1": ("a", "b"), "phase2": ("c",)}


KINDS = st.sampled_from(["PASS", "FAIL", "INCONCLUSIVE", "ERROR"])


@given(
    judgements=st.lists(st.tuples(KINDS, KINDS), max_size=8),
    facts=st.builds(
        Facts, gateways=st.integers(0, 2), behind=st.integers(0, 1), requests=st.integers(0, 50),
        identities=st.sampled_from([{}, {"phase2": ("a",)}, {"phase2": ("b",)}]),
        store_lost=st.booleans(),
    ),
    changes=st.fixed_dictionaries(
        {
            "on_pass": st.sampled_from(["wait", "advance"]),
            "on_fail": st.sampled_from(["rollback", "hold"]),
            "freeze": st.sampled_from([(), (ALWAYS,)]),
        }
    ),
    pace=st.sampled_from([1.0, 1e6]),
)  # fmt: skip
def test_whatever_happens_a_tick_is_legal_takes_one_step_and_never_promotes_without_a_pass(
    judgements: list[tuple[Kind, Kind]], facts: Facts, changes: dict[str, Any], pace: float
) -> None:
    record, now = begun(plan({"max_requests": 40}, **changes)), 100.0
    for gate, guard in judgements:
        now += pace
        move = look(record, judged(gate, guard), now, facts)
        if isinstance(move, Stay):
            continue
        after = step(record, move.event, now, move.detail)
        assert after.stage_index - record.stage_index in (0, 1)
        if move.event in ("advance", "finish"):
            assert gate == "PASS"
            assert guard != "FAIL"
            assert facts.gateways > facts.behind == 0
            assert (changes["on_pass"], changes["freeze"]) == ("advance", ())
        record = after


@pytest.mark.parametrize("gate", ["PASS", "INCONCLUSIVE", "ERROR"])
def test_whatever_ends_a_stage_by_itself_keeps_what_gate_and_guard_said(gate: Kind) -> None:
    judgement = judged(gate, "FAIL")
    move = look(begun(), judgement)
    assert isinstance(move, Act)
    ended = step(begun(), move.event, 200.0, move.detail)
    assert ended.verdicts[ended.stage.name] == judgement.gate
    assert ended.guard == judgement.guard
    assert Record.model_validate_json(ended.model_dump_json()) == ended


def test_after_a_lapsed_approval_the_way_on_is_an_approval() -> None:
    asked = plan({"approval": True})
    held = step(begun(asked, "ask"), "lapse", 300.0, Detail(cause="approval", reason="nobody came"))
    assert said(look(held, now=400.0)) == "held: nobody came; `approve` goes on"
    limited = step(begun(asked), "hold", 300.0, Detail(cause="limit", reason="a limit"))
    assert said(look(limited, now=400.0)) == "held: a limit; `resume` goes on"
