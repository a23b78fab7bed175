"""The explanation: every reason for which a rollout stands where it does, in words and figures."""

from dataclasses import replace
from typing import Any, get_args

import pytest
from judged import World, healthy, look

from rollout.explain import Situation, explain
from rollout.explanation import Explanation
from rollout.freeze import Freeze
from rollout.gates import Required
from rollout.machine import AuditEntry, Detail, Event, Record, begin, step
from rollout.minutes import Horizon
from rollout.pace import RECENT_S, Lately, Pace, pace
from rollout.plan import DEFAULT_PLAN, Plan
from rollout.snapshot import DEFAULT_TIERS, Counter, Heartbeat, Position
from rollout.tally import StageTally, stage_counts, tally
from rollout.tick import Facts, Stay, tick
from rollout.verdict import Check, Evidence, Judgement, Kind, Per, Verdict, combine

NOW = 10_000.0
HERE = Position(1, 7)
GATEWAY = Heartbeat(boot="gw-1", at=NOW, epoch=1, version=7, held=False)
ALWAYS = Freeze(begins="1970-01-01 00:00", ends="2100-01-01 00:00", why="the year's end")


def begun(plan: Plan = DEFAULT_PLAN, *events: Event, at: float = 6400.0) -> Record:
    record = begin(plan, DEFAULT_TIERS, id_="r1", salt="s", now=at)
    record = step(record, "settle", at)
    for event in events:
        record = step(record, event, 9000.0, Detail(cause="limit", reason="a limit", actor="ann"))
    return record


def figures(requests: int = 0, pairs: int = 0, labels: int = 0, keyless: int = 0) -> StageTally:
    counts = {
        Counter.assigned("incumbent"): requests,
        Counter.pair_error(incumbent=False, candidate=False): pairs,
        Counter.labels("incumbent"): labels,
        Counter.KEYLESS: keyless,
    }
    stage = DEFAULT_PLAN.stages[0]
    return tally(stage, {f"-|101-200|{name}": value for name, value in counts.items()})


def proof(needed: int | None, per: Per = "pairs") -> Evidence:
    return Evidence(
        metric="errors", stage="shadow-5", counts={"alike": 3}, ln_e=1.0, e_value=2.7,
        threshold=20.0, rule="a test", needed=needed, per=per,
    )  # fmt: skip


def judged(kind: Kind = "INCONCLUSIVE", evidence: Evidence | None = None) -> Judgement:
    check = Check(
        name="paired errors", kind=kind, observed="0", required="1", reason="some errors",
        evidence=evidence,
    )  # fmt: skip
    return Judgement.of(combine((check,)))


def entry(command: str, actor: str, reason: str, **changes: Any) -> AuditEntry:
    fields: dict[str, Any] = {
        "at": 6400.0, "rollout": "r1", "state_before": "none", "state_after": "running",
        "stage_before": "-", "stage_after": "shadow-5", "epoch": 1, "version": 1,
    }  # fmt: skip
    return AuditEntry(command=command, actor=actor, reason=reason, **(fields | changes))


def situation(record: Record | None = None, **changes: Any) -> Situation:
    record = record or begun()
    judgement = judged()
    found = Situation(
        record=record,
        now=NOW,
        position=HERE,
        alive=(GATEWAY,),
        leader="one",
        store_lost=None,
        figures=figures(720, 36, 10),
        judgement=None if record.ended else judgement,
        move=None if record.ended else tick(record, judgement, NOW, Facts(gateways=1)),
        entries=(
            entry("start", "ann", "weights of May"),
            entry("settle", "controller", "all are there", stage_before="shadow-5"),
        ),
        ticker="controller",
    )
    found = replace(found, **changes)
    if found.pace is None and not record.ended and found.figures is not None:
        found = replace(found, pace=steady(found))
    return found


