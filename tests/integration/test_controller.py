"""The controller: over the store in memory under a fake clock, and over a real Valkey."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count

import pytest

from rollout.controller import Controller
from rollout.errors import Conflict, NoRollout, RolloutError, StoreUnavailable, TooLate
from rollout.feed import Feed
from rollout.machine import IllegalTransition
from rollout.orders import Order, Refused, Result
from rollout.plan import DEFAULT_PLAN
from rollout.snapshot import DEFAULT_TIERS, Batch, Cell, Counter, Position, Tier
from rollout.store.memory import MemoryStore
from rollout.store.port import Change, Moved, Outcome, Stored
from rollout.store.redis import RedisStore
from rollout.tiers import CannotStart

WEEK = 7 * 86_400.0
ORDER = Order(actor="ann", reason="a test")
QUICK = DEFAULT_PLAN.model_copy(
    update={
        "stages": tuple(
            stage.model_copy(
                update={"min_duration_s": 0.0, "min_requests": 1, "min_pairs": 0, "require": ()}
            )
            for stage in DEFAULT_PLAN.stages
        )
    }
)


class World:
    """One controller over a store in memory, and a clock that somebody else moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.store = MemoryStore(lambda: self.now)
        self.controller = Controller(self.store, DEFAULT_TIERS)
        self._sequence = count()

    async def serve(self, incumbent: int, candidate: int, pairs: int, errors: int = 0) -> None:
        """Count requests in the present stage, as a gateway would."""
        snapshot = (await self.store.load()).snapshot
        assert snapshot is not None
        live = snapshot.rollout
        assert live is not None
        self.store.flush(
            batch(live.id, live.stage, next(self._sequence), incumbent, candidate, pairs, errors)
        )

    async def position(self) -> Position | None:
        return (await self.store.load()).position


def batch(
    rollout: str,
    stage: str,
    sequence: int,
    incumbent: int,
    candidate: int,
    pairs: int,
    errors: int = 0,
) -> Batch:
    counts = {
        Counter.assigned("incumbent"): incumbent,
        Counter.assigned("candidate"): candidate,
        Counter.error("candidate", "timeout"): errors,
        Counter.MIRROR_INTENDED: pairs,
        Counter.MIRROR_COMPARED: pairs,
        Counter.pair_error(incumbent=False, candidate=False): pairs,
        Counter.pair_over("budget", incumbent=False, candidate=False): pairs,
        Counter.due("incumbent"): incumbent,
        Counter.due("candidate"): candidate,
        Counter.labels("incumbent"): incumbent,
        Counter.labels("candidate"): candidate,
        Counter.hit("incumbent", 5): incumbent * 6 // 10,
        Counter.hit("candidate", 5): candidate * 6 // 10,
    }
    return Batch("b", sequence, {Cell(rollout, 1, stage, 1, "101-200"): counts})


@pytest.fixture
def world() -> World:
    return World()


async def test_the_default_plan_runs_from_shadow_to_success(world: World) -> None:
    started = await world.controller.start(DEFAULT_PLAN, ORDER)
    assert (started.version, started.stage) == ("1.1", "shadow-5")
    for split in (
        (30_000, 0, 1500),
        (15_000, 5_000, 1000),
        (10_000, 10_000, 1000),
        (0, 20_000, 1000),
    ):
        await world.serve(*split)
        world.now += WEEK
        result = await world.controller.advance("current", ORDER)
    assert (result.state, result.version) == ("succeeded", "1.5")
    snapshot = (await world.store.load()).snapshot
    assert snapshot is not None
    assert (snapshot.rollout, [tier.active for tier in snapshot.tiers]) == (None, [True, True])
    history = await world.controller.history(started.rollout)
    assert set(history.record.verdicts) == {stage.name for stage in DEFAULT_PLAN.stages}
    commands = [entry.command for entry in history.journal.entries]
    assert commands == ["start", "advance", "advance", "advance", "advance"]


async def test_a_closed_gate_refuses_with_the_verdict_and_changes_nothing(world: World) -> None:
    await world.controller.start(DEFAULT_PLAN, ORDER)
    await world.serve(40, 0, 2)
    with pytest.raises(Refused, match="40 of 1000 requests in scope") as caught:
        await world.controller.advance("current", ORDER)
    assert caught.value.verdict.kind == "INCONCLUSIVE"
    assert await world.position() == (1, 1)


async def test_the_newest_minutes_are_shown_but_not_judged_yet(world: World) -> None:
    started = await world.controller.start(QUICK, ORDER)
    world.now = 29_000_000 * 60.0 + 1
    cell = Cell(started.rollout, 1, "shadow-5", 29_000_000, "101-200")
    world.store.flush(Batch("b", 1, {cell: {Counter.assigned("incumbent"): 12}}))
    read = []
    for seconds in (0, 118, 2):
        world.now += seconds
        status = await world.controller.status()
        assert status.tally is not None
        assert status.tally.requests == 12
        assert status.verdict is not None
        read += [check.kind for check in status.verdict.checks if check.name == "minimum requests"]
    assert read == ["INCONCLUSIVE", "INCONCLUSIVE", "PASS"]


