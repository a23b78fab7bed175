"""What a gateway counts for the judge, and under which name, with a real store."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from gateway_rig import context, counts, counts_with, gateway, publish, snapshot, until

from backends.protocol import Request, write_request
from rollout import history
from rollout.background import background, place
from rollout.controller import Controller
from rollout.feed import Feed
from rollout.forecast import Traffic
from rollout.minutes import Horizon
from rollout.orders import Order
from rollout.plan import DEFAULT_PLAN
from rollout.snapshot import DEFAULT_TIERS, Mark
from rollout.store.redis import RedisStore

MARKS = {
    "budget": Mark(incumbent=30, candidate=30),
    "p50": Mark(incumbent=1e-6, candidate=2e-6),
}


async def test_what_is_decided_before_every_gateway_counts_is_kept_apart(
    tmp_path: Path, valkey_url: str
) -> None:
    early = snapshot(1, mode="ab", weight=100, counting=False)
    await publish(valkey_url, early)
    async with gateway(tmp_path, redis_url=valkey_url, tiers=DEFAULT_TIERS) as rig:
        answered = await rig.predict(120)
        assert answered.headers["x-turnout-stage"] == "the-stage"
        assert answered.headers["x-turnout-arm"] == "phase2"
        await publish(valkey_url, snapshot(2, mode="ab", weight=100, counting=True))
        while (await rig.predict(120)).headers["x-turnout-version"] != "1.2":
            await asyncio.sleep(0.01)
        found = await counts_with(valkey_url, assigned_candidate=1, due_candidate=1)
        assert found["assigned.candidate"] == 1
        warm = await counts(valkey_url, "the-stage/warm-up")
        assert warm["assigned.candidate"] >= 1
        assert warm["due.candidate"] == warm["assigned.candidate"]
        # A label counts where its request was counted.
        name = answered.headers["x-request-id"]
        sent = await rig.client.post("/v1/feedback", json={"id": name, "target_id": 100})
        assert sent.status_code == 202
        assert (await counts(valkey_url, "the-stage/warm-up"))["labels.candidate"] == 1
        assert "labels.candidate" not in await counts(valkey_url)


async def test_latency_is_counted_against_the_marks_served_and_in_pairs(
    tmp_path: Path, valkey_url: str
) -> None:
    await publish(valkey_url, snapshot(1, mode="ab", weight=100, shadow_sample=100, marks=MARKS))
    async with gateway(tmp_path, redis_url=valkey_url, tiers=DEFAULT_TIERS) as rig:
        for _ in range(3):
            await rig.predict(120)
        found = await counts_with(valkey_url, assigned_candidate=3, mirror_compared=3)
    assert found["over.candidate.p50"] == found["pair.over.p50.11"] == 3
    assert "over.candidate.budget" not in found
    assert found["pair.over.budget.00"] == 3
    assert found["pair.due"] == found["due.candidate"] == 3


async def test_requests_are_counted_in_the_strata_of_their_rollout(
    tmp_path: Path, valkey_url: str
) -> None:
    await publish(valkey_url, snapshot(1, mode="ab", weight=100, strata=(110, 130)))
    async with gateway(tmp_path, redis_url=valkey_url, tiers=DEFAULT_TIERS) as rig:
        for length in (105, 120, 125, 400):
            await rig.predict(length)
        await counts_with(valkey_url, assigned_candidate=4)
    store = RedisStore(valkey_url)
    seen = (await store.observations("r1", 1, ["the-stage"])).counts["the-stage"]
    await store.close()
    assert {field: by for field, by in seen.items() if field.endswith("|assigned.candidate")} == {
        "-|<=110|assigned.candidate": 1,
        "-|111-130|assigned.candidate": 2,
        "-|>130|assigned.candidate": 1,
    }


async def test_where_keys_are_the_unit_each_is_counted_once_beside_its_requests(
    tmp_path: Path, valkey_url: str
) -> None:
    offered = snapshot(1, mode="ab", weight=100, shadow_sample=100, unit="key", marks=MARKS)
    await publish(valkey_url, offered)
    names = []
    async with gateway(tmp_path, redis_url=valkey_url, tiers=DEFAULT_TIERS) as rig:
        for key in "abaab":
            answered = await rig.predict(120, key=key)
            names.append(answered.headers["x-request-id"])
        await rig.predict(120)
        await counts_with(valkey_url, due_candidate=5, mirror_compared=5)
        feed = Feed(valkey_url)
        # The second request of a key is no first, even where its truth comes first.
        for name in (names[2], names[0]):  # chance says which of them keeps its vectors
            assert await feed.label(name, 100) in ("counted", "sampled")
        await feed.close()
        found = await counts(valkey_url)
    firsts = {name.removeprefix("first."): by for name, by in found.items() if "first." in name}
    assert (found["keyless"], found["assigned.candidate"], firsts["assigned.candidate"]) == (
        1,
        5,
        2,
    )
    assert firsts["mirror.compared"] == firsts["pair.error.00"] == firsts["mirror.intended"] == 2
    assert firsts["over.candidate.p50"] == firsts["pair.over.p50.11"] == 2
    assert (found["due.candidate"], firsts["due.candidate"], firsts["pair.due"]) == (5, 2, 2)
    assert (found["labels.candidate"], firsts["labels.candidate"]) == (2, 1)
    assert not [name for name in firsts if "latency" in name]


async def test_a_judge_reads_a_request_once_its_minute_and_its_label_window_are_over(
    tmp_path: Path, valkey_url: str
) -> None:
    await publish(valkey_url, snapshot(1, mode="ab", weight=100))
    async with gateway(tmp_path, redis_url=valkey_url, tiers=DEFAULT_TIERS) as rig:
        name = (await rig.predict(120)).headers["x-request-id"]
        await counts_with(valkey_url, due_candidate=1)
        await rig.client.post("/v1/feedback", json={"id": name, "target_id": 100})
    store = RedisStore(valkey_url)
    read = []
    for later in (0, 150, 3600 + 180):
        horizon = Horizon(time.time() + later, 60, 3600)
        seen = await store.observations("r1", 1, ["the-stage"], horizon=horizon)
        stage = seen.stage("the-stage")
        assert stage.total.total["labels.candidate"] == 1
        counted, labelled = stage.counts.total, stage.labels.total
        read.append((counted.get("assigned.candidate", 0), labelled.get("labels.candidate", 0)))
    assert read == [(0, 0), (1, 0), (1, 1)]
    await store.close()


async def test_a_mirror_goes_out_after_the_primary_and_waits_for_no_slow_client(
    tmp_path: Path, valkey_url: str
) -> None:
    await publish(valkey_url, snapshot(1, mode="shadow", weight=100))
    message = write_request(Request(context(300)))
    async with gateway(tmp_path, redis_url=valkey_url, tiers=DEFAULT_TIERS) as rig:

        async def slowly() -> AsyncIterator[bytes]:
            yield message.body[:200_000]
            await until(lambda: rig.phase1.seen, "the primary is under way")
            await asyncio.sleep(0.05)
            assert rig.phase2.seen == []
            yield message.body[200_000:]

        headers = {**message.headers, "content-length": str(len(message.body))}
        response = await rig.client.post(
            "/v2/models/lvm/infer", content=slowly(), headers=headers, timeout=10
        )
        assert response.status_code == 200
        found = await counts_with(valkey_url, mirror_compared=1)
        assert (found["mirror.intended"], len(rig.phase2.seen)) == (1, 1)


async def test_a_client_that_leaves_before_its_body_is_there_leaves_no_mirror_behind(
    tmp_path: Path, valkey_url: str
) -> None:
    await publish(valkey_url, snapshot(1, mode="shadow", weight=100))
    message = write_request(Request(context(300)))
    async with gateway(tmp_path, redis_url=valkey_url, tiers=DEFAULT_TIERS) as rig:
        url = rig.client.base_url
        lines = [f"{name}: {value}" for name, value in message.headers.items()]
        head = [
            "POST /v2/models/lvm/infer HTTP/1.1",
            "host: x",
            f"content-length: {len(message.body)}",
            *lines,
        ]
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write("\r\n".join([*head, "", ""]).encode() + message.body[:200_000])
        await until(lambda: rig.phase1.seen, "the primary is under way")
        writer.transport.abort()
        await rig.until_metric(1, "gateway_mirrors_total", outcome="abandoned")
        assert rig.phase2.seen == []
        assert await rig.metric("gateway_mirrors_in_flight") == 0


async def test_what_gateways_see_outside_a_rollout_is_what_its_start_is_forecast_from(
    tmp_path: Path, valkey_url: str
) -> None:
    async with gateway(tmp_path, redis_url=valkey_url, tiers=DEFAULT_TIERS) as rig:
        for length in (20, 120, 150, 600):
            await rig.predict(length, key="k")
        await rig.predict(120)
    store = RedisStore(valkey_url)
    later = time.time() + 120
    long = await history.lately(store, DEFAULT_PLAN, DEFAULT_TIERS, later, "phase1")
    assert (long.requests, long.keyed, sum(long.bins.values())) == (4, 3, 4)
    assert 60 <= long.seconds <= 300
    everything = DEFAULT_PLAN.model_copy(update={"scope": "all"})
    assert (await history.lately(store, everything, DEFAULT_TIERS, later)).requests == 5
    by_candidate = await history.lately(store, DEFAULT_PLAN, DEFAULT_TIERS, later, "phase2")
    assert by_candidate.requests == 0
    traffic = await history.recent_traffic(store, DEFAULT_PLAN, DEFAULT_TIERS, later)
    assert isinstance(traffic, Traffic)
    assert traffic.requests_per_s == pytest.approx(4 / long.seconds)
    assert traffic.keyed_percent == 75
    assert traffic.source.startswith("no rollout, the last ")
    await store.close()


async def test_requests_of_a_rollout_are_no_background(tmp_path: Path, valkey_url: str) -> None:
    await publish(valkey_url, snapshot(1, mode="ab", weight=50))
    async with gateway(tmp_path, redis_url=valkey_url, tiers=DEFAULT_TIERS) as rig:
        await rig.predict(120)
        await rig.predict(120, headers={"x-turnout-arm": "phase1"})
        await rig.predict(20)
    store = RedisStore(valkey_url)
    everything = DEFAULT_PLAN.model_copy(update={"scope": "all"})
    assert (await history.lately(store, everything, DEFAULT_TIERS, time.time())).requests == 1
    await store.close()


async def test_a_start_freezes_the_incumbents_latency_from_what_gateways_saw_before(
    tmp_path: Path, valkey_url: str
) -> None:
    async with gateway(tmp_path, redis_url=valkey_url, tiers=DEFAULT_TIERS) as rig:
        for _ in range(40):
            await rig.predict(120)
        store = RedisStore(valkey_url)
        before = await store.background([place("phase2", "phase1")], time.time())
        while sum(background(before, time.time(), 0).bins.values()) < 40:
            await asyncio.sleep(0.01)
            before = await store.background([place("phase2", "phase1")], time.time())
        controller = Controller(store, DEFAULT_TIERS)
        order = Order(actor="ann", reason="a test")
        plan = DEFAULT_PLAN.model_copy(update={"latency_margins": {"p50": 50.0, "p99": 50.0}})
        await controller.start(plan, order)
        stored = await store.load()
        assert stored.snapshot is not None
        assert stored.snapshot.rollout is not None
        marks = stored.snapshot.rollout.marks
        await store.close()
    assert set(marks) == {"budget", "p50"}  # forty requests say nothing about a p99
    assert 1e-4 < marks["p50"].incumbent < 10
    assert marks["p50"].candidate == pytest.approx(1.5 * marks["p50"].incumbent)
    assert marks["budget"].incumbent == marks["budget"].candidate == plan.latency_budget_s