def steady(seen: Situation) -> Pace:
    """What came in, came evenly since the stage has settled, and the judge reads all of it."""
    record, figures_ = seen.record, seen.figures
    assert figures_ is not None
    counts = {
        "assigned.incumbent": figures_.incumbent.assigned,
        "assigned.candidate": figures_.candidate.assigned,
        "pair.error.00": figures_.pairs,
        "labels.incumbent": figures_.incumbent.labels,
        "labels.candidate": figures_.candidate.labels,
        "pair.hit1.00": sum(figures_.pair_hits[1].values()),
    }
    settled = record.visits[-1].settled_at
    minutes = range(int((settled or NOW) // 60), int(NOW // 60))
    every = {
        f"{minute}|101-200|{name}": total * (place + 1) // len(minutes)
        - total * place // len(minutes)
        for place, minute in enumerate(minutes)
        for name, total in counts.items()
    }
    recent = Horizon(NOW, RECENT_S, 60).recent
    raw = {f"-|101-200|{name}": total for name, total in counts.items()}
    return pace(
        NOW,
        record.plan,
        Lately(
            stage=record.stage,
            counts=stage_counts(raw, {}, {}),
            recent={
                name: by for name, by in every.items() if int(name.partition("|")[0]) in recent
            },
            unclosed={},
            horizon=Horizon(NOW, 60, 3600),
            settled_at=settled,
        ),
    )


def notices(seen: Explanation) -> set[str]:
    return {notice.name for notice in seen.notices}


def test_what_is_missing_is_projected_with_the_present_rate() -> None:
    """720 requests and 36 pairs in an hour: 0.2 and 0.01 a second."""
    world = World(DEFAULT_PLAN.stages[0], incumbent=720, pairs=36)
    seen = explain(situation(judgement=look(world.seen(), elapsed_s=3600)))
    missing = {need.check: need for need in seen.missing}
    assert missing["minimum requests"].needed == 280
    assert missing["minimum requests"].seconds == pytest.approx(1400)
    assert missing["minimum pairs"].seconds == pytest.approx(1400)
    assert missing["paired errors"].needed is not None
    assert missing["paired errors"].seconds == pytest.approx(missing["paired errors"].needed / 0.01)
    assert missing["minimum duration"].needed == pytest.approx(7 * 86_400 - 3600)
    assert seen.earliest_s == missing["minimum duration"].seconds
    assert seen.traffic is not None
    assert seen.traffic.requests_per_s == pytest.approx(0.2)


def test_without_traffic_nothing_is_in_sight_and_that_is_said() -> None:
    nothing = look(World(DEFAULT_PLAN.stages[0]).seen(), elapsed_s=3600)
    seen = explain(situation(figures=figures(), judgement=nothing))
    assert seen.earliest_s is None
    assert "no_traffic" in notices(seen)
    assert "no_labels" not in notices(seen)
    outlooks = {need.check: need.outlook for need in seen.missing}
    assert outlooks["minimum requests"] == "never"
    assert outlooks["paired errors"] == "too_early"
    undecided = explain(situation(judgement=judged(evidence=proof(None))))
    (need,) = [need for need in undecided.missing if need.check == "paired errors"]
    assert (need.needed, need.seconds, undecided.earliest_s) == (None, None, None)
    assert need.outlook == "undecided"


@pytest.mark.parametrize(
    ("changes", "name", "part"),
    [
        ({"leader": None}, "no_leader", "nothing happens by itself"),
        ({"alive": ()}, "no_gateway", "no gateway is alive"),
        (
            {"alive": (GATEWAY, GATEWAY.model_copy(update={"boot": "gw-2", "version": 6}))},
            "gateway_behind",
            "1 of 2 gateways have not applied version 1.7: gw-2",
        ),
        (
            {"alive": (GATEWAY.model_copy(update={"held": True}),)},
            "held_locally",
            "hold-at-incumbent: gw-1",
        ),
        (
            {"alive": (GATEWAY.model_copy(update={"dropped": 12_000}),)},
            "counts_dropped",
            "12,000 counts were lost",
        ),
        ({"store_lost": "the store lost its memory"}, "store_lost", "only an abort is safe"),
        ({"figures": figures(720)}, "no_labels", "no label has arrived for 720 requests"),
    ],
)
def test_every_condition_that_keeps_it_from_going_on_has_a_notice(
    changes: dict[str, Any], name: str, part: str
) -> None:
    assert name not in notices(explain(situation()))
    found = [one.told for one in explain(situation(**changes)).notices if one.name == name]
    assert len(found) == 1
    assert part in found[0]


def test_a_freeze_window_and_keyless_traffic_have_notices() -> None:
    plan = DEFAULT_PLAN.model_copy(update={"unit": "key", "freeze": (ALWAYS,)})
    seen = explain(situation(begun(plan), figures=figures(300, keyless=100, labels=1)))
    told = {notice.name: notice.told for notice in seen.notices}
    assert told["frozen"].startswith("frozen until 2100-01-01 00:00 UTC (the year's end)")
    assert told["keyless"].startswith("25.0 % of the requests in scope have no routing key")
    by_request = explain(situation(figures=figures(300, keyless=100, labels=1)))
    assert "keyless" not in notices(by_request)


def test_a_stage_that_has_not_settled_is_in_its_warm_up() -> None:
    record = begin(DEFAULT_PLAN, DEFAULT_TIERS, id_="r1", salt="s", now=6400.0)
    assert notices(explain(situation(record, figures=figures()))) == {"warm_up"}


def test_a_young_stage_is_not_blamed_for_having_seen_nothing() -> None:
    assert notices(explain(situation(begun(at=NOW - 30), figures=figures()))) == set()


def test_a_hold_is_explained_by_its_cause_and_a_pause_by_who_paused() -> None:
    held = explain(situation(begun(DEFAULT_PLAN, "hold")))
    assert held.headline == "r1 is held in the stage shadow-5 (1 of 4)"
    assert held.because[0] == "The controller holds it for 16 min 40 s: a limit"
    paused = explain(
        situation(
            begun(DEFAULT_PLAN, "pause"), entries=(entry("pause", "ann", "lunch", at=9000.0),)
        )
    )
    assert paused.because[0] == "ann paused it: lunch"
    assert "resume" in paused.because[-1]


def test_a_guard_that_fires_is_said_with_its_evidence() -> None:
    seen = explain(situation(judgement=judged("FAIL", proof(None))))
    assert seen.guard is not None
    assert seen.guard.checks[0].evidence == proof(None)
    assert "The rollback guard says FAIL: failed: some errors" in seen.because


def test_an_end_is_explained_by_the_audit_and_what_the_stage_was_left_on() -> None:
    verdict = Verdict(kind="FAIL", checks=(), reason="failed: 9 errors")
    record = step(begun(), "rollback", 9000.0, Detail(verdict=verdict))
    rolled = entry(
        "rollback", "controller", "failed: 9 errors", note="failed: 9 errors",
        state_after="rolled_back",
    )  # fmt: skip
    seen = explain(situation(record, entries=(rolled,)))
    assert seen.headline == "r1 was rolled back in the stage shadow-5 (1 of 4)"
    assert seen.because == (
        "controller did it (rollback): failed: 9 errors; the gate of shadow-5 said FAIL",
    )
    assert (seen.verdict, seen.guard, seen.next, seen.weight) == (verdict, None, None, 0)
    # what nobody judged when it ended, as at an abort, is judged at its counts
    late = judged("ERROR")
    aborted = explain(situation(step(begun(), "abort", 9000.0), judgement=late, entries=()))
    assert (aborted.verdict, aborted.guard) == (late.gate, late.guard)
    assert "the gate of shadow-5 says now ERROR: " in aborted.because[0]
    assert (seen.missing, seen.notices) == ((), ())
    forgotten = explain(situation(record, entries=()))
    assert "the audit remembers it no more" in forgotten.because[0]


def test_who_acted_last_is_told_apart_from_the_last_person() -> None:
    seen = explain(situation())
    assert seen.last is not None
    assert seen.last_person is not None
    assert (seen.last.actor, seen.last_person.actor) == ("controller", "ann")
    assert "entered by ann, 1 h ago: start, weights of May" in seen.because[1]


def test_the_next_look_is_what_the_tick_would_do() -> None:
    record = begun(DEFAULT_PLAN.model_copy(update={"on_pass": "advance"}))
    passed = judged("PASS")
    move = tick(record, passed, NOW, Facts(gateways=1))
    seen = explain(situation(record, judgement=passed, move=move))
    assert seen.next == "advance, at the next look: passed: some errors"
    waits = explain(situation(move=Stay("because")))
    assert waits.next == "because"


def test_an_explanation_survives_its_json() -> None:
    seen = explain(situation(judgement=judged(evidence=proof(7))))
    assert Explanation.model_validate_json(seen.model_dump_json()) == seen


ALL_MARKS = ("budget", "p50", "p95")


def demanding(index: int, **changes: Any) -> Plan:
    """A plan whose stage requires everything that it can measure."""
    stages = list(DEFAULT_PLAN.stages)
    able = [name for name in get_args(Required) if index or name != "errors"]
    stages[index] = stages[index].model_copy(update={"require": tuple(able), **changes})
    return Plan.model_validate(DEFAULT_PLAN.model_copy(update={"stages": tuple(stages)}))


def small(plan: Plan, index: int, n: int) -> World:
    """Too little of everything, and every kind of observation in it."""
    stage = plan.stages[index]
    world = healthy(stage, n)
    fine = {"pair.over.p50.10": world.pairs // 4, "over.incumbent.p50": world.incumbent // 4}
    hits = {"hit1.candidate": world.labels[1] * 4 // 10, "pair.hit1.11": world.pairs * 4 // 10}
    return replace(world, more=fine | hits | {"pair.overlap10.40": world.pairs})


def in_stage(plan: Plan, index: int) -> Record:
    """A rollout of `plan` that has settled in one of its stages an hour ago."""
    record = begun(plan)
    for _ in range(index):
        record = step(step(record, "promote", 6400.0), "settle", 6400.0)
    return record


def test_every_required_check_that_is_undecided_says_when_it_is_decided() -> None:
    """Whatever a test counts comes in at some rate: the time to its end is never left out."""
    seen: set[str] = set()
    unpaired: dict[str, Any] = {"pair_hits": (0, 0, 0, 0)}
    for index, changes in [*((index, {}) for index in range(4)), (2, unpaired)]:
        plan = demanding(index, min_requests=500, min_pairs=300)
        world = replace(small(plan, index, 400 if changes else 100), **changes)
        judgement = look(world.seen(), plan=plan, marks=ALL_MARKS, elapsed_s=3600)
        raw = {f"-|101-200|{name}": n for name, n in world.counts.items()}
        figures_ = tally(plan.stages[index], raw)
        found = explain(situation(in_stage(plan, index), judgement=judgement, figures=figures_))
        undecided = [
            check.name
            for check in judgement.gate.checks
            if check.decides and check.evidence and check.evidence.needed
        ]
        assert undecided, plan.stages[index].name
        assert set(undecided) <= {need.check for need in found.missing}
        for need in found.missing:
            if need.needed is not None:
                assert need.seconds is not None, (plan.stages[index].name, need)
                assert "never" not in need.told
                seen.add(need.quantity)
    assert seen == {"seconds", *get_args(Per)}


def test_an_evidence_of_a_former_version_is_read() -> None:
    old = proof(7).model_dump() | {"per": "labels"}
    assert Evidence.model_validate(old).per == "labelled candidate requests"


def test_what_could_not_be_measured_comes_with_what_to_do() -> None:
    world = replace(healthy(DEFAULT_PLAN.stages[0]), lost=900)
    seen = explain(situation(judgement=look(world.seen())))
    told = " ".join(seen.because)
    assert "could not be measured: " in told
    assert "(dropped: 900 mirror queue full)" in told
    assert "What to do about mirror coverage: give the candidate's servers more room" in told


def test_a_note_that_repeats_the_reason_is_said_once() -> None:
    entered = entry("advance", "controller", "passed: all 7 checks", note="passed: all 7 checks")
    seen = explain(situation(entries=(entered,)))
    assert " ".join(seen.because).count("passed: all 7 checks") == 1