async def test_an_approval_that_nobody_waits_for_says_what_it_does(world: World) -> None:
    await world.controller.start(QUICK, ORDER)
    idle = await world.controller.approve("current", ORDER)
    assert idle.message.endswith("shadow-5 asks for no approval: this one changes nothing")
    await world.controller.abort("current", ORDER)
    stages = tuple(stage.model_copy(update={"approval": True}) for stage in QUICK.stages)
    await world.controller.start(QUICK.model_copy(update={"stages": stages}), ORDER)
    early = await world.controller.approve("current", ORDER)
    assert "its gate has not passed yet (INCONCLUSIVE): the approval counts from" in early.message
    await world.serve(100, 0, 5)
    late = await world.controller.approve("current", ORDER)
    assert "gate" not in late.message


async def test_a_stale_version_is_refused_before_anything_else(world: World) -> None:
    await world.controller.start(QUICK, ORDER)
    for command in (world.controller.advance, world.controller.pause, world.controller.abort):
        with pytest.raises(Conflict, match=r"at version 1\.1, but version 1\.9 was expected"):
            await command("current", ORDER.model_copy(update={"expected_version": "1.9"}))
    assert await world.position() == (1, 1)


async def test_a_repeated_command_gives_its_first_answer_and_changes_nothing(world: World) -> None:
    keyed = ORDER.model_copy(update={"idempotency_key": "k"})
    await world.controller.start(QUICK, ORDER)
    await world.serve(100, 0, 5)
    first = await world.controller.advance("current", keyed)
    again = await world.controller.advance("current", keyed)
    assert again == first.model_copy(update={"outcome": "repeated"})
    assert await world.position() == (1, 2)
    with pytest.raises(Conflict, match="used for another command"):
        await world.controller.abort("current", keyed)


async def test_a_dry_run_says_what_would_happen_and_changes_nothing(world: World) -> None:
    dry = ORDER.model_copy(update={"dry_run": True})
    assert (await world.controller.start(QUICK, dry)).outcome == "dry_run"
    assert await world.position() is None


async def test_one_rollout_runs_at_a_time_and_a_new_one_has_a_new_salt(world: World) -> None:
    first = await world.controller.start(QUICK, ORDER)
    salt = (await world.store.load()).record
    with pytest.raises(IllegalTransition, match="one rollout runs at a time"):
        await world.controller.start(QUICK, ORDER)
    await world.controller.abort("current", ORDER)
    second = await world.controller.start(QUICK, ORDER)
    other = (await world.store.load()).record
    assert salt is not None
    assert other is not None
    assert (first.rollout, salt.salt) != (second.rollout, other.salt)


async def test_after_success_there_is_nothing_to_roll_out(world: World) -> None:
    await world.controller.start(QUICK, ORDER)
    for split in ((100, 0, 5), (75, 25, 5), (50, 50, 5), (0, 100, 5)):
        await world.serve(*split)
        await world.controller.advance("current", ORDER)
    with pytest.raises(CannotStart, match="is active already"):
        await world.controller.start(QUICK, ORDER)


async def test_a_paused_rollout_does_not_advance(world: World) -> None:
    await world.controller.start(QUICK, ORDER)
    await world.serve(100, 0, 5)
    await world.controller.pause("current", ORDER)
    with pytest.raises(IllegalTransition, match="possible is resume, abort"):
        await world.controller.advance("current", ORDER)
    await world.controller.resume("current", ORDER)
    assert (await world.controller.advance("current", ORDER)).stage == "ab-25"


async def test_a_rollout_that_is_not_there_is_named(world: World) -> None:
    with pytest.raises(NoRollout, match="start one"):
        await world.controller.abort("current", ORDER)
    await world.controller.start(QUICK, ORDER)
    with pytest.raises(NoRollout, match="'other' is not the current"):
        await world.controller.abort("other", ORDER)


async def test_unreadable_counts_hold_the_rollout(world: World) -> None:
    started = await world.controller.start(QUICK, ORDER)
    cell = Cell(started.rollout, 1, "shadow-5", 1, "101-200")
    world.store.flush(Batch("b", 99, {cell: {"no such counter": 1}}))
    with pytest.raises(Refused, match="could not be measured"):
        await world.controller.advance("current", ORDER)
    status = await world.controller.status()
    assert status.verdict is not None
    assert status.verdict.kind == "ERROR"


class Crowded(MemoryStore):
    """A store in which somebody else is faster, `others` times."""

    others = 2

    async def commit(self, change: Change) -> Outcome:
        """Let the others go first."""
        if self.others:
            self.others -= 1
            return Moved(change.expected)
        return await super().commit(change)


async def test_an_abort_tries_again_over_a_conflict_and_an_advance_does_not() -> None:
    store = Crowded(lambda: 1000.0)
    store.others = 0
    controller = Controller(store, DEFAULT_TIERS)
    started = await controller.start(QUICK, ORDER)
    store.flush(batch(started.rollout, "shadow-5", 1, 100, 0, 5))
    store.others = 1
    with pytest.raises(Conflict, match="somebody else's command came in between"):
        await controller.advance("current", ORDER)
    store.others = 2
    assert (await controller.abort("current", ORDER)).state == "aborted"


