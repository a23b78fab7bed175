"""The loop: one of many controllers acts by itself, and no failure of the store ends it."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from prometheus_client import CollectorRegistry
from redis import Redis

from rollout.controller import Controller, Ticked
from rollout.errors import StoreUnavailable
from rollout.feed import Feed
from rollout.loop import Loop
from rollout.metrics import Metrics
from rollout.orders import Order
from rollout.plan import DEFAULT_PLAN
from rollout.snapshot import DEFAULT_TIERS, Batch, Cell, Counter, Heartbeat
from rollout.store.memory import MemoryStore
from rollout.store.port import Lease
from rollout.store.redis import RedisStore
from rollout.trace import Point

ORDER = Order(actor="ann", reason="a test")
QUICK = DEFAULT_PLAN.model_copy(
    update={
        "on_pass": "advance",
        "watermark_s": 0.0,
        "stages": tuple(
            stage.model_copy(
                update={"min_duration_s": 0.0, "min_requests": 1, "min_pairs": 0, "require": ()}
            )
            for stage in DEFAULT_PLAN.stages
        ),
    }
)


def loop_of(controller: Controller, name: str = "one") -> tuple[Loop, CollectorRegistry]:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    return Loop(controller, metrics, holder=name, interval_s=0.01, lease_s=0.5), registry


def ticks(registry: CollectorRegistry, outcome: str) -> float:
    return registry.get_sample_value("rollout_ticks_total", {"outcome": outcome}) or 0.0


class World:
    def __init__(self) -> None:
        self.now = 1000.0
        self.store = MemoryStore(lambda: self.now)
        self.controller = Controller(self.store, DEFAULT_TIERS)

    async def beat(self) -> None:
        """Have one gateway apply what is there."""
        position = (await self.store.load()).position
        assert position is not None
        beat = Heartbeat(
            boot="g", at=self.now, epoch=position.epoch, version=position.version, held=False
        )
        self.store.beat(beat)


async def test_the_first_to_ask_leads_and_another_takes_over_when_it_resigns() -> None:
    world = World()
    (first, seen), (second, also) = loop_of(world.controller), loop_of(world.controller, "two")
    assert (await first.round(), await second.round()) == ("idle", "idle")
    assert (await world.controller.status()).leader == "one"
    assert seen.get_sample_value("rollout_leader") == 1
    assert also.get_sample_value("rollout_leader") == 0
    async with first.running():
        pass
    assert (await world.controller.status()).leader is None
    await second.round()
    assert (await world.controller.status()).leader == "two"


async def test_a_leader_that_fell_silent_is_followed_when_its_lease_ends() -> None:
    world = World()
    first, _ = loop_of(world.controller)
    second, _ = loop_of(world.controller, "two")
    await first.round()
    world.now += 0.6
    await second.round()
    assert (await world.controller.status()).leader == "two"
    assert await first.round() == "idle"


async def test_a_rollout_settles_and_a_plan_that_waits_for_a_person_goes_no_further() -> None:
    world = World()
    loop, seen = loop_of(world.controller)
    await world.controller.start(QUICK.model_copy(update={"on_pass": "wait"}), ORDER)
    assert await loop.round() == "stayed"  # nobody has applied it
    await world.beat()
    assert await loop.round() == "acted"
    status = await world.controller.status()
    assert (status.version, status.rollout and status.rollout.state) == ("1.2", "running")
    await world.beat()
    for _ in range(5):
        assert await loop.round() == "stayed"
    assert (ticks(seen, "acted"), ticks(seen, "stayed")) == (1, 6)
    assert (seen.get_sample_value("rollout_tick_seconds_count") or 0) == 7


async def test_a_leader_keeps_a_trace_of_what_it_looked_at() -> None:
    world = World()
    loop, _ = loop_of(world.controller)
    started = await world.controller.start(QUICK.model_copy(update={"on_pass": "wait"}), ORDER)
    await loop.round()
    await world.beat()
    await loop.round()  # settles: a look that acts is kept, however soon it comes
    for _ in range(9):
        world.now += 0.5
        await world.beat()
        assert await loop.round() == "stayed"
    kept = (await world.controller.history(started.rollout)).trace
    assert [point.at for point in kept] == [1000, 1000, 1002, 1004]
    assert {(point.stage, point.state, point.gate) for point in kept} == {
        ("shadow-5", "running", "INCONCLUSIVE")
    }


class Forgetful(MemoryStore):
    """A store that is lost whenever a look is to be kept."""

    async def keep(self, rollout: str, point: Point) -> None:
        """Fail."""
        raise StoreUnavailable(f"no answer for {rollout} at {point.at}")


async def test_a_look_that_cannot_be_kept_stops_nothing_and_hides_nothing() -> None:
    world = World()
    world.store = Forgetful(lambda: world.now)
    world.controller = Controller(world.store, DEFAULT_TIERS)
    loop, _ = loop_of(world.controller)
    started = await world.controller.start(QUICK, ORDER)
    await world.beat()
    assert await loop.round() == "acted"
    assert (await world.controller.history(started.rollout)).trace == ()


class Broken(Controller):
    """A controller whose ticks fail as they are told."""

    fault: Exception | None = None

    async def tick(self, lease: Lease) -> Ticked:
        """Fail, if told so."""
        if self.fault:
            raise self.fault
        return await super().tick(lease)


async def test_a_round_that_fails_is_counted_and_the_next_one_works() -> None:
    controller = Broken(MemoryStore(lambda: 1.0), DEFAULT_TIERS)
    loop, seen = loop_of(controller)
    for fault in (StoreUnavailable("no answer"), StoreUnavailable("no answer"), OSError("worse")):
        controller.fault = fault
        assert await loop.round() == "failed"
    controller.fault = None
    assert await loop.round() == "idle"
    assert ticks(seen, "failed") == 3


@pytest.fixture
async def fleet(valkey_url: str) -> AsyncIterator[list[tuple[Controller, Loop, CollectorRegistry]]]:
    controllers = [Controller(RedisStore(valkey_url), DEFAULT_TIERS) for _ in range(3)]
    yield [(one, *loop_of(one, f"c{n}")) for n, one in enumerate(controllers)]
    for one in controllers:
        await one.close()


async def until(condition: Callable[[], Awaitable[bool]], within_s: float = 10.0) -> None:
    limit = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < limit, "it did not come to pass"
        await asyncio.sleep(0.02)


async def test_three_controllers_walk_a_rollout_together_one_step_at_a_time(
    valkey_url: str, fleet: list[tuple[Controller, Loop, CollectorRegistry]]
) -> None:
    controller = fleet[0][0]
    store, feed = RedisStore(valkey_url), Feed(valkey_url)
    started = await controller.start(QUICK, ORDER)
    counted: set[str] = set()

    async def walked() -> bool:
        """Be the gateway: apply what is there, and count in each new stage."""
        stored = await store.load()
        assert stored.record is not None
        assert stored.position is not None
        stage = stored.record.stage
        if stage.name not in counted:
            counted.add(stage.name)
            candidate = round(2 * stage.weight) if stage.mode == "ab" else 0
            cell = Cell(started.rollout, 1, stage.name, int(stored.now // 60), "101-200")
            counts = {
                Counter.assigned("incumbent"): 200 - candidate,
                Counter.assigned("candidate"): candidate,
                Counter.MIRROR_INTENDED: 10,
                Counter.MIRROR_COMPARED: 10,
                Counter.pair_error(incumbent=False, candidate=False): 10,
            }
            await feed.flush(Batch("g", len(counted), {cell: counts}))
        epoch, version = stored.position
        await feed.beat(
            Heartbeat(boot="g", at=stored.now, epoch=epoch, version=version, held=False)
        )
        return stored.record.state == "succeeded"

    async with fleet[0][1].running(), fleet[1][1].running(), fleet[2][1].running():
        await until(walked)
    entries = (await store.journal()).entries
    assert [entry.command for entry in entries] == [
        "start", *["settle", "advance"] * 3, "settle", "finish",
    ]  # fmt: skip
    assert [entry.version for entry in entries] == list(range(1, 10))
    assert {entry.actor for entry in entries[1:]} == {"controller"}
    assert sum(ticks(seen, "acted") for _, _, seen in fleet) == 8
    await feed.close()
    await store.close()


async def test_a_frozen_store_stops_no_loop_and_it_ends_in_time(
    valkey_url: str, fleet: list[tuple[Controller, Loop, CollectorRegistry]]
) -> None:
    _, loop, seen = fleet[0]
    with Redis.from_url(valkey_url) as client:
        pid = client.info("server")["process_id"]

    async def led() -> bool:
        return seen.get_sample_value("rollout_leader") == 1

    async with loop.running():
        await until(led)
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
    try:
        assert time.monotonic() - began < 8
    finally:
        os.kill(pid, signal.SIGCONT)
