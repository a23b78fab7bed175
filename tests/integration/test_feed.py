"""A gateway's door, against a real Valkey."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis import Redis

from rollout.feed import Feed, FeedUnavailable
from rollout.keys import Keys
from rollout.layout import KEPT_KEYS, KEYS_TTL_S, SILENT_S, label_keep_s
from rollout.machine import begin, live
from rollout.minutes import MINUTE_TTL_S
from rollout.plan import DEFAULT_PLAN
from rollout.snapshot import (
    DEFAULT_TIERS,
    KEPT_SAMPLES,
    KEPT_VECTORS,
    Batch,
    Cell,
    Heartbeat,
    Metric,
    Observation,
    Pending,
    Role,
    Sample,
    Snapshot,
    Vectors,
)

KEYS = Keys()
CELL = Cell("r1", 1, "ab-25", 10, "101-200")
TOTALS = KEYS.counts("r1", 1, "ab-25")
MINUTE = KEYS.minute("r1", 1, "ab-25", 10)
SLOT = KEYS.labels("r1", 1, "ab-25", 10)
SAMPLES = KEYS.samples("r1", 1, "ab-25")
TRUTHS = KEYS.truths("r1", 1, "ab-25")
HUGE = 2**63 - 1

SAMPLE = Sample(
    request_id="q1",
    rollout="r1",
    stage="ab-25",
    at=1.0,
    length=150,
    cosine=0.9,
    overlap10=0.8,
    rbo=0.7,
    latency_ms={"incumbent": 1.0, "candidate": 2.0},
    top={"incumbent": (1,), "candidate": (2,)},
)


@pytest.fixture
async def feed(valkey_url: str, valkey_users: dict[str, str]) -> AsyncIterator[Feed]:
    assert valkey_url, "it is empty"
    # the machine may be busy; one test is about timeouts
    made = Feed(valkey_users["gateway"], timeout_s=10)
    yield made
    await made.close()


@pytest.fixture
def redis(valkey_url: str) -> Redis:
    return Redis.from_url(valkey_url, decode_responses=True)


def snapshot(version: int) -> Snapshot:
    record = begin(DEFAULT_PLAN, DEFAULT_TIERS, id_="r1", salt="s", now=0)
    return Snapshot(epoch=1, version=version, tiers=DEFAULT_TIERS, rollout=live(record))


def pending(assigned: Role = "candidate", **top: tuple[int, ...]) -> Pending:
    roles: tuple[Role, ...] = ("incumbent", "candidate")
    by_role = {role: top[role] for role in roles if role in top}
    return Pending(request_id="q1", at=time.time(), cell=CELL, assigned=assigned, top=by_role)


async def counts(redis: Redis, feed: Feed, one: Pending, target: int) -> dict[str, str]:
    """Label one request; return what it added to the totals, and see its slot be the same."""
    await feed.flush(Batch("b", 1, {}, pending=(one,)))
    assert await feed.label("q1", target) == "counted"
    found, slot = redis.hgetall(TOTALS), redis.hgetall(SLOT)
    assert slot == {str(field).replace("-|", "10|", 1): by for field, by in found.items()}
    return {str(field).removeprefix("-|101-200|"): str(by) for field, by in found.items()}


async def test_an_empty_store_has_no_snapshot(feed: Feed) -> None:
    assert await feed.snapshot() is None


async def test_changes_begin_with_the_present_and_go_on(feed: Feed, redis: Redis) -> None:
    redis.set(KEYS.snapshot, snapshot(1).model_dump_json())
    changes = feed.changes()
    assert (await anext(changes)).version == 1
    redis.publish(KEYS.changed, snapshot(2).model_dump_json())
    assert (await anext(changes)).version == 2
    await changes.aclose()  # type: ignore[attr-defined] # an async generator behind the port's type


async def test_changes_end_when_the_connection_is_lost(feed: Feed, redis: Redis) -> None:
    redis.set(KEYS.snapshot, snapshot(1).model_dump_json())
    changes = feed.changes()
    await anext(changes)
    redis.client_kill_filter(_type="pubsub")
    with pytest.raises(FeedUnavailable):
        await anext(changes)


async def test_a_snapshot_that_cannot_be_read_is_no_snapshot(feed: Feed, redis: Redis) -> None:
    redis.set(KEYS.snapshot, "{}")
    with pytest.raises(FeedUnavailable, match="cannot be read"):
        await feed.snapshot()


@pytest.mark.parametrize("stored", [b"\xff\xfe", b"", b"\x00", b'"\\ud800"', b"[]"])
async def test_no_bytes_in_the_store_are_worse_than_unavailable(
    feed: Feed, redis: Redis, stored: bytes
) -> None:
    redis.set(KEYS.snapshot, stored)
    with pytest.raises(FeedUnavailable):
        await feed.snapshot()
    with pytest.raises(FeedUnavailable):
        await anext(feed.changes())
    redis.set(KEYS.snapshot, snapshot(1).model_dump_json())
    assert await feed.snapshot() == snapshot(1)


async def test_a_push_that_is_no_text_ends_the_changes(feed: Feed, redis: Redis) -> None:
    changes = feed.changes()
    redis.set(KEYS.snapshot, snapshot(1).model_dump_json())
    await anext(changes)
    redis.publish(KEYS.changed, b"\xff")
    with pytest.raises(FeedUnavailable):
        await anext(changes)


async def test_a_batch_counts_once_however_often_and_late_it_is_sent(
    feed: Feed, redis: Redis
) -> None:
    first, second = (Batch("b", n, {CELL: {"assigned.candidate": n}}) for n in (1, 2))
    sent = await asyncio.gather(*(feed.flush(first) for _ in range(10)))
    assert sorted(sent) == [False] * 9 + [True]
    assert [await feed.flush(batch) for batch in (second, first, second)] == [True, False, False]
    assert await feed.flush(Batch("another boot", 1, {CELL: {"assigned.candidate": 10}}))
    assert redis.hgetall(TOTALS) == {"-|101-200|assigned.candidate": "13"}
    assert redis.hgetall(MINUTE) == {"10|101-200|assigned.candidate": "13"}


async def test_minutes_are_forgotten_and_totals_are_not(feed: Feed, redis: Redis) -> None:
    counts = {"assigned.candidate": 2}
    cells = {CELL: counts, CELL._replace(minute=11): counts, CELL._replace(stratum=">500"): counts}
    await feed.flush(Batch("b", 1, cells, pending=(pending(candidate=(3,)),)))
    for minute in (10, 11):
        assert 0 < int(str(redis.ttl(KEYS.minute("r1", 1, "ab-25", minute)))) <= MINUTE_TTL_S
    assert redis.ttl(TOTALS) == -1
    redis.delete(MINUTE, KEYS.minute("r1", 1, "ab-25", 11))
    assert redis.ttl(SLOT) == label_keep_s(3600)
    redis.delete(SLOT)
    # What comes in for a minute that is forgotten counts all the same, and is forgotten again.
    await feed.flush(Batch("b", 2, {CELL: counts}))
    assert await feed.label("q1", 3) == "counted"
    assert redis.hget(TOTALS, "-|101-200|assigned.candidate") == "6"
    assert redis.hget(TOTALS, "-|>500|assigned.candidate") == "2"
    assert redis.hget(TOTALS, "-|101-200|labels.candidate") == "1"
    assert 0 < int(str(redis.ttl(MINUTE))) <= MINUTE_TTL_S
    assert redis.ttl(SLOT) == label_keep_s(3600)


async def test_a_batch_that_meets_a_foreign_key_is_kept_whole_for_the_next_try(
    feed: Feed, redis: Redis
) -> None:
    redis.set(KEYS.samples("r1", 1, "ab-25"), "no sorted set")
    batch = Batch("b", 1, {CELL: {"assigned.candidate": 1}}, (SAMPLE,), (pending(candidate=(3,)),))
    for _ in range(2):
        with pytest.raises(FeedUnavailable, match=r"samples:r1:1:ab-25 is a string, not a zset"):
            await feed.flush(batch)
    assert redis.keys("*") == [KEYS.samples("r1", 1, "ab-25")]
    redis.delete(KEYS.samples("r1", 1, "ab-25"))
    assert await feed.flush(batch)
    assert redis.hgetall(TOTALS) == {
        "-|101-200|assigned.candidate": "1",
        "-|101-200|due.candidate": "1",
    }


async def test_a_label_that_meets_a_foreign_key_is_not_taken_in(feed: Feed, redis: Redis) -> None:
    await feed.flush(Batch("b", 1, {}, pending=(pending(candidate=(3,)),)))
    redis.set(SLOT, "not a hash")
    with pytest.raises(FeedUnavailable, match="is a string, not a hash"):
        await feed.label("q1", 3)
    redis.delete(SLOT)
    redis.set(TRUTHS, "not a hash")
    with pytest.raises(FeedUnavailable, match="truths is a string, not a hash"):
        await feed.label("q1", 3)
    redis.delete(TRUTHS)
    assert await feed.label("q1", 3) == "counted"


async def test_the_hash_of_truths_is_as_small_as_the_samples_are_few(
    feed: Feed, redis: Redis
) -> None:
    for sequence in range(1, 5):
        samples = tuple(
            SAMPLE.model_copy(update={"request_id": f"q{sequence}-{n}", "cosine": -n / 100})
            for n in range(30)
        )
        await feed.flush(Batch("b", sequence, {}, samples=samples))
    kept = [Sample.model_validate_json(str(one)).request_id for one in redis.zrange(SAMPLES, 0, -1)]
    assert redis.hgetall(TRUTHS) == dict.fromkeys(kept, "")
    assert len(kept) == KEPT_SAMPLES


async def test_a_stage_keeps_the_vectors_of_500_requests_and_each_for_its_label_window(
    feed: Feed, redis: Redis
) -> None:
    start = time.time()
    offered = tuple(
        Vectors(f"q{n}", start + 36 * n / 50, CELL, 36.0, b"i" * 1536, b"c" * 1536)
        for n in range(60)
    )  # ten for each of the 500th parts of a label window, and of the next one
    again = tuple(one._replace(request_id=f"{one.request_id}-2") for one in offered)
    for sequence, vectors in enumerate((offered, again, offered), start=1):
        assert await feed.flush(Batch("b", sequence, {}, vectors=vectors))
    slices = len({one.slice for one in offered})
    kept = [str(name) for name in redis.keys("*:vectors")]
    assert len(kept) == len(list(redis.keys("*:slice:*"))) == slices == 60
    best = {max(one.rank for one in pair) for pair in zip(offered, again, strict=True)}
    lowest = {min(one.rank for one in pair) for pair in zip(offered, again, strict=True)}
    ranks = {str(redis.get(name)).partition(" ")[0] for name in redis.keys("*:slice:*")}
    assert ranks == lowest != best
    for name in (*kept, *map(str, redis.keys("*:slice:*"))):
        assert 0 < int(str(redis.pttl(name))) <= (start + 80 - time.time()) * 1000
    size = sum(int(str(redis.memory_usage(name))) for name in redis.keys("*")) / len(kept)
    assert size * KEPT_VECTORS < 3 * 1024**2


async def test_vectors_that_nobody_can_read_are_as_a_store_that_is_away(
    feed: Feed, redis: Redis
) -> None:
    for text in ("", "{}", "[]", '{"incumbent": 3}'):
        redis.set(KEYS.vectors("q1"), text)
        with pytest.raises(FeedUnavailable, match="cannot be read"):
            await feed.vectors("q1")
    assert await feed.vectors("another") is None


async def test_heartbeats_are_the_last_word_of_each_gateway(feed: Feed, redis: Redis) -> None:
    for version in (1, 2):
        await feed.beat(Heartbeat(boot="b", at=1, epoch=1, version=version, held=False))
    assert Heartbeat.model_validate_json(redis.hgetall(KEYS.gateways)["b"]).version == 2


async def test_a_gateway_that_ends_takes_its_heartbeat_away(valkey_url: str, redis: Redis) -> None:
    beat = Heartbeat(boot="b", at=time.time(), epoch=1, version=1, held=False)
    ended, lives, never_beat = (Feed(valkey_url, timeout_s=10) for _ in range(3))
    await ended.beat(beat)
    await lives.beat(beat.model_copy(update={"boot": "c"}))
    await ended.close()
    await never_beat.close()
    assert redis.hkeys(KEYS.gateways) == ["c"]
    await lives.close()


async def test_a_gateway_that_starts_takes_away_those_that_fell_silent(
    valkey_url: str, feed: Feed, redis: Redis
) -> None:
    fresh = Heartbeat(boot="fresh", at=time.time() - 60, epoch=1, version=1, held=False)
    silent = fresh.model_copy(update={"boot": "silent", "at": time.time() - SILENT_S - 60})
    for one in (fresh, silent):
        redis.hset(KEYS.gateways, one.boot, one.model_dump_json())
    redis.hset(KEYS.gateways, "nonsense", "{")
    await feed.beat(fresh.model_copy(update={"boot": "new"}))
    assert sorted(redis.hkeys(KEYS.gateways)) == ["fresh", "new"]
    # Taken away by mistake, for its clock is wrong: it is back with its next heartbeat.
    wrong = Feed(valkey_url, timeout_s=10)
    for _ in range(2):
        await wrong.beat(silent)
        assert redis.hexists(KEYS.gateways, "silent")
        redis.hdel(KEYS.gateways, "silent")
    await wrong.close()


async def test_a_label_counts_what_the_client_got_and_what_each_arm_said(
    feed: Feed, redis: Redis
) -> None:
    both = pending(incumbent=(1, 2, 3), candidate=(9, 8, 7, 6, 5, 3))
    assert await counts(redis, feed, both, 3) == {
        "due.candidate": "1",
        "pair.due": "1",
        "labels.candidate": "1",
        "hit10.candidate": "1",
        "pair.hit1.00": "1",
        "pair.hit5.10": "1",
        "pair.hit10.11": "1",
    }


async def test_a_label_after_a_fallback_counts_the_answer_for_the_assigned_arm(
    feed: Feed, redis: Redis
) -> None:
    assert await counts(redis, feed, pending(incumbent=(3,)), 3) == {
        "due.candidate": "1",
        "labels.candidate": "1",
        "hit1.candidate": "1",
        "hit5.candidate": "1",
        "hit10.candidate": "1",
    }


async def test_a_label_of_64_bits_is_compared_exactly(feed: Feed, redis: Redis) -> None:
    assert await counts(redis, feed, pending(candidate=(HUGE - 1,)), HUGE) == {
        "due.candidate": "1",
        "labels.candidate": "1",
    }


async def test_a_second_label_is_a_repeat_or_a_contradiction_and_counts_nothing(
    feed: Feed, redis: Redis
) -> None:
    before = await counts(redis, feed, pending(candidate=(3,)), 3)
    assert await feed.label("q1", 3) == "repeat"
    assert await feed.label("q1", 4) == "contradiction"
    assert await feed.flush(Batch("b", 2, {}, pending=(pending(candidate=(4,)),)))
    assert await feed.label("q1", 4) == "contradiction"
    after = redis.hgetall(TOTALS)
    assert after.pop("-|101-200|due.candidate") == "2"  # the second was awaited, too
    del before["due.candidate"]
    assert list(after.values()) == list(before.values())


async def test_a_label_outside_any_rollout_is_taken_in_and_counts_nowhere(
    feed: Feed, redis: Redis
) -> None:
    await feed.flush(Batch("b", 1, {}, pending=(Pending(request_id="q1", at=time.time()),)))
    assert [await feed.label("q1", 3) for _ in range(2)] == ["outside", "repeat"]
    assert redis.keys("*counts*") == []


async def test_a_pending_label_is_kept_for_its_window(feed: Feed, redis: Redis) -> None:
    one = Pending(request_id="q1", at=time.time() - 20, label_window_s=60)
    await feed.flush(Batch("b", 1, {}, pending=(one,)))
    await feed.label("q1", 3)
    assert 30_000 < int(str(redis.pttl(KEYS.pending("q1")))) <= 40_000


async def test_a_label_after_the_window_of_its_request_counts_nowhere(
    feed: Feed, redis: Redis
) -> None:
    late = pending(candidate=(3,))._replace(at=time.time() - 3601)
    await feed.flush(Batch("b", 1, {}, pending=(late,)))  # it had waited for the store
    assert await feed.label("q1", 3) == "unknown"
    assert redis.hgetall(TOTALS) == {"-|101-200|due.candidate": "1"}


# --- routing keys as the unit --------------------------------------------------------------------


def seen(key: str, *counters: str, cell: Cell = CELL, metric: Metric = "request") -> Observation:
    return Observation(cell, metric, key, counters)


async def test_of_a_key_only_the_first_observation_of_a_metric_counts_as_a_first(
    feed: Feed, redis: Redis
) -> None:
    one = (seen("k1", "assigned.candidate", "error.candidate.status"), seen("k2", "assigned.x"))
    again = (
        seen("k1", "assigned.candidate", cell=CELL._replace(minute=11)),
        seen("k1", "pair.error.01", metric="pair"),
        seen("k1", "assigned.candidate", cell=CELL._replace(stage="ab-50")),
    )
    for boot, observations in (("b", (*one, *one)), ("another", again), ("third", again)):
        batch = Batch(boot, 1, {}, observations=observations)
        await feed.flush(batch)
        await feed.flush(batch)
    assert redis.hgetall(TOTALS) == {
        "-|101-200|first.assigned.candidate": "1",
        "-|101-200|first.error.candidate.status": "1",
        "-|101-200|first.assigned.x": "1",
        "-|101-200|first.pair.error.01": "1",
    }
    assert redis.hget(MINUTE, "10|101-200|first.assigned.candidate") == "1"
    assert redis.hgetall(KEYS.counts("r1", 1, "ab-50")) == {
        "-|101-200|first.assigned.candidate": "1"
    }
    known = KEYS.seen("r1", 1, "ab-25", "request")
    assert redis.smembers(known) == {"k1", "k2"}
    assert KEYS_TTL_S - 10 < int(str(redis.ttl(known))) <= KEYS_TTL_S


async def test_of_a_keys_labels_only_that_of_its_first_awaited_request_counts_as_a_first(
    feed: Feed, redis: Redis
) -> None:
    alone = pending(incumbent=(3,))._replace(key="k1")
    both = pending(incumbent=(3,), candidate=(3,))._replace(key="k1", request_id="q2")
    await feed.flush(Batch("b", 1, {}, pending=(alone, both)))
    assert [await feed.label(name, 3) for name in ("q2", "q1", "q1")] == [
        "counted",
        "counted",
        "repeat",
    ]
    found = {str(name).removeprefix("-|101-200|"): by for name, by in redis.hgetall(TOTALS).items()}
    assert (found["due.candidate"], found["first.due.candidate"]) == ("2", "1")
    assert (found["labels.candidate"], found["first.labels.candidate"]) == ("2", "1")
    assert (found["hit5.candidate"], found["first.hit5.candidate"]) == ("2", "1")
    # The first pair of the key is its second request.
    assert (found["pair.due"], found["first.pair.due"]) == ("1", "1")
    assert (found["pair.hit5.11"], found["first.pair.hit5.11"]) == ("1", "1")


async def test_a_stage_remembers_a_bounded_number_of_keys_and_counts_those_beyond(
    feed: Feed, redis: Redis
) -> None:
    known = KEYS.seen("r1", 1, "ab-25", "request")
    redis.sadd(known, *map(str, range(KEPT_KEYS - 1)))
    batch = tuple(seen(name, "assigned.candidate") for name in ("new", "beyond", "new", "more"))
    await feed.flush(Batch("b", 1, {}, observations=batch))
    assert redis.scard(known) == KEPT_KEYS
    assert redis.hgetall(TOTALS) == {
        "-|101-200|first.assigned.candidate": "1",
        "-|101-200|keys.beyond": "2",
    }


async def test_a_label_for_an_unknown_request_says_so(feed: Feed) -> None:
    assert await feed.label("never seen", 3) == "unknown"


async def test_a_store_that_is_down_is_nothing_but_unavailable(tmp_path: Path) -> None:
    feed = Feed(f"unix://{tmp_path}/nothing.sock")
    beat = Heartbeat(boot="b", at=1, epoch=1, version=1, held=False)
    with pytest.raises(FeedUnavailable):
        await feed.snapshot()
    with pytest.raises(FeedUnavailable):
        await feed.flush(Batch("b", 1, {}))
    with pytest.raises(FeedUnavailable):
        await feed.beat(beat)
    with pytest.raises(FeedUnavailable):
        await feed.label("q", 1)
    with pytest.raises(FeedUnavailable):
        await anext(feed.changes())


async def test_a_frozen_store_costs_no_more_than_the_timeout(valkey_url: str, redis: Redis) -> None:
    feed = Feed(valkey_url, timeout_s=0.05)
    await feed.snapshot()
    pid = redis.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(2):
            with pytest.raises(FeedUnavailable):
                await feed.flush(Batch("b", 1, {CELL: {"assigned.candidate": 1}}))
    finally:
        os.kill(pid, signal.SIGCONT)
    # The batch is sent again, not knowing that it arrived: it counts once.
    await feed.flush(Batch("b", 1, {CELL: {"assigned.candidate": 1}}))
    assert redis.hgetall(TOTALS) == {"-|101-200|assigned.candidate": "1"}
    await feed.close()
