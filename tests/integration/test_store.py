"""Both stores, by the same tests: the compare-and-set that every command rests on."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from rollout.background import ROLLOUT, place
from rollout.errors import OutcomeUnknown, StoreUnavailable
from rollout.feed import Feed
from rollout.machine import AuditEntry, Record, begin, live
from rollout.minutes import Horizon, slot_width
from rollout.plan import DEFAULT_PLAN
from rollout.snapshot import (
    DEFAULT_TIERS,
    KEPT_SAMPLES,
    Batch,
    Cell,
    Heartbeat,
    LabelOutcome,
    Pending,
    Position,
    Sample,
    Snapshot,
    Vectors,
)
from rollout.store.memory import MemoryStore
from rollout.store.port import Applied, Change, Late, Moved, Repeated, Store, Stored
from rollout.store.redis import RedisStore
from rollout.trace import KEPT_POINTS, Point

RECORD = begin(DEFAULT_PLAN, DEFAULT_TIERS, id_="r1", salt="s", now=100.0)
CELL = Cell("r1", 1, "shadow-5", 10, "101-200")
BEAT = Heartbeat(boot="b", at=1.0, epoch=1, version=1, held=False)
SAMPLE = Sample(
    request_id="q",
    rollout="r1",
    stage="shadow-5",
    at=1.0,
    length=300,
    cosine=0.9,
    overlap10=0.8,
    rbo=0.7,
    latency_ms={"incumbent": 1.0, "candidate": 2.0},
    top={"incumbent": (1,), "candidate": (2,)},
)


@pytest.fixture(params=["redis", "memory"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    made: Store
    if request.param == "redis":
        assert request.getfixturevalue("valkey_url"), "it is empty"
        made = RedisStore(request.getfixturevalue("valkey_users")["controller"])
    else:
        made = MemoryStore(time.time)
    yield made
    await made.close()


@pytest.fixture
async def report(
    store: Store, request: pytest.FixtureRequest
) -> AsyncIterator[Callable[[Batch, Heartbeat], object]]:
    """Give a gateway's way of reporting to the store under test."""
    if isinstance(store, MemoryStore):

        async def remember(batch: Batch, heartbeat: Heartbeat) -> None:
            store.flush(batch)
            store.flush(batch)
            store.beat(heartbeat)

        yield remember
        return
    feed = Feed(request.getfixturevalue("valkey_users")["gateway"])

    async def send(batch: Batch, heartbeat: Heartbeat) -> None:
        await feed.flush(batch)
        await feed.flush(batch)
        await feed.beat(heartbeat)

    yield send
    await feed.close()


@pytest.fixture
async def label(
    store: Store, request: pytest.FixtureRequest
) -> AsyncIterator[Callable[[Batch, str, int], Awaitable[LabelOutcome]]]:
    """Give a gateway's way of sending a batch twice, and then one label."""
    if isinstance(store, MemoryStore):

        async def remember(batch: Batch, request_id: str, target: int) -> LabelOutcome:
            store.flush(batch)
            store.flush(batch)
            return store.label(request_id, target)

        yield remember
        return
    feed = Feed(request.getfixturevalue("valkey_users")["gateway"])

    async def send(batch: Batch, request_id: str, target: int) -> LabelOutcome:
        await feed.flush(batch)
        await feed.flush(batch)
        return await feed.label(request_id, target)

    yield send
    await feed.close()


@pytest.fixture
async def read(
    store: Store, request: pytest.FixtureRequest
) -> AsyncIterator[Callable[[str], Awaitable[Vectors | None]]]:
    """Give a gateway's way of reading vectors."""
    if isinstance(store, MemoryStore):

        async def remembered(request_id: str) -> Vectors | None:
            return store.vectors(request_id)

        yield remembered
        return
    feed = Feed(request.getfixturevalue("valkey_users")["gateway"])
    yield feed.vectors
    await feed.close()


