"""What a gateway does when replicas fail, when too much comes, and when a model changes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import structlog
from gateway_rig import (
    Rig,
    StubBackend,
    context,
    counts_with,
    gateway,
    publish,
    running,
    sent,
    snapshot,
    until,
)
from redis import Redis

from backends.protocol import Request, write_request
from rollout.keys import Keys
from rollout.snapshot import DEFAULT_TIERS, Heartbeat, Tier
from router.body import Body
from router.breaker import Rules
from router.errors import ClientLeftError
from router.fleet import ARRIVING_SHARE, Arm

IN_A_ROW = Rules().in_a_row
ONE = (Tier(arm="phase1", max_length=100),)


@contextlib.asynccontextmanager
async def replicas(
    folder: Path, number: int, **settings: Any
) -> AsyncIterator[tuple[Rig, list[StubBackend]]]:
    """Run a gateway with one arm of several replicas."""
    stubs = [StubBackend("phase1", 100) for _ in range(number)]
    async with contextlib.AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(running(stub.app)) for stub in stubs]
        wanted = {"tiers": ONE, "backends": {"phase1": urls}, **settings}
        yield await stack.enter_async_context(gateway(folder, **wanted)), stubs


@contextlib.asynccontextmanager
async def all_to_the_candidate(folder: Path, url: str) -> AsyncIterator[Rig]:
    await publish(url, snapshot(mode="ab", weight=100))
    async with gateway(folder, redis_url=url, tiers=DEFAULT_TIERS) as rig:
        yield rig


async def asked(stubs: list[StubBackend]) -> list[int]:
    return [len(stub.seen) for stub in stubs]


# --- retries ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [{"cut": True}, {"status": 502}, {"status": 503}])
async def test_what_one_replica_fails_to_answer_another_answers_and_the_client_sees_nothing(
    tmp_path: Path, fault: dict[str, Any]
) -> None:
    async with replicas(tmp_path, 2) as (rig, stubs):
        for name, value in fault.items():
            setattr(stubs[0], name, value)
        for _ in range(4):
            assert (await rig.predict()).status_code == 200
        assert await asked(stubs) == [4, 4]
        assert await rig.metric("gateway_retries_total", arm="phase1", outcome="mended") == 4
        kind = "connection" if "cut" in fault else "status"
        tries = "gateway_upstream_tries_total"
        assert await rig.metric(tries, arm="phase1", replica="0", outcome=kind) == 4
        assert await rig.metric(tries, arm="phase1", replica="1", outcome="ok") == 4
        attempts = "gateway_upstream_seconds_count"
        assert await rig.metric(attempts, arm="phase1", outcome="ok") == 4, "no error of the arm"


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 404}, {"junk": b"{}"}])
async def test_what_would_fail_again_is_not_tried_again(
    tmp_path: Path, fault: dict[str, Any]
) -> None:
    async with replicas(tmp_path, 2) as (rig, stubs):
        for stub in stubs:
            for name, value in fault.items():
                setattr(stub, name, value)
        assert (await rig.predict()).status_code == 502
        assert sum(await asked(stubs)) == 1


async def test_a_body_that_is_still_arriving_is_sent_again_whole(tmp_path: Path) -> None:
    async with replicas(tmp_path, 2) as (rig, stubs):
        stubs[0].cut = True
        message = write_request(Request(context(100)))

        async def slowly() -> AsyncIterator[bytes]:
            for at in range(0, len(message.body), 50_000):
                yield message.body[at : at + 50_000]
                await asyncio.sleep(0.01)

        headers = {**message.headers, "content-length": str(len(message.body))}
        response = await rig.client.post(
            "/v2/models/lvm/infer", content=slowly(), headers=headers, timeout=10
        )
        assert response.status_code == 200
        assert await asked(stubs) == [1, 1]
        told = int(response.headers["inference-header-content-length"])
        vector = np.frombuffer(response.content[told:], "<f4", 768)
        assert np.array_equal(vector, context(100)[-1]), "the stub answers with the last vector"


async def test_when_nobody_is_well_nothing_is_tried_again(tmp_path: Path) -> None:
    async with replicas(tmp_path, 2) as (rig, stubs):
        for stub in stubs:
            stub.status = 503
        answers = [(await rig.predict()).status_code for _ in range(40)]
        assert set(answers) == {502}
        assert sum(await asked(stubs)) <= 40 + 2 * IN_A_ROW
        before = sum(await asked(stubs))
        assert (await rig.predict()).status_code == 502
        assert sum(await asked(stubs)) == before + 1
        assert await rig.metric("gateway_retries_total", arm="phase1", outcome="nobody") > 0


async def test_no_retry_outlives_the_deadline_and_each_is_told_what_is_left(
    tmp_path: Path,
) -> None:
    async with replicas(tmp_path, 2) as (rig, stubs):
        stubs[0].status, stubs[1].hold = 503, asyncio.Event()
        response = await rig.predict(headers={"x-request-timeout-ms": "400"})
        assert response.status_code == 504
        first, second = (int(stub.seen[0]["x-request-timeout-ms"]) for stub in stubs)
        assert 400 >= first >= second > 0


# --- ejection -----------------------------------------------------------------------------------


async def test_a_replica_that_fails_is_ejected_while_others_are_well_and_said_once(
    tmp_path: Path,
) -> None:
    with structlog.testing.capture_logs() as log:
        async with replicas(tmp_path, 2) as (rig, stubs):
            stubs[0].status = 500
            answers = [(await rig.predict()).status_code for _ in range(60)]
            assert answers.count(502) == IN_A_ROW
            assert (await asked(stubs))[0] == IN_A_ROW
            facts = {"arm": "phase1", "replica": "0"}
            assert await rig.metric("gateway_replica_ejections_total", **facts) == 1
            assert await rig.metric("gateway_replica_circuit", **facts, state="open") == 1
    (line,) = [line for line in log if line["event"] == "replica ejected"]
    assert (line["arm"], line["replica"], line["for_s"]) == ("phase1", "0", 5.0)


async def test_the_last_replica_of_an_arm_that_nobody_stands_in_for_is_never_ejected(
    tmp_path: Path,
) -> None:
    async with replicas(tmp_path, 1) as (rig, (stub,)):
        stub.status = 500
        for _ in range(3 * IN_A_ROW):
            assert (await rig.predict()).status_code == 502
        stub.status = 200
        assert (await rig.predict()).status_code == 200


async def test_a_candidate_that_is_ejected_fails_at_once_as_its_own_error_and_the_incumbent_answers(
    tmp_path: Path, valkey_url: str
) -> None:
    async with all_to_the_candidate(tmp_path, valkey_url) as rig:
        rig.phase2.status = 500
        for _ in range(20):
            response = await rig.predict(120)
            assert (response.status_code, response.headers["x-turnout-arm"]) == (200, "phase1")
            assert response.headers["x-turnout-assigned"] == "phase2"
        assert len(rig.phase2.seen) == IN_A_ROW
        found = await counts_with(valkey_url, assigned_candidate=20, fallback_candidate=20)
        assert found["error.candidate.status"] == IN_A_ROW
        assert found["error.candidate.connection"] == 20 - IN_A_ROW


async def test_a_client_without_patience_ejects_nobody(tmp_path: Path) -> None:
    async with replicas(tmp_path, 2) as (rig, stubs):
        stubs[0].hold = stubs[1].hold = asyncio.Event()
        for _ in range(4 * IN_A_ROW):
            response = await rig.predict(headers={"x-request-timeout-ms": "5"})
            assert response.status_code == 504
        for number in ("0", "1"):
            name = "gateway_replica_ejections_total"
            assert await rig.metric(name, arm="phase1", replica=number) == 0
        stubs[0].hold.set()


async def test_a_gateway_is_ready_when_one_replica_of_each_arm_is(tmp_path: Path) -> None:
    async with replicas(tmp_path, 2) as (rig, stubs):
        stubs[0].ready = False
        assert (await rig.client.get("/v2/health/ready")).status_code == 200
        stubs[1].ready = False
        assert (await rig.client.get("/v2/health/ready")).status_code == 503


# --- too much to do -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "passed_on"),
    [("7", "7"), ("100000", "60"), ("Wed, 21 Oct 2026 07:28:00 GMT", "1"), ("-1", "1")],
)
async def test_a_backend_with_too_much_to_do_is_passed_on_and_not_ejected(
    tmp_path: Path, said: str, passed_on: str
) -> None:
    async with replicas(tmp_path, 1) as (rig, (stub,)):
        stub.status, stub.retry_after = 503, said
        for _ in range(2 * IN_A_ROW):
            response = await rig.predict()
            assert (response.status_code, response.headers["retry-after"]) == (503, passed_on)
        assert len(stub.seen) == 2 * IN_A_ROW, "and not asked again on the same replica"
        name = "gateway_replica_ejections_total"
        assert await rig.metric(name, arm="phase1", replica="0") == 0


async def test_more_than_may_be_under_way_is_turned_away_unread_and_the_rest_is_answered(
    tmp_path: Path,
) -> None:
    async with replicas(tmp_path, 1, max_in_flight=2) as (rig, (stub,)):
        stub.hold = asyncio.Event()
        held = [asyncio.create_task(rig.predict()) for _ in range(2)]
        await until(lambda: len(stub.seen) == 2, "two are under way")
        assert await rig.metric("gateway_requests_in_flight") == 2
        for path in ("/v1/predict", "/v2/models/lvm/infer"):
            with structlog.testing.capture_logs() as log:
                response = await rig.client.post(path, content=b"not even JSON")
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            assert response.json() == {"error": "too many requests are under way: try again"}
            assert [line["request_id"] for line in log] == [response.headers["x-request-id"]]
        stub.hold.set()
        assert [(await task).status_code for task in held] == [200, 200]
        assert (await rig.predict()).status_code == 200
        assert await rig.metric("gateway_shed_total") == 2
        assert await rig.metric("gateway_requests_in_flight") == 0


async def test_clients_that_send_slowly_hold_no_place(tmp_path: Path) -> None:
    async with replicas(tmp_path, 1, max_in_flight=1) as (rig, (stub,)):
        message = write_request(Request(context(20)))
        lines = [f"{name}: {value}\r\n" for name, value in message.headers.items()]
        head = (
            "POST /v2/models/lvm/infer HTTP/1.1\r\nhost: a\r\n"
            f"content-length: {len(message.body)}\r\nexpect: 100-continue\r\n"
            f"{''.join(lines)}\r\n"
        )
        url = rig.client.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(head.encode())
        assert b" 100 " in await reader.readline(), "it is let in while there is a place"
        writer.write(message.body[:-1])
        await writer.drain()
        assert (await rig.predict()).status_code == 200
        writer.write(message.body[-1:])
        await until(lambda: len(stub.seen) == 2, "the slow one is answered too")
        writer.close()


async def test_a_request_whose_client_left_gives_its_place_back(tmp_path: Path) -> None:
    async with replicas(tmp_path, 1, max_in_flight=1) as (rig, (stub,)):
        stub.hold = asyncio.Event()
        async with sent(rig, {"context": context(2).tolist()}):
            await until(lambda: stub.seen, "it is under way")
        await until(lambda: stub.left, "the backend was told")
        stub.hold.set()
        await until(lambda: stub.left == 1, "it is gone")
        assert (await rig.predict()).status_code == 200


async def test_few_bodies_that_still_arrive_take_a_connection_and_the_others_wait(
    tmp_path: Path,
) -> None:
    del tmp_path
    arm = Arm("a", ["http://h:1"], connections=8, ca_file=None, shadow=False, metrics=None)
    few = [Body(4) for _ in range(int(8 * ARRIVING_SHARE))]
    for body in few:
        await arm.admit(body)
    late, gone = Body(4), Body(4)
    waiting = [asyncio.create_task(arm.admit(body)) for body in (late, gone)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    late.feed(b"1234")
    gone.cut()
    await waiting[0]
    with pytest.raises(ClientLeftError):
        await waiting[1]
    few[0].feed(b"1234")
    await arm.admit(Body(4))


# --- who answers --------------------------------------------------------------------------------


async def test_a_heartbeat_says_which_model_each_arm_computes_with(
    tmp_path: Path, valkey_url: str
) -> None:
    async with replicas(tmp_path, 2, redis_url=valkey_url) as (rig, stubs):
        with Redis.from_url(valkey_url) as store:

            def identity() -> str | None:
                beats = [Heartbeat.model_validate(orjson.loads(text)) for text in store.hvals(KEY)]
                return beats[0].identities.get("phase1") if beats else None

            await until(lambda: identity() == "phase1-checkpoint/a-bank", "the first word")
            stubs[0].arm = stubs[1].arm = "another"
            for _ in range(2):
                assert (await rig.predict()).status_code == 200
            one, other = "another-checkpoint/a-bank", "phase1-checkpoint/a-bank"
            await until(lambda: identity() in {one, f"{one} and {other}"}, "a new model")
            stubs[0].hold = stubs[1].hold = asyncio.Event()
            both = [asyncio.create_task(rig.predict()) for _ in range(2)]
            await until(lambda: sum(len(stub.seen) for stub in stubs) == 4, "both are asked")
            stubs[0].hold.set()
            await asyncio.gather(*both)
            await until(lambda: identity() == one, "it is everywhere")


KEY = Keys().gateways
