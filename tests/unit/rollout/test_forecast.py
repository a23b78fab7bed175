"""How long a plan is said to take, and on what."""

import pytest

from rollout import history
from rollout.background import REQUESTS, place
from rollout.controller import Controller
from rollout.forecast import NO_TRAFFIC, Traffic, Unmeasured, forecast
from rollout.minutes import MINUTE_S
from rollout.orders import Order
from rollout.plan import Plan
from rollout.snapshot import DEFAULT_TIERS, Batch, Cell, Counter
from rollout.store.memory import MemoryStore

SHORT = Plan.model_validate(
    {
        "name": "short",
        "candidate": "phase2",
        "stages": [
            {"name": "s", "mode": "shadow", "weight": 10, "min_duration_s": 30,
             "min_requests": 100, "min_pairs": 20, "max_duration_s": "1h"},
            {"name": "f", "mode": "ab", "weight": 100, "min_duration_s": 60, "min_requests": 240},
        ],
    }
)  # fmt: skip
BY_KEY = SHORT.model_copy(update={"unit": "key"})
BUSY = Traffic(requests_per_s=2, source="no rollout, the last 5 min")


def test_a_stage_lasts_as_long_as_its_longest_wish_and_the_whole_is_told_in_spans() -> None:
    told = forecast(SHORT, BUSY)
    assert [one.bound_by for one in told.stages] == ["its pairs", "its requests"]
    assert [86_400 * (one.days or 0) for one in told.stages] == pytest.approx([100, 120])
    assert told.told == (
        "3 min 40 s in all: s 1 min 40 s, f 2 min; "
        "2 requests/s in scope (no rollout, the last 5 min)"
    )


def test_by_key_only_requests_that_have_one_count() -> None:
    told = forecast(BY_KEY, BUSY.model_copy(update={"keyed_percent": 50.0}))
    assert told.days == pytest.approx((200 + 240) / 86_400)
    assert "50.0 % of them with a routing key, and by key those alone count" in told.told


def test_by_key_nothing_is_promised_where_no_request_had_one() -> None:
    told = forecast(BY_KEY, BUSY.model_copy(update={"keyed_percent": 0.0}))
    assert (told.days, [one.days for one in told.stages]) == (None, [None, None])
    assert "0.0 % of them with a routing key" in told.told
    assert "too few for the deadline of s (1 h)" in told.told


def test_by_key_nothing_is_promised_where_nobody_counted_who_had_one() -> None:
    told = forecast(BY_KEY, BUSY)
    assert [(one.days, one.bound_by) for one in told.stages] == [(None, "not known")] * 2
    assert told.told == (
        "at least 1 min 30 s by the stages' durations; 2 requests/s in scope (no rollout, the "
        "last 5 min), but how many have a routing key was not counted, and by key those alone count"
    )


def test_without_traffic_what_binds_a_stage_is_not_known_unless_it_waits_for_no_request() -> None:
    free = SHORT.stages[1].model_copy(update={"min_requests": 0})
    told = forecast(SHORT.model_copy(update={"stages": (SHORT.stages[0], free)}), Unmeasured())
    assert [(one.bound_by, one.days) for one in told.stages] == [
        ("not known", None),
        ("its duration", pytest.approx(60 / 86_400)),
    ]
    assert told.told == f"at least 1 min 30 s by the stages' durations; {NO_TRAFFIC}"


async def test_what_a_rollout_by_request_saw_says_nothing_about_keys() -> None:
    now = 1000.0
    store = MemoryStore(lambda: now)
    controller = Controller(store, DEFAULT_TIERS)
    order = Order(reason="a test")
    seen = {}
    for sequence, unit in enumerate(("request", "key"), start=1):
        plan = SHORT.model_copy(update={"unit": unit})
        started = await controller.start(plan, order)
        counts = {Counter.assigned("incumbent"): 30}
        store.flush(Batch("b", sequence, {Cell(started.rollout, 1, "s", 1, "101-200"): counts}))
        now += 60
        await controller.abort("current", order)
        seen[unit] = await history.recent_traffic(store, plan, DEFAULT_TIERS, now)
    by_request, by_key = seen["request"], seen["key"]
    assert isinstance(by_request, Traffic)
    assert isinstance(by_key, Traffic)
    assert (by_request.requests_per_s, by_request.keyed_percent) == (0.5, None)
    assert (by_key.requests_per_s, by_key.keyed_percent) == (0.5, 100)


async def test_less_than_a_minute_of_traffic_is_told_as_that() -> None:
    now = 100 * MINUTE_S + 40
    store = MemoryStore(lambda: now)
    cell = Cell("-", 0, place("phase2", "phase1"), 100, "-")
    store.flush(Batch("b", 1, {cell: {REQUESTS: 7}}))
    young = await history.recent_traffic(store, SHORT, DEFAULT_TIERS, now)
    assert young == Unmeasured(
        told="only 40 s of traffic in scope was seen so far (7 requests), too short for a rate"
    )
    grown = await history.recent_traffic(store, SHORT, DEFAULT_TIERS, now + 30)
    assert isinstance(grown, Traffic)