def change(stored: Stored, *, record: Record = RECORD, key: str = "k1") -> Change:
    before = stored.position
    position = Position(before.epoch, before.version + 1) if before else Position(1, 1)
    return Change(
        expected=before,
        deadline_ms=stored.deadline_ms,
        snapshot=Snapshot(
            epoch=position.epoch,
            version=position.version,
            tiers=DEFAULT_TIERS,
            rollout=live(record),
            changed_at=stored.now,
        ),
        record=record,
        entry=AuditEntry(
            at=stored.now,
            actor="ann",
            command="start",
            reason="t",
            rollout=record.id,
            state_before="none",
            state_after=record.state,
            stage_before="-",
            stage_after=record.stage.name,
            epoch=position.epoch,
            version=position.version,
        ),
        idempotency_key=key,
        outcome=f"outcome of {key}",
    )


async def test_an_empty_store_takes_its_first_change_at_1_1(store: Store) -> None:
    empty = await store.load()
    assert (empty.snapshot, empty.record, empty.position) == (None, None, None)
    assert await store.commit(change(empty)) == Applied()
    stored = await store.load()
    assert stored.position == (1, 1)
    assert stored.record == RECORD
    assert stored.now <= stored.deadline_ms / 1000


async def test_a_change_on_an_old_version_is_refused_and_says_where_the_store_stands(
    store: Store,
) -> None:
    empty = await store.load()
    await store.commit(change(empty))
    assert await store.commit(change(empty, key="k2")) == Moved(Position(1, 1))
    ahead = replace(change(await store.load(), key="k3"), expected=Position(1, 7))
    assert await store.commit(ahead) == Moved(Position(1, 1))
    assert len((await store.journal()).entries) == 1


async def test_an_empty_store_refuses_a_change_that_expects_a_version(store: Store) -> None:
    lost = replace(change(await store.load()), expected=Position(3, 9))
    assert await store.commit(lost) == Moved(None)
    assert (await store.load()).position is None


async def test_a_repeated_key_gives_the_first_outcome_and_changes_nothing(store: Store) -> None:
    await store.commit(change(await store.load()))
    again = change(await store.load())
    assert await store.commit(again) == Repeated("outcome of k1")
    stored = await store.load("k1")
    assert (stored.position, stored.outcome) == ((1, 1), "outcome of k1")
    assert (await store.load("k2")).outcome is None
    assert len((await store.journal()).entries) == 1


async def test_a_change_after_its_deadline_is_late_and_changes_nothing(store: Store) -> None:
    empty = await store.load()
    late = replace(change(empty), deadline_ms=int(empty.now * 1000) - 1)
    assert await store.commit(late) == Late()
    assert (await store.load("k1")).outcome is None
    assert (await store.load()).position is None
    assert await store.commit(change(await store.load())) == Applied()


async def test_of_many_changes_on_one_version_one_is_applied(store: Store) -> None:
    empty = await store.load()
    outcomes = await asyncio.gather(*(store.commit(change(empty, key=f"k{n}")) for n in range(30)))
    assert outcomes.count(Applied()) == 1
    assert outcomes.count(Moved(Position(1, 1))) == 29
    assert len((await store.journal()).entries) == 1


async def test_what_gateways_report_is_read_back_counted_once(
    store: Store, report: Callable[..., asyncio.Future[None]]
) -> None:
    beat = Heartbeat(boot="b", at=1.0, epoch=1, version=1, held=False)
    await report(Batch("b", 1, {CELL: {"assigned.incumbent": 3}}, samples=(SAMPLE,)), beat)
    await report(Batch("b", 2, {CELL: {"assigned.incumbent": 4}}), beat)
    seen = await store.observations("r1", 1, ["shadow-5", "ab-25"], samples=10)
    assert seen.counts == {"shadow-5": {"-|101-200|assigned.incumbent": 7}, "ab-25": {}}
    assert seen.samples == (SAMPLE,)
    assert (await store.observations("r1", 1, ["shadow-5"])).samples == ()
    assert (await store.observations("r1", 2, ["shadow-5"])).counts == {"shadow-5": {}}
    assert (await store.journal()).heartbeats == (beat,)


