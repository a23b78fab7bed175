"""Strata: buckets of context lengths with borders of the plan, settled when a rollout begins."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged import AB50, SHADOW, healthy, kinds, look

from rollout.judging.guard import entries
from rollout.machine import begin, live, step
from rollout.plan import DEFAULT_PLAN, Plan
from rollout.planfile import PlanError, parse_plan, write_plan
from rollout.snapshot import (
    DEFAULT_TIERS,
    STRATUM_BORDERS,
    Live,
    Snapshot,
    Tier,
    stratum,
    stratum_names,
)
from rollout.tally import STRATA, tally

LONGER = (*DEFAULT_TIERS, Tier(arm="phase3", max_length=1000, active=False))
BORDERS = st.lists(st.integers(1, 5000), min_size=1, max_size=8, unique=True).map(
    lambda found: tuple(sorted(found))
)


def with_strata(*borders: int) -> Plan:
    return Plan.model_validate({**DEFAULT_PLAN.model_dump(), "strata": borders})


@given(BORDERS, st.integers(1, 6000))
def test_every_length_is_in_one_stratum_and_strata_break_at_their_borders(
    borders: tuple[int, ...], length: int
) -> None:
    names = stratum_names(borders)
    assert len(set(names)) == len(borders) + 1
    place = names.index(stratum(length, borders))
    assert place == sum(length > border for border in borders)
    for before, after in itertools.pairwise(sorted({*borders, max(borders) + 1})):
        assert stratum(before, borders) != stratum(after, borders)


@given(BORDERS)
def test_a_count_may_be_of_any_stratum_that_borders_can_make(borders: tuple[int, ...]) -> None:
    for name in stratum_names(borders):
        assert tally(SHADOW, {f"-|{name}|assigned.incumbent": 3}).requests == 3


def test_a_rollout_begins_with_strata_around_the_limits_of_its_tiers() -> None:
    plan = DEFAULT_PLAN.model_copy(update={"candidate": "phase3"})
    tiers = tuple(tier.model_copy(update={"active": tier.arm != "phase3"}) for tier in LONGER)
    record = begin(plan, tiers, id_="r1", salt="s", now=1.0)
    assert record.plan.borders == (*STRATUM_BORDERS, 1000)
    split = live(record)
    assert split is not None
    assert split.strata == (*STRATUM_BORDERS, 1000)
    assert stratum(700, split.strata) == "501-1000"
    later = live(step(record, "promote", 2.0))
    assert later is not None
    assert later.strata == split.strata


def test_a_plan_that_names_its_strata_keeps_them() -> None:
    record = begin(with_strata(64, 300), DEFAULT_TIERS, id_="r1", salt="s", now=1.0)
    assert record.plan.borders == (64, 300)
    assert record.plan.stratum_names == ("<=64", "65-300", ">300")


def test_with_the_default_tiers_nothing_is_written_that_an_older_gateway_could_not_read() -> None:
    record = begin(DEFAULT_PLAN, DEFAULT_TIERS, id_="r1", salt="s", now=1.0)
    assert record.plan == DEFAULT_PLAN
    split = live(record)
    assert split is not None
    snapshot = Snapshot(epoch=1, version=1, tiers=DEFAULT_TIERS, rollout=split)
    assert "strata" not in snapshot.model_dump_json()
    assert Live.model_validate_json(split.model_dump_json()) == split
    other = split.model_copy(update={"strata": (64, 300)})
    assert Live.model_validate_json(other.model_dump_json()).strata == (64, 300)


def test_a_plan_with_strata_is_read_as_it_was_written() -> None:
    plan = with_strata(50, 400)
    assert parse_plan(write_plan(plan)) == plan


@pytest.mark.parametrize("written", ["[]", "[0, 5]", "[5, 5]", "[7, 3]", "5", "[a]", "[true]"])
def test_strata_that_are_none_are_refused(written: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_plan(write_plan(DEFAULT_PLAN).replace("strata: null", f"strata: {written}"))
    assert all(fault.path.startswith("strata") for fault in caught.value.errors)


def test_the_gate_asks_each_major_stratum_of_the_plan() -> None:
    world = replace(healthy(AB50), stratum="65-300")
    found = look(world.seen(), plan=with_strata(64, 300))
    assert "Hit@5 of 65-300 vectors" in kinds(found)


def test_counts_in_strata_that_the_plan_does_not_have_are_an_error() -> None:
    found = look(healthy(AB50).seen(), plan=with_strata(64, 300))
    assert found.gate.kind == "ERROR"
    assert "counted in the strata 101-200; the plan has <=64, 65-300, >300" in found.gate.reason
    assert found.guard.kind == "PASS"


@given(BORDERS)
def test_half_of_the_guards_weight_is_shared_out_among_the_strata(
    borders: tuple[int, ...],
) -> None:
    laid_out = entries(with_strata(*borders))
    assert {one.stratum for one in laid_out} == {None, *stratum_names(borders)}
    assert sum(one.weight for one in laid_out if one.stratum) == pytest.approx(0.5)


def test_a_plan_without_strata_has_those_that_there_always_were() -> None:
    assert DEFAULT_PLAN.stratum_names == STRATA == (
        "<=100", "101-200", "201-350", "351-500", ">500",
    )  # fmt: skip
