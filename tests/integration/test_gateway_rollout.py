"""The gateway in a rollout, with a real store: split, mirror, counts, labels, configuration."""

import asyncio
import contextlib
import os
import signal
import time
import uuid
from collections import Counter as Multiset
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import structlog
from gateway_rig import (
    Rig,
    body,
    counts,
    counts_with,
    gateway,
    publish,
    sent,
    snapshot,
    until,
)
from prometheus_client import CollectorRegistry
from redis import Redis

from rollout.feed import Feed
from rollout.keys import Keys
from rollout.snapshot import (
    DEFAULT_TIERS,
    Batch,
    Cell,
    Heartbeat,
    Pending,
    Sample,
    Snapshot,
)
from router.errors import ContradictionError
from router.feedback import LANES
from router.ids import request_id
from router.metrics import Metrics
from router.snapshots import HOLD_FILE, Snapshots

KEYS = Keys()
ARMS = tuple(tier.arm for tier in DEFAULT_TIERS)


@pytest.fixture
def store(valkey_url: str) -> Iterator[Any]:
    with Redis.from_url(valkey_url, decode_responses=True) as client:
        yield client


@contextlib.asynccontextmanager
async def rollout(folder: Path, url: str, **live: Any) -> AsyncIterator[Rig]:
    """Run a gateway that has applied a rollout with the given facts."""
    await publish(url, snapshot(**{"mode": "ab", **live}))
    async with gateway(folder, redis_url=url, tiers=DEFAULT_TIERS) as rig:
        yield rig