async def test_the_samples_that_are_kept_are_those_on_which_the_arms_differed_most(
    store: Store, report: Callable[..., asyncio.Future[None]]
) -> None:
    beat = Heartbeat(boot="b", at=1.0, epoch=1, version=1, held=False)
    cosines = [((37 * n) % 101 - 50) / 100 for n in range(101)]  # in no order, early and late
    drawn = [
        SAMPLE.model_copy(update={"request_id": f"q{n}", "at": float(n), "cosine": cosine})
        for n, cosine in enumerate(cosines)
    ]
    other = SAMPLE.model_copy(update={"stage": "ab-25"})
    older = SAMPLE.model_copy(update={"evidence_epoch": 2})
    for sequence, start in enumerate(range(0, len(drawn), 20), start=1):
        await report(Batch("b", sequence, {}, samples=tuple(drawn[start : start + 20])), beat)
    await report(Batch("b", 99, {}, samples=(other, older)), beat)
    lowest = tuple(sorted(drawn, key=lambda sample: sample.cosine))
    seen = await store.observations("r1", 1, ["shadow-5", "ab-25"], samples=1000)
    assert seen.samples == (*lowest[:KEPT_SAMPLES], other)
    few = await store.observations("r1", 1, ["shadow-5", "ab-25"], samples=3)
    assert few.samples == (*lowest[:3], other)
    assert (await store.observations("r1", 2, ["shadow-5"], samples=9)).samples == (older,)


