"""The trace: few points, but a stage's first, whatever acted, and a few hundred at any age."""

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from rollout.machine import Record, begin, step
from rollout.plan import DEFAULT_PLAN
from rollout.snapshot import DEFAULT_TIERS
from rollout.tally import tally
from rollout.trace import KEPT_POINTS, SHORTEST_S, Point, due, of_visit, point
from rollout.verdict import Check, Evidence, Judgement, combine

RECORD = begin(DEFAULT_PLAN, DEFAULT_TIERS, id_="r1", salt="s", now=0.0)
DAYS = 86_400.0


def check(name: str, ln_e: float | None, *, decides: bool = True) -> Check:
    evidence = None
    if ln_e is not None:
        evidence = Evidence(
            metric=name, stage="shadow-5", counts={"n": 3}, ln_e=ln_e, e_value=1.0, threshold=20,
            rule="a rule",
        )  # fmt: skip
    return Check(
        name=name, kind="PASS", observed="1", required="2", reason="r", decides=decides,
        evidence=evidence,
    )  # fmt: skip


def look(record: Record, now: float, *checks: Check, high: float = 0.0) -> Point:
    gate = combine((check("duration", None), *checks))
    guard = combine((check("guard", -0.5),))
    figures = tally(record.stage, {"-|101-200|assigned.incumbent": 7, "-|<=100|pair.hit5.01": 2})
    return point(record, figures, Judgement(gate, guard, high), now)


def kept(record: Record, times: list[float]) -> list[Point]:
    points: list[Point] = []
    for now in times:
        if due(points[-1] if points else None, record, now):
            points.append(look(record, now))
    return points


def test_a_point_holds_the_counts_and_the_evidence_of_what_the_gate_requires() -> None:
    told = check("agreement", 9.0, decides=False)
    made = look(RECORD, 5.0, check("paired errors", 2.5), told, check("requests", None), high=1.0)
    assert made.ln_e == {"paired errors": 2.5}
    assert (made.guard_ln_e, made.guard_high, made.gate, made.guard) == (-0.5, 1.0, "PASS", "PASS")
    assert (made.requests, made.pair_hits[5]["01"]) == (7, 2)
    assert Point.model_validate_json(made.model_dump_json()) == made


def test_certainty_survives_json() -> None:
    made = look(RECORD, 5.0, check("errors", math.inf), high=math.inf)
    assert Point.model_validate_json(made.model_dump_json()) == made
    assert made.ln_e["errors"] > 600


def test_counts_that_cannot_be_read_leave_a_point_without_figures() -> None:
    made = point(RECORD, None, Judgement.of(combine((check("errors", 1.0),))), 5.0)
    assert (made.requests, made.pair_hits) == (0, {})


def test_the_first_look_at_a_stage_or_an_epoch_and_every_act_is_kept() -> None:
    at = 30 * DAYS
    last = look(RECORD, at)
    assert not due(last, RECORD, at + 1)
    assert due(None, RECORD, at + 1)
    assert due(last, RECORD, at + 1, acts=True)
    settled = step(RECORD, "settle", at)
    assert due(last, step(settled, "advance", at), at + 1)
    assert due(last, step(settled, "void", at), at + 1)


def test_four_weeks_of_looks_each_second_leave_fewer_points_than_are_kept() -> None:
    times: list[float] = []
    now = 0.0
    while now < 28 * DAYS:  # a look each second near the start, then as often as one could be due
        times.append(now)
        now += 1.0 if now < 3600 else now / 2000
    points = kept(RECORD, times)
    assert 1000 < len(points) < KEPT_POINTS / 1.5
    last_week = [one for one in points if one.at > 21 * DAYS]
    assert len(last_week) > 50


@given(st.lists(st.floats(0, 1e7), min_size=1, max_size=60).map(sorted))
def test_no_two_points_of_a_stage_are_closer_than_the_shortest_spacing(times: list[float]) -> None:
    ats = [one.at for one in kept(RECORD, times)]
    assert ats[0] == times[0]
    assert all(later - sooner >= SHORTEST_S for sooner, later in pairwise(ats))


def test_the_points_of_a_visit_are_those_of_its_stage_and_epoch_in_order() -> None:
    other = look(RECORD, 2.0).model_copy(update={"evidence_epoch": 2})
    points = [look(RECORD, 3.0), other, look(RECORD, 1.0)]
    assert [one.at for one in of_visit(points, RECORD.visits[0])] == [1.0, 3.0]