class Overtaken(MemoryStore):
    """A store in which somebody else ends the rollout and starts the next, just before an abort."""

    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def commit(self, change: Change) -> Outcome:
        """Let the other go first, once."""
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            await meanwhile()
        return await super().commit(change)


async def test_an_abort_that_tries_again_never_meets_the_next_rollout() -> None:
    store = Overtaken(lambda: 1000.0)
    controller = Controller(store, DEFAULT_TIERS)
    first = await controller.start(QUICK, ORDER)
    following: list[str] = []

    async def meanwhile() -> None:
        await controller.abort(first.rollout, ORDER)
        following.append((await controller.start(QUICK, ORDER)).rollout)

    store.meanwhile = meanwhile
    with pytest.raises(NoRollout, match=f"'{first.rollout}' is not the current"):
        await controller.abort("current", ORDER)
    record = (await store.load()).record
    assert record is not None
    assert (record.id, record.state) == (following[0], "running")


async def test_a_rollout_by_its_id_and_as_the_current_one_is_the_same_command(
    world: World,
) -> None:
    started = await world.controller.start(QUICK, ORDER)
    for key, names in (("a", ("current", started.rollout)), ("b", (started.rollout, "current"))):
        keyed = ORDER.model_copy(update={"idempotency_key": key})
        done = [await world.controller.pause(name, keyed) for name in names]
        assert [one.outcome for one in done] == ["applied", "repeated"]
        with pytest.raises(Conflict, match="used for another command"):
            await world.controller.pause("another", keyed)
        with pytest.raises(Conflict, match="used for another command"):
            await world.controller.start(QUICK, keyed)
        await world.controller.resume("current", ORDER)


async def test_a_start_under_other_settings_changes_nothing_of_what_serves(world: World) -> None:
    await world.controller.start(QUICK, ORDER)
    await world.controller.abort("current", ORDER)
    before = (await world.store.load()).snapshot
    longer = (DEFAULT_TIERS[0].model_copy(update={"max_length": 150}), *DEFAULT_TIERS[1:])
    with pytest.raises(CannotStart, match="phase1 up to 100 serves now"):
        await Controller(world.store, longer).start(QUICK, ORDER)
    assert (await world.store.load()).snapshot == before
    joined = (*DEFAULT_TIERS, Tier(arm="phase3", max_length=900, active=False))
    started = await Controller(world.store, joined).start(QUICK, ORDER)
    assert started.message.endswith("; the tier table changes: phase3 joins, up to 900")


async def test_an_abort_with_an_expected_version_is_not_tried_again() -> None:
    store = Crowded(lambda: 1000.0)
    store.others = 0
    controller = Controller(store, DEFAULT_TIERS)
    await controller.start(QUICK, ORDER)
    store.others = 1
    with pytest.raises(Conflict):
        await controller.abort("current", ORDER.model_copy(update={"expected_version": "1.1"}))


class Slow(MemoryStore):
    """A store whose clock runs on by three seconds after each question."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(lambda: self.now)

    async def load(self, idempotency_key: str | None = None) -> Stored:
        """Answer, and let time pass."""
        stored = await super().load(idempotency_key)
        self.now += 3
        return stored


async def test_a_command_that_comes_late_says_that_nothing_was_changed() -> None:
    store = Slow()
    with pytest.raises(TooLate, match="nothing was changed"):
        await Controller(store, DEFAULT_TIERS).start(QUICK, ORDER)
    assert (await store.load()).position is None


async def test_of_150_advances_by_3_controllers_one_wins(valkey_url: str) -> None:
    controllers = [Controller(RedisStore(valkey_url), DEFAULT_TIERS) for _ in range(3)]
    store = RedisStore(valkey_url)
    started = await controllers[0].start(QUICK, ORDER)
    feed = Feed(valkey_url)
    await feed.flush(batch(started.rollout, "shadow-5", 1, 100, 0, 5))
    await feed.close()
    order = ORDER.model_copy(update={"expected_version": "1.1"})
    # Connections first, so that the commands themselves are what runs at the same time.
    await asyncio.gather(*(one.ready() for one in controllers for _ in range(50)))

    async def advance(controller: Controller) -> Result | RolloutError:
        try:
            return await controller.advance("current", order)
        except RolloutError as error:
            return error

    found = await asyncio.gather(*(advance(one) for one in controllers for _ in range(50)))
    applied = [one for one in found if isinstance(one, Result)]
    assert [one.version for one in applied] == ["1.2"]
    assert sum(isinstance(one, Conflict) for one in found) == 149
    assert len((await store.journal()).entries) == 2
    assert (await store.load()).position == (1, 2)
    for controller in controllers:
        await controller.close()
    await store.close()


async def test_a_controller_without_its_store_says_so(tmp_path: object) -> None:
    controller = Controller(RedisStore(f"unix://{tmp_path}/nothing.sock"), DEFAULT_TIERS)
    with pytest.raises(StoreUnavailable):
        await controller.ready()