async def test_the_truth_of_a_sample_is_kept_with_it_and_forgotten_with_it(
    store: Store, label: Callable[..., Awaitable[str]]
) -> None:
    now = time.time()
    cell = CELL._replace(minute=int(now // 60))
    awaited = Pending(
        request_id="q", at=now, cell=cell, assigned="candidate", top={"candidate": (3,)}
    )
    huge = 2**62 + 1
    other = awaited._replace(request_id="not sampled")
    sent = Batch("b", 1, {}, samples=(SAMPLE,), pending=(awaited, other))
    assert (await store.observations("r1", 1, ["shadow-5"], samples=9)).truths == {}
    assert await label(sent, "not sampled", 3) == "counted"
    assert (await store.observations("r1", 1, ["shadow-5"], samples=9)).truths == {}
    assert await label(sent, "q", huge) == "counted"
    assert await label(sent, "q", 3) == "contradiction"
    assert (await store.observations("r1", 1, ["shadow-5"], samples=9)).truths == {"q": huge}
    assert (await store.observations("r1", 1, ["shadow-5"])).truths == {}
    worse = tuple(
        SAMPLE.model_copy(update={"request_id": f"q{n}", "cosine": 0.1})
        for n in range(KEPT_SAMPLES)
    )
    late = awaited._replace(request_id="q7")
    await label(Batch("b", 2, {}, samples=worse, pending=(late,)), "q7", 4)
    seen = await store.observations("r1", 1, ["shadow-5"], samples=KEPT_SAMPLES)
    assert seen.truths == {"q7": 4}
    await label(Batch("b", 3, {}, samples=(SAMPLE,)), "q", huge)  # it comes again, and goes again
    assert await store.observations("r1", 1, ["shadow-5"], samples=KEPT_SAMPLES) == seen


def vectors(name: str, at: float) -> Vectors:
    cell = CELL._replace(minute=int(at // 60))
    return Vectors(name, at, cell, 3600.0, b"i" * 1536, b"\x00\xff" * 768)


def by_rank(at: float, number: int) -> list[Vectors]:
    """Draw vectors of one moment, the lowest rank first."""
    return sorted((vectors(f"q{n}", at) for n in range(number)), key=lambda one: one.rank)


async def test_of_a_slice_of_time_the_vectors_with_the_lowest_rank_are_kept(
    label: Callable[..., Awaitable[str]], read: Callable[..., Awaitable[Vectors | None]]
) -> None:
    now = time.time()
    lowest, second, last = by_rank(now, 3)
    elsewhere = last._replace(cell=last.cell._replace(stage="ab-25"), key="k")
    earlier = last._replace(request_id="earlier", at=now - 8)
    awaited = tuple(
        Pending(
            request_id=one.request_id, at=one.at, cell=one.cell, assigned="candidate",
            top={"candidate": (3,)},
        )
        for one in (lowest, second, elsewhere, earlier)
    )  # fmt: skip
    assert await label(Batch("b", 1, {}, vectors=(second,)), "nobody", 3) == "unknown"
    assert await read(second.request_id) == second
    batch = Batch("b", 2, {}, pending=awaited, vectors=(lowest, second, elsewhere, earlier))
    assert await label(batch, second.request_id, 3) == "counted"
    assert await read(second.request_id) is None
    for one in (lowest, elsewhere, earlier):
        assert await read(one.request_id) == one
        assert await label(batch, one.request_id, 3) == "sampled"
        assert await label(batch, one.request_id, 3) == "repeat"


async def test_vectors_are_forgotten_with_the_label_window_of_their_request(
    label: Callable[..., Awaitable[str]], read: Callable[..., Awaitable[Vectors | None]]
) -> None:
    late = vectors("late", time.time() - 3601)
    await label(Batch("b", 1, {}, vectors=(late,)), "late", 3)
    assert await read("late") is None


async def test_a_stage_of_any_length_is_read_as_its_exact_totals(
    store: Store, report: Callable[..., asyncio.Future[None]]
) -> None:
    beat = Heartbeat(boot="b", at=1.0, epoch=1, version=1, held=False)
    week = range(29_000_000, 29_000_000 + 7 * 24 * 60, 60)
    late = [week[0], week[5]]  # minutes that are long over when their last counts come in
    for sequence, minute in enumerate([*week, *late], start=1):
        counts = {"assigned.incumbent": 3, "latency.incumbent.231": 2}
        await report(Batch("b", sequence, {CELL._replace(minute=minute): counts}), beat)
    seen = await store.observations("r1", 1, ["shadow-5"])
    times = len(week) + len(late)
    assert seen.counts["shadow-5"] == {
        "-|101-200|assigned.incumbent": 3 * times,
        "-|101-200|latency.incumbent.231": 2 * times,
    }


def look(at: float, stage: str = "shadow-5") -> Point:
    return Point(
        at=at,
        evidence_epoch=1,
        stage=stage,
        state="running",
        gate="INCONCLUSIVE",
        guard="PASS",
        guard_ln_e=-0.25,
        guard_high=1.5,
        ln_e={"paired errors": 2.75},
        requests=3,
        pairs=2,
        pair_hits={5: {"00": 1, "01": 0, "10": 0, "11": 1}},
    )


async def test_a_trace_is_read_back_in_order_and_by_rollout(store: Store) -> None:
    assert await store.trace("r1") == ()
    looks = tuple(look(float(at)) for at in range(5))
    for one in looks:
        await store.keep("r1", one)
    await store.keep("r2", look(9.0, "ab-25"))
    assert await store.trace("r1") == looks
    assert await store.trace("r1", newest=2) == looks[3:]
    assert await store.trace("r2") == (look(9.0, "ab-25"),)


async def test_a_trace_keeps_its_newest_points(store: Store) -> None:
    for at in range(KEPT_POINTS + 10):
        await store.keep("r1", look(float(at)))
    kept = await store.trace("r1")
    assert [one.at for one in kept] == [float(at) for at in range(10, KEPT_POINTS + 10)]


# --- what a judge may read -----------------------------------------------------------------------

NOW_MINUTE = 29_000_000
NOW = NOW_MINUTE * 60.0 + 30


async def test_a_judge_reads_the_minutes_behind_the_watermark(
    store: Store, report: Callable[..., asyncio.Future[None]]
) -> None:
    for sequence, ago in enumerate((0, 1, 2, 3, 200, -2), start=1):
        cell = CELL._replace(minute=NOW_MINUTE - ago)
        batch = Batch("b", sequence, {cell: {"assigned.incumbent": 10**sequence}})
        await report(batch, BEAT)
    for watermark_s, read in ((0, 1_111_110), (60, 111_000), (91, 110_000), (0.5, 111_100)):
        horizon = Horizon(NOW, watermark_s, label_window_s=3600)
        seen = await store.observations("r1", 1, ["shadow-5", "ab-25"], horizon=horizon)
        stage = seen.stage("shadow-5")
        assert stage.total.total == {"assigned.incumbent": 1_111_110}
        assert stage.counts.total == {"assigned.incumbent": read}
        assert seen.stage("ab-25").total.total == {}


@pytest.mark.parametrize("window_s", [1800.0, 3600.0, 86_400.0, 7 * 86_400.0])
async def test_a_judge_reads_labels_when_their_window_has_closed(
    store: Store, label: Callable[..., Awaitable[str]], window_s: float
) -> None:
    width_s = slot_width(window_s) * 60
    now = time.time()
    fresh, old = now - 0.1 * window_s, now - 0.9 * window_s
    for sequence, at in enumerate((fresh, old), start=1):
        cell = CELL._replace(minute=int(at // 60))
        one = Pending(
            request_id=f"q{sequence}",
            at=at,
            cell=cell,
            assigned="candidate",
            top={"candidate": (3,)},
            label_window_s=window_s,
        )
        await label(Batch("b", sequence, {}, pending=(one,)), f"q{sequence}", 3)
    for later, closed in ((0.0, 0), (0.15 * window_s + width_s + 60, 1), (window_s + width_s, 2)):
        horizon = Horizon(now + later, 60, window_s)
        seen = await store.observations("r1", 1, ["shadow-5"], horizon=horizon)
        labels = seen.stage("shadow-5").labels.total
        names = ("due.candidate", "labels.candidate", "hit1.candidate")
        assert [labels.get(name, 0) for name in names] == [closed] * 3
        assert seen.stage("shadow-5").counts.total == {}
    assert seen.stage("shadow-5").total == seen.stage("shadow-5").labels


async def test_labels_may_be_read_as_they_come(
    store: Store, label: Callable[..., Awaitable[str]]
) -> None:
    now = time.time()
    cell = CELL._replace(minute=int(now // 60))
    one = Pending(request_id="q", at=now, cell=cell, assigned="candidate", top={"candidate": (3,)})
    await label(Batch("b", 1, {}, pending=(one,)), "q", 4)
    horizon = Horizon(now, 60, 3600, wait_for_labels=False)
    seen = await store.observations("r1", 1, ["shadow-5"], horizon=horizon)
    assert seen.stage("shadow-5").labels.total == {"due.candidate": 1, "labels.candidate": 1}


async def test_the_background_of_a_day_is_read_back_by_place(
    store: Store, report: Callable[..., asyncio.Future[None]]
) -> None:
    minutes = (NOW_MINUTE, NOW_MINUTE - 23 * 60, NOW_MINUTE - 26 * 60)
    for sequence, minute in enumerate(minutes, start=1):
        cell = Cell(ROLLOUT, 0, place("phase2", "phase1"), minute, "-")
        await report(Batch("b", sequence, {cell: {"requests": 1, "waited.400": 1}}), BEAT)
    places = [place("phase2", "phase1"), place("phase2", "phase2")]
    assert await store.background(places, NOW) == {
        "phase2/phase1": {
            f"{minutes[0]}|requests": 1,
            f"{minutes[1]}|requests": 1,
            "-|waited.400": 2,
        },
        "phase2/phase2": {},
    }
    seen = await store.observations(ROLLOUT, 0, [places[0]])
    assert seen.counts == {places[0]: {}}


# --- what only a server can do -------------------------------------------------------------------


async def test_a_store_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    store = RedisStore(f"unix://{tmp_path}/nothing.sock")
    with pytest.raises(StoreUnavailable, match="nothing was changed"):
        await store.load()
    with pytest.raises(StoreUnavailable, match="nothing was changed"):
        await store.observations("r1", 1, ["a"])


async def test_a_store_that_holds_nonsense_is_unavailable(valkey_url: str) -> None:
    with Redis.from_url(valkey_url) as client:
        client.set("{turnout}:snapshot", "{}")
    store = RedisStore(valkey_url)
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        await store.load()
    await store.close()


async def test_a_point_that_cannot_be_read_is_left_out_of_the_trace(valkey_url: str) -> None:
    store = RedisStore(valkey_url)
    await store.keep("r1", look(1.0))
    with Redis.from_url(valkey_url) as client:
        client.rpush("{turnout}:trace:r1", '{"of": "another version"}')
    await store.keep("r1", look(2.0))
    assert [one.at for one in await store.trace("r1")] == [1.0, 2.0]
    await store.close()


async def test_a_write_that_a_frozen_store_was_given_never_applies_later(valkey_url: str) -> None:
    store = RedisStore(valkey_url, budget_ms=50)
    with Redis.from_url(valkey_url) as client:
        pid = client.info("server")["process_id"]
    waiting = change(await store.load())
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(OutcomeUnknown, match="is unknown"):
            await store.commit(waiting)
    finally:
        os.kill(pid, signal.SIGCONT)
    stored = await store.load("k1")  # answered after the write that waited in the socket
    assert (stored.position, stored.outcome) == (None, None)
    assert (await store.journal()).entries == ()
    await store.close()