@contextlib.contextmanager
def frozen(store: Any) -> Iterator[None]:
    """Stop the store's process, as an overloaded machine or a debugger does."""
    pid = int(store.info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def label(rig: Rig, name: str, target: int) -> int:
    response = await rig.client.post("/v1/feedback", json={"id": name, "target_id": target})
    return response.status_code


# --- the split ----------------------------------------------------------------------------------


async def test_before_a_rollout_long_contexts_go_to_the_last_active_tier(
    tmp_path: Path, valkey_url: str
) -> None:
    async with gateway(tmp_path, redis_url=valkey_url, tiers=DEFAULT_TIERS) as rig:
        response = await rig.predict(120)
        assert response.headers["x-turnout-arm"] == "phase1"
        assert response.json()["truncated"] is True


async def test_in_an_ab_stage_the_split_is_followed_counted_and_sticky(
    tmp_path: Path, valkey_url: str
) -> None:
    async with rollout(tmp_path, valkey_url, weight=50, unit="key") as rig:
        arms: dict[str, set[str]] = {}
        for i in range(24):
            response = await rig.predict(101, key=f"key-{i % 12}")
            arms.setdefault(f"key-{i % 12}", set()).add(response.headers["x-turnout-arm"])
            assert response.headers["x-turnout-stage"] == "the-stage"
            assert response.headers["x-turnout-version"] == "1.1"
        assert all(len(found) == 1 for found in arms.values())
        assert set.union(*arms.values()) == {"phase1", "phase2"}
        mine = sum(found == {"phase2"} for found in arms.values())
        found = await counts_with(
            valkey_url, assigned_candidate=2 * mine, assigned_incumbent=24 - 2 * mine
        )
        assert sum(by for name, by in found.items() if name.startswith("latency.")) == 24


async def test_short_contexts_are_untouched_and_uncounted(tmp_path: Path, valkey_url: str) -> None:
    async with rollout(tmp_path, valkey_url, weight=100) as rig:
        response = await rig.predict(20)
        assert response.headers["x-turnout-arm"] == "phase1"
        assert response.headers["x-turnout-stage"] == "-"
        await rig.predict(120)
        assert "assigned.incumbent" not in await counts_with(valkey_url, assigned_candidate=1)


@pytest.mark.parametrize("arm", ["phase1", "phase2"])
async def test_an_override_wins_over_the_split_and_is_left_out_of_the_statistics(
    tmp_path: Path, valkey_url: str, arm: str
) -> None:
    weight = 100 if arm == "phase1" else 0
    async with rollout(tmp_path, valkey_url, weight=weight, shadow_sample=100) as rig:
        response = await rig.predict(120, headers={"x-turnout-arm": arm})
        told = response.headers
        assert (told["x-turnout-arm"], told["x-turnout-reason"]) == (arm, "override")
        assert told["x-turnout-stage"] == "the-stage"
        assert await label(rig, told["x-request-id"], 100) == 202
        assert await counts_with(valkey_url, overridden=1) == {"overridden": 1}
        assert len(rig.phase1.seen) + len(rig.phase2.seen) == 1  # and no mirror


async def test_an_overridden_arm_that_fails_has_no_stand_in(
    tmp_path: Path, valkey_url: str
) -> None:
    async with rollout(tmp_path, valkey_url, weight=0) as rig:
        rig.phase2.status = 500
        response = await rig.predict(120, headers={"x-turnout-arm": "phase2"})
        assert (response.status_code, response.headers["x-turnout-arm"]) == (502, "-")
        assert rig.phase1.seen == []
        assert await counts_with(valkey_url, overridden=1) == {"overridden": 1}


async def test_a_gateway_that_is_held_refuses_an_override_to_the_candidate_alone(
    tmp_path: Path, valkey_url: str
) -> None:
    async with rollout(tmp_path, valkey_url, weight=100) as rig:
        (tmp_path / "hold-at-incumbent").touch()
        await rig.until_metric(1, "gateway_held_at_incumbent")
        held = await rig.predict(120, headers={"x-turnout-arm": "phase2"})
        assert held.status_code == 409
        assert "an operator holds this gateway at the incumbent" in held.json()["error"]
        let = await rig.predict(120, headers={"x-turnout-arm": "phase1"})
        assert (let.status_code, rig.phase2.seen) == (200, [])


async def test_requests_without_their_key_are_counted_apart(
    tmp_path: Path, valkey_url: str
) -> None:
    async with rollout(tmp_path, valkey_url, weight=50, unit="key") as rig:
        response = await rig.predict(120)
        assert response.headers["x-turnout-reason"] == "keyless"
        assert await counts_with(valkey_url, keyless=1) == {"keyless": 1}


@pytest.mark.parametrize("fault", ["status", "cut", "junk"])
async def test_a_failing_candidate_is_answered_for_and_keeps_its_error(
    tmp_path: Path, valkey_url: str, fault: str
) -> None:
    async with rollout(tmp_path, valkey_url, weight=100) as rig:
        setattr(rig.phase2, fault, {"status": 503, "cut": True, "junk": b"{}"}[fault])
        response = await rig.predict(120)
        assert response.status_code == 200
        assert response.headers["x-turnout-arm"] == response.json()["arm"] == "phase1"
        assert response.headers["x-turnout-assigned"] == "phase2"
        kind = {"status": "status", "cut": "connection", "junk": "invalid"}[fault]
        found = await counts_with(valkey_url, assigned_candidate=1, fallback_candidate=1)
        assert found[f"error.candidate.{kind}"] == 1
        assert not [name for name in found if "incumbent" in name]


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_candidate_that_refuses_what_the_incumbent_answers_has_failed(
    tmp_path: Path, valkey_url: str, status: int
) -> None:
    async with rollout(tmp_path, valkey_url, weight=100) as rig:
        rig.phase2.status = status
        response = await rig.predict(120)
        assert response.status_code == 200
        assert response.headers["x-turnout-arm"] == "phase1"
        found = await counts_with(valkey_url, assigned_candidate=1, fallback_candidate=1)
        assert found["error.candidate.refused"] == 1


async def test_what_both_arms_refuse_is_the_clients_mistake(
    tmp_path: Path, valkey_url: str
) -> None:
    async with rollout(tmp_path, valkey_url, weight=100) as rig:
        rig.phase1.status = rig.phase2.status = 400
        response = await rig.predict(120)
        assert (response.status_code, response.json()) == (400, {"error": "phase1 says 400"})
        found = await counts_with(valkey_url, assigned_candidate=1)
        assert not [name for name in found if name.startswith(("error.", "fallback."))]


async def test_a_candidate_that_hangs_leaves_the_incumbent_time_to_answer(
    tmp_path: Path, valkey_url: str
) -> None:
    async with rollout(tmp_path, valkey_url, weight=100) as rig:
        rig.phase2.hold = asyncio.Event()
        response = await rig.predict(120, headers={"x-request-timeout-ms": "2000"})
        assert (response.status_code, response.headers["x-turnout-arm"]) == (200, "phase1")
        assert int(rig.phase2.seen[0]["x-request-timeout-ms"]) <= 1000
        assert int(rig.phase1.seen[0]["x-request-timeout-ms"]) <= 1000
        found = await counts_with(valkey_url, fallback_candidate=1)
        assert found["error.candidate.timeout"] == 1


async def test_a_client_that_leaves_takes_its_request_and_its_mirror_along(
    tmp_path: Path, valkey_url: str
) -> None:
    async with rollout(tmp_path, valkey_url, weight=100, shadow_sample=100) as rig:
        rig.phase1.hold, rig.phase2.hold = asyncio.Event(), asyncio.Event()
        async with sent(rig, body(120)):
            await until(lambda: rig.phase1.seen and rig.phase2.seen, "both backends are asked")
        await rig.until_metric(
            1, "gateway_requests_total", arm="-", reason="bucket-in", status="left"
        )
        await rig.until_metric(1, "gateway_mirrors_total", outcome="abandoned")
        assert await rig.metric("gateway_mirrors_in_flight") == 0
        assert rig.phase1.left == rig.phase2.left == 1
        found = await counts_with(valkey_url, assigned_candidate=1)
        assert sum(by for name, by in found.items() if name.startswith("latency.candidate.")) == 1
        assert len(found) == 2


async def test_where_both_arms_fail_the_client_gets_one_sentence(
    tmp_path: Path, valkey_url: str
) -> None:
    async with rollout(tmp_path, valkey_url, weight=100) as rig:
        rig.phase1.status = rig.phase2.status = 500
        response = await rig.predict(120)
        assert response.status_code == 502
        assert response.json() == {"error": "the phase1 backend answered with status 500"}
        found = await counts_with(valkey_url, error_candidate_status=1)
        assert "fallback.candidate" not in found


# --- the mirror ---------------------------------------------------------------------------------


async def test_in_a_shadow_stage_the_incumbent_answers_and_the_pair_is_compared(
    tmp_path: Path, valkey_url: str, store: Any
) -> None:
    async with rollout(tmp_path, valkey_url, mode="shadow", weight=100) as rig:
        response = await rig.predict(120)
        name = response.headers["x-request-id"]
        assert response.headers["x-turnout-arm"] == "phase1"
        found = await counts_with(valkey_url, mirror_compared=1)
        assert found["mirror.intended"] == found["pair.error.00"] == found["pair.cosine.100"] == 1
        assert rig.phase2.seen[0]["x-turnout-shadow"] == "1"
        assert rig.phase2.seen[0]["x-request-id"] == name
        assert await rig.metric("gateway_mirrors_total", outcome="compared") == 1
        (kept,) = store.zrange(KEYS.samples("r1", 1, "the-stage"), 0, -1)
        sample = Sample.model_validate_json(kept)
        assert found["sampled"] == 1
        assert (sample.request_id, sample.length, sample.overlap10) == (name, 120, 1.0)


async def test_latency_is_counted_by_what_the_arms_known_prefixes_did_and_no_client_is_told(
    tmp_path: Path, valkey_url: str
) -> None:
    async with rollout(tmp_path, valkey_url, weight=0, shadow_sample=100) as rig:
        rig.phase1.prefix, rig.phase2.prefix = "slid", "hit"
        await rig.predict(120)
        tensor = {"name": "CONTEXT", "shape": [1, 120, 768], "datatype": "FP32"}
        asked = {"inputs": [{**tensor, "data": [0.5] * 120 * 768}]}
        response = await rig.client.post("/v2/models/lvm/infer", json=asked)
        assert "prefix" not in response.json()["parameters"]
        found = await counts_with(valkey_url, mirror_compared=2)
        by_prefix: Multiset[str] = Multiset()
        for name, by in found.items():
            if name.startswith("prefix."):
                by_prefix[name.rpartition(".")[0]] += by
        assert by_prefix == {
            "prefix.slid.latency.incumbent": 2,
            "prefix.slid.pair.latency.incumbent": 2,
            "prefix.hit.pair.latency.candidate": 2,
        }


async def test_in_an_ab_stage_the_arm_that_does_not_answer_gets_the_copy(
    tmp_path: Path, valkey_url: str
) -> None:
    async with rollout(tmp_path, valkey_url, weight=100, shadow_sample=100) as rig:
        response = await rig.predict(120)
        assert response.headers["x-turnout-arm"] == "phase2"
        await counts_with(valkey_url, mirror_compared=1)
        assert rig.phase1.seen[0]["x-turnout-shadow"] == "1"
        assert "x-turnout-shadow" not in rig.phase2.seen[0]


async def test_a_shadow_that_hangs_costs_the_answer_nothing_and_is_given_up(
    tmp_path: Path, valkey_url: str
) -> None:
    await publish(valkey_url, snapshot(mode="shadow", weight=100))
    options = {"mirror_timeout_s": 1, "mirror_in_flight": 2}
    async with gateway(tmp_path, redis_url=valkey_url, tiers=DEFAULT_TIERS, **options) as rig:
        rig.phase2.hold = asyncio.Event()
        responses = await asyncio.gather(*(rig.predict(120) for _ in range(4)))
        assert [response.status_code for response in responses] == [200] * 4
        names = [response.headers["x-request-id"] for response in responses]
        found = await counts_with(valkey_url, mirror_dropped_timeout=2, mirror_dropped_full=2)
        assert found["mirror.intended"] == found["assigned.incumbent"] == 4
        assert found["pair.error.01"] == 2
        assert "error.incumbent" not in str(found)
        assert [await label(rig, name, 100) for name in names] == [202] * 4
        await counts_with(valkey_url, labels_incumbent=4, hit1_incumbent=4)


async def test_a_shadow_that_is_dead_costs_the_answer_nothing(
    tmp_path: Path, valkey_url: str
) -> None:
    async with rollout(tmp_path, valkey_url, mode="shadow", weight=100) as rig:
        rig.phase2.cut = True
        assert (await rig.predict(120)).status_code == 200
        found = await counts_with(valkey_url, mirror_dropped_error=1)
        assert found["pair.error.01"] == 1


async def test_a_request_that_both_arms_refuse_is_a_mirror_seen_to_its_end(
    tmp_path: Path, valkey_url: str
) -> None:
    async with rollout(tmp_path, valkey_url, mode="shadow", weight=100) as rig:
        rig.phase1.status = rig.phase2.status = 400
        assert (await rig.predict(120)).status_code == 400
        found = await counts_with(valkey_url, mirror_dropped_refused=1)
        assert found["mirror.intended"] == found["pair.error.00"] == 1
        assert "mirror.compared" not in found


async def test_a_mirror_under_way_when_the_gateway_ends_is_a_drop_and_its_label_is_kept(
    tmp_path: Path, valkey_url: str, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.shadow.DRAIN_S", 0.05)
    async with rollout(tmp_path, valkey_url, mode="shadow", weight=100) as rig:
        rig.phase2.hold = asyncio.Event()
        name = (await rig.predict(120)).headers["x-request-id"]
        await until(lambda: rig.phase2.seen, "the copy is with the backend")
        rig.phase2.hold = None  # so that the rig does not let the copy go
    found = await counts(valkey_url)
    assert found["mirror.intended"] == found["mirror.dropped.error"] == 1
    assert store.exists(KEYS.pending(name))


async def test_a_mirror_that_breaks_is_a_drop_and_its_label_is_kept(
    tmp_path: Path, valkey_url: str, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the test breaks this mirror")

    async with rollout(tmp_path, valkey_url, mode="shadow", weight=100) as rig:
        monkeypatch.setattr(rig.service._mirrors_upstream, "attempt", broken)
        name = (await rig.predict(120)).headers["x-request-id"]
        found = await counts_with(valkey_url, mirror_dropped_error=1, mirror_intended=1)
        assert "pair.error" not in str(found)
        await until(lambda: store.exists(KEYS.pending(name)), "the label is pending")


async def test_contexts_that_mirrors_may_hold_are_bounded_in_bytes(
    tmp_path: Path, valkey_url: str
) -> None:
    await publish(valkey_url, snapshot(mode="shadow", weight=100))
    async with gateway(tmp_path, redis_url=valkey_url, tiers=DEFAULT_TIERS, mirror_max_mb=1) as rig:
        assert (await rig.predict(400)).status_code == 200  # 1.2 MB of floats
        found = await counts_with(valkey_url, mirror_dropped_bytes=1, mirror_intended=1)
        assert found["mirror.intended"] == 1
        assert rig.phase2.seen == []


# --- labels -------------------------------------------------------------------------------------


async def test_a_label_counts_for_every_arm_that_answered(
    tmp_path: Path, valkey_url: str, store: Any
) -> None:
    async with rollout(tmp_path, valkey_url, mode="shadow", weight=100) as rig:
        rig.phase2.ids = tuple(range(200, 230))
        name = (await rig.predict(120)).headers["x-request-id"]
        await counts_with(valkey_url, mirror_compared=1, sampled=1)
        assert await label(rig, name, 104) == 202
        found = await counts_with(valkey_url, labels_incumbent=1, hit5_incumbent=1)
        assert found["pair.hit5.10"] == found["pair.hit1.00"] == 1
        assert "hit1.incumbent" not in found
        assert store.hgetall(KEYS.truths("r1", 1, "the-stage")) == {name: "104"}


@pytest.mark.parametrize("unit", ["request", "key"])
async def test_how_near_each_arm_came_to_the_truth_is_counted_when_it_comes(
    tmp_path: Path, valkey_url: str, store: Any, unit: str
) -> None:
    one, other = np.eye(2, 768, dtype=np.float32)
    async with rollout(tmp_path, valkey_url, mode="shadow", weight=100, unit=unit) as rig:
        rig.phase1.answer, rig.phase2.answer = one, np.float32(0.6) * one + np.float32(0.8) * other
        rig.phase1.vectors = {104: other}
        name = (await rig.predict(120, key="k")).headers["x-request-id"]
        await until(lambda: store.exists(KEYS.vectors(name)), "the vectors are kept")
        assert [await label(rig, name, 104) for _ in range(2)] == [202, 202]
        found = await counts_with(valkey_url, truth_difference_150=1)
        assert found["truth.incumbent.0"] == found["labels.incumbent"] == 1
        assert found.get("truth.candidate.79", 0) + found.get("truth.candidate.80", 0) == 1
        firsts = {name: by for name, by in found.items() if name.startswith("first.truth.")}
        assert sum(firsts.values()) == (3 if unit == "key" else 0)
        assert await rig.metric("gateway_truths_total", outcome="compared") == 1
        assert await rig.metric("gateway_labels_total", outcome="counted") == 1


async def test_a_truth_that_no_model_server_gives_changes_no_hit(
    tmp_path: Path, valkey_url: str, store: Any
) -> None:
    async with rollout(tmp_path, valkey_url, mode="shadow", weight=100) as rig:
        name = (await rig.predict(120)).headers["x-request-id"]
        await until(lambda: store.exists(KEYS.vectors(name)), "the vectors are kept")
        assert await label(rig, name, 104) == 202
        await rig.until_metric(1, "gateway_truths_total", outcome="unknown")
        found = await counts_with(valkey_url, labels_incumbent=1, hit5_incumbent=1)
        assert not any(counter.startswith("truth.") for counter in found)


async def test_a_repeat_is_a_no_op_and_a_contradiction_409(tmp_path: Path, valkey_url: str) -> None:
    async with rollout(tmp_path, valkey_url, weight=100) as rig:
        name = (await rig.predict(120)).headers["x-request-id"]
        await counts_with(valkey_url, assigned_candidate=1)
        assert [await label(rig, name, target) for target in (100, 100, 101)] == [202, 202, 409]
        assert (await counts(valkey_url))["labels.candidate"] == 1


async def test_a_label_that_comes_before_its_request_was_reported_waits_for_it(
    tmp_path: Path, valkey_url: str
) -> None:
    await publish(valkey_url, snapshot(mode="ab", weight=100))
    async with gateway(tmp_path, redis_url=valkey_url, tiers=DEFAULT_TIERS, flush_s=0.3) as rig:
        name = (await rig.predict(120)).headers["x-request-id"]
        assert [await label(rig, name, target) for target in (100, 100, 101)] == [202, 202, 409]
        assert await rig.metric("gateway_labels_queued") == 1
        await counts_with(valkey_url, labels_candidate=1, hit1_candidate=1)


async def test_labels_that_contradict_each_other_at_the_same_time_are_not_both_taken_in(
    tmp_path: Path, valkey_url: str
) -> None:
    await publish(valkey_url, snapshot(mode="ab", weight=100))
    async with gateway(tmp_path, redis_url=valkey_url, tiers=DEFAULT_TIERS, flush_s=0.5) as rig:
        name = (await rig.predict(120)).headers["x-request-id"]
        bodies = [orjson.dumps({"id": name, "target_id": target}) for target in range(100, 110)]
        accept = rig.service._feedback.accept
        answers = await asyncio.gather(*map(accept, bodies), return_exceptions=True)
        assert [type(answer) for answer in answers] == [type(None)] + [ContradictionError] * 9
        await counts_with(valkey_url, labels_candidate=1)


async def test_a_flood_of_labels_stays_within_the_stores_connections(
    tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rollout(tmp_path, valkey_url, weight=100) as rig:
        feedback, feed = rig.service._feedback, rig.service._feed
        assert feed is not None
        known, now, most = feed.label, 0, 0

        async def counting(name: str, target: int) -> Any:
            nonlocal now, most
            now += 1
            most = max(most, now)
            try:
                return await known(name, target)
            finally:
                now -= 1

        monkeypatch.setattr(feed, "label", counting)
        bodies = [
            orjson.dumps(
                {"id": request_id(int(1000 * time.time()), os.urandom(10)), "target_id": 1}
            )
            for _ in range(300)
        ]
        await asyncio.gather(*(feedback.accept(one) for one in bodies))
        assert 1 < most <= LANES + 1  # the queue of what the store did not take tries one more


async def test_a_label_right_after_a_slow_answer_is_taken_in(
    tmp_path: Path, valkey_url: str
) -> None:
    async with gateway(tmp_path, redis_url=valkey_url, mirror_timeout_s=1, timeout_s=30) as rig:
        slow = request_id(int(1000 * (time.time() - 29)), os.urandom(10))
        assert await label(rig, slow, 1) == 202


async def test_a_label_of_a_rollout_that_has_ended_is_still_counted(
    tmp_path: Path, valkey_url: str
) -> None:
    async with rollout(tmp_path, valkey_url, weight=100) as rig:
        old = request_id(int(1000 * (time.time() - 1800)), os.urandom(10))
        assert rig.service._feed is not None
        cell = Cell("r1", 1, "the-stage", 1, "101-200")
        pending = Pending(
            request_id=old,
            at=time.time() - 1800,
            cell=cell,
            assigned="candidate",
            top={"candidate": (1,)},
        )
        await rig.service._feed.flush(Batch("another", 1, {}, pending=(pending,)))
        await publish(valkey_url, snapshot(2))
        await applied(rig, "1.2")
        assert await label(rig, old, 1) == 202
        assert (await counts(valkey_url))["hit1.candidate"] == 1


async def test_outside_a_rollout_a_request_is_remembered_for_minutes_only(
    tmp_path: Path, valkey_url: str, store: Any
) -> None:
    async with gateway(tmp_path, redis_url=valkey_url) as rig:
        name = (await rig.predict(20)).headers["x-request-id"]
        await until(lambda: store.exists(KEYS.pending(name)), "the request is reported")
        assert 0 < store.ttl(KEYS.pending(name)) <= 600


async def test_outside_a_rollout_a_label_is_taken_in_all_the_same(
    tmp_path: Path, valkey_url: str, store: Any
) -> None:
    async with gateway(tmp_path, redis_url=valkey_url) as rig:
        name = (await rig.predict(20)).headers["x-request-id"]
        await until(lambda: store.exists(KEYS.pending(name)), "the request is reported")
        assert [await label(rig, name, target) for target in (1, 1, 2)] == [202, 202, 409]
        assert await rig.metric("gateway_labels_total", outcome="outside") == 1


async def test_unknown_young_and_expired_names_are_told_apart(
    tmp_path: Path, valkey_url: str
) -> None:
    def named(age_s: float) -> str:
        return request_id(int(1000 * (time.time() - age_s)), os.urandom(10))

    async with gateway(tmp_path, redis_url=valkey_url, label_window_s=600) as rig:
        assert await label(rig, str(uuid.uuid4()), 1) == 404
        assert await label(rig, "mine", 1) == 404
        assert await label(rig, named(60), 1) == 404
        assert await label(rig, named(601), 1) == 410
        assert await label(rig, named(0), 1) == 202
        assert await label(rig, named(-3600), 1) == 404


async def test_a_vector_is_resolved_to_its_id_or_refused(
    tmp_path: Path, valkey_url: str, store: Any
) -> None:
    async with gateway(tmp_path, redis_url=valkey_url) as rig:
        rig.phase1.bank = {7: 1007}
        name = (await rig.predict(20)).headers["x-request-id"]
        await until(lambda: store.exists(KEYS.pending(name)), "the request is reported")
        ask = rig.client.post
        known, unknown = [7.0] + [0.0] * 767, [8.0] + [0.0] * 767
        refused = await ask("/v1/feedback", json={"id": name, "target": unknown})
        assert refused.status_code == 400
        assert "no vector of the bank" in refused.json()["error"]
        assert (await ask("/v1/feedback", json={"id": name, "target": known})).status_code == 202
        assert await label(rig, name, 1007) == 202
        assert await label(rig, name, 1008) == 409


# --- the configuration --------------------------------------------------------------------------


async def applied(rig: Rig, version: str) -> None:
    limit = time.monotonic() + 10
    while (await rig.predict(1)).headers["x-turnout-version"] != version:
        assert time.monotonic() < limit, f"{version} was not applied"
        await asyncio.sleep(0.01)


async def test_a_change_arrives_with_the_push_long_before_the_poll(
    tmp_path: Path, valkey_url: str
) -> None:
    async with gateway(tmp_path, redis_url=valkey_url, poll_s=60) as rig:
        await publish(valkey_url, snapshot(1))
        await applied(rig, "1.1")


async def test_a_change_arrives_with_the_poll_when_no_push_comes(
    tmp_path: Path, valkey_url: str
) -> None:
    async with gateway(tmp_path, redis_url=valkey_url) as rig:
        await publish(valkey_url, snapshot(1), silently=True)
        await applied(rig, "1.1")
        assert await rig.metric("gateway_redis_up") == 1
        assert await rig.metric("config_age_seconds") < 2


async def test_a_store_that_went_back_is_not_followed(tmp_path: Path, valkey_url: str) -> None:
    async with gateway(tmp_path, redis_url=valkey_url) as rig:
        await publish(valkey_url, snapshot(7, mode="ab", weight=100))
        await applied(rig, "1.7")
        await publish(valkey_url, snapshot(6))
        limit = time.monotonic() + 10
        while not await rig.metric("config_refused_total", why="regression"):
            assert time.monotonic() < limit
            await asyncio.sleep(0.01)
        assert (await rig.predict(120)).headers["x-turnout-version"] == "1.7"
        await publish(valkey_url, snapshot(1, epoch=2))
        await applied(rig, "2.1")


async def test_another_configuration_under_the_applied_number_is_not_followed(
    tmp_path: Path, valkey_url: str
) -> None:
    async with rollout(tmp_path, valkey_url, weight=100) as rig:
        await publish(valkey_url, snapshot(1))
        await rig.until_metric(1, "config_refused_total", why="regression")
        assert (await rig.predict(120)).headers["x-turnout-arm"] == "phase2"


async def test_an_answer_that_a_push_overtook_is_no_regression(
    tmp_path: Path, valkey_url: str
) -> None:
    class SlowFeed(Feed):
        async def snapshot(self) -> Snapshot | None:
            found = await super().snapshot()
            asked.set()
            await go.wait()
            return found

    asked, go = asyncio.Event(), asyncio.Event()
    metrics = Metrics(CollectorRegistry())
    feed = SlowFeed(valkey_url)
    snapshots = Snapshots(
        snapshot(0, epoch=0), feed=feed, arms=ARMS, state_dir=tmp_path, metrics=metrics
    )
    for stored in (None, snapshot(1)):  # an empty store is an answer, too
        if stored:
            await publish(valkey_url, stored)
        asked.clear()
        go.clear()
        poll = asyncio.create_task(snapshots.poll())
        await asked.wait()
        pushed = snapshot(snapshots.current.version + 2)
        await snapshots.offer(pushed)
        go.set()
        await poll
        assert snapshots.current == pushed
    name, why = "config_refused_total", {"why": "regression"}
    assert metrics.registry.get_sample_value(name, why) is None
    await snapshots.poll()  # this one nothing overtook
    assert metrics.registry.get_sample_value(name, why) == 1
    await feed.close()


async def test_a_push_that_a_poll_overtook_is_no_regression(
    tmp_path: Path, valkey_url: str
) -> None:
    async with gateway(tmp_path, redis_url=valkey_url, poll_s=60) as rig:
        await publish(valkey_url, snapshot(3))
        await applied(rig, "1.3")
        await publish(valkey_url, snapshot(2))
        await publish(valkey_url, snapshot(4))
        await applied(rig, "1.4")
        assert await rig.metric("config_refused_total", why="regression") == 0


async def test_a_first_look_at_the_store_that_breaks_does_not_stop_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: Snapshots) -> None:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "the test breaks this poll")

    monkeypatch.setattr(Snapshots, "poll", broken)
    async with gateway(tmp_path) as rig:
        assert (await rig.predict(20)).status_code == 200


async def test_whatever_stands_in_the_store_a_gateway_starts(
    tmp_path: Path, valkey_url: str, store: Any
) -> None:
    store.hset(KEYS.snapshot, "not", "a string")
    async with gateway(tmp_path, redis_url=valkey_url, tiers=DEFAULT_TIERS) as rig:
        assert (await rig.predict(120)).headers["x-turnout-arm"] == "phase1"
    store.delete(KEYS.snapshot)
    store.set(KEYS.snapshot, b"\xff\xfe\x80")
    async with gateway(tmp_path, redis_url=valkey_url, tiers=DEFAULT_TIERS) as rig:
        assert (await rig.predict(120)).headers["x-turnout-arm"] == "phase1"


async def test_without_a_store_a_restarted_gateway_goes_on_as_it_was(
    tmp_path: Path, valkey_url: str
) -> None:
    async with rollout(tmp_path, valkey_url, weight=100) as rig:
        assert (await rig.predict(120)).headers["x-turnout-arm"] == "phase2"
    nowhere = f"unix://{tmp_path}/no.sock"
    async with gateway(tmp_path, redis_url=nowhere, tiers=DEFAULT_TIERS) as rig:
        response = await rig.predict(120)
        assert response.headers["x-turnout-arm"] == "phase2"
        assert response.headers["x-turnout-version"] == "1.1"
        assert await rig.metric("gateway_redis_up") == 0


async def test_without_a_store_from_the_first_start_no_candidate_gets_anything(
    tmp_path: Path,
) -> None:
    nowhere = f"unix://{tmp_path}/no.sock"
    async with gateway(tmp_path, redis_url=nowhere, tiers=DEFAULT_TIERS) as rig:
        assert (await rig.client.get("/v2/health/ready")).status_code == 200
        assert (await rig.predict(120)).headers["x-turnout-arm"] == "phase1"


async def test_a_gateway_that_starts_without_its_store_says_so_once(tmp_path: Path) -> None:
    nowhere = f"unix://{tmp_path}/no.sock"
    with structlog.testing.capture_logs() as logs:
        async with gateway(tmp_path, redis_url=nowhere) as rig:
            await rig.predict()
            snapshots = rig.service._snapshots
            await snapshots.poll()
    events = [line["event"] for line in logs]
    assert events.count("store not reached: the configuration at hand is used") == 1


async def test_the_hold_file_stops_candidate_traffic_within_a_second(
    tmp_path: Path, valkey_url: str, store: Any
) -> None:
    async with rollout(tmp_path, valkey_url, weight=100, shadow_sample=100) as rig:
        (tmp_path / HOLD_FILE).touch()
        await asyncio.sleep(1)  # the promise itself: within a second
        rig.phase2.seen.clear()
        response = await rig.predict(120)
        assert (response.headers["x-turnout-arm"], response.headers["x-turnout-reason"]) == (
            "phase1",
            "held",
        )
        assert rig.phase2.seen == []

        def heartbeats() -> list[Heartbeat]:
            return [Heartbeat.model_validate_json(one) for one in store.hvals(KEYS.gateways)]

        await until(lambda: any(beat.held for beat in heartbeats()), "a heartbeat tells")
        assert heartbeats()[0].version == 1
        (tmp_path / HOLD_FILE).unlink()
        await until(lambda: not heartbeats()[0].held, "the heartbeat tells again")
        assert (await rig.predict(120)).headers["x-turnout-arm"] == "phase2"


async def test_a_frozen_store_stops_no_prediction_and_loses_no_count(
    tmp_path: Path, valkey_url: str, store: Any
) -> None:
    async with rollout(tmp_path, valkey_url, weight=100) as rig:
        with frozen(store):
            names = []
            for _ in range(20):
                began = time.monotonic()
                response = await rig.predict(120)
                names.append(response.headers["x-request-id"])
                assert response.headers["x-turnout-arm"] == "phase2"
                assert time.monotonic() - began < 0.4  # nothing waited for the store's 0.5 s
            limit = time.monotonic() + 10
            while await rig.metric("gateway_redis_up") or not await rig.metric(
                "gateway_observation_batches_total", outcome="failed"
            ):
                assert time.monotonic() < limit
                await asyncio.sleep(0.02)
            assert [await label(rig, name, 100) for name in names[:5]] == [202] * 5
            assert await label(rig, names[0], 101) == 409
        found = await counts_with(valkey_url, assigned_candidate=20, labels_candidate=5)
        assert (found["assigned.candidate"], found["hit1.candidate"]) == (20, 5)
        assert await rig.metric("gateway_observations_dropped") == 0


async def test_a_gateway_that_ends_sends_its_last_batch(tmp_path: Path, valkey_url: str) -> None:
    await publish(valkey_url, snapshot(mode="ab", weight=100))
    async with gateway(tmp_path, redis_url=valkey_url, tiers=DEFAULT_TIERS, flush_s=600) as rig:
        for _ in range(3):
            assert (await rig.client.post("/v1/predict", json=body(150))).status_code == 200
        assert await counts(valkey_url) == {}
    assert (await counts(valkey_url))["assigned.candidate"] == 3


# --- which ids the bank has ---------------------------------------------------------------------


async def test_feedback_about_an_id_that_the_bank_lacks_is_refused_without_asking_a_backend(
    tmp_path: Path, valkey_url: str
) -> None:
    async with rollout(tmp_path, valkey_url, weight=100) as rig:
        name = (await rig.predict(120)).headers["x-request-id"]
        rig.phase1.listed = (100, 101, 105)
        await rig.service._bank_ids.refresh()
        rig.phase1.hold = rig.phase2.hold = asyncio.Event()  # no backend answers a prediction now
        for lacking in (99, 102, -1, 2**62):
            assert await label(rig, name, lacking) == 400
        assert await label(rig, name, 105) == 202
        assert await label(rig, name, 100) == 409
        found = await counts_with(valkey_url, labels_candidate=1)
        assert found["labels.candidate"] == 1


async def test_another_bank_is_noticed_and_what_is_not_known_is_not_refused(
    tmp_path: Path, valkey_url: str
) -> None:
    async with rollout(tmp_path, valkey_url, weight=0) as rig:
        names = [(await rig.predict(20)).headers["x-request-id"] for _ in range(3)]
        ids = rig.service._bank_ids
        assert await label(rig, names[0], 5) == 202  # this backend lists no ids
        rig.phase1.listed = (7,)
        await ids.refresh()
        assert await label(rig, names[1], 5) == 400
        rig.phase1.listed, rig.phase1.bank_name = (5,), "another"
        await ids.refresh()
        assert await label(rig, names[1], 5) == 202
        rig.phase1.listed, rig.phase1.bank_name = None, "a third"
        await ids.refresh()
        assert await label(rig, names[2], 123) == 202
