"""The double that spoils a candidate's predictions, in front of a model server on a real socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx2
import numpy as np
import pytest
from gateway_rig import StubBackend, context, running

from backends.answer import read_answer
from backends.protocol import (
    HEADER_LENGTH,
    Prediction,
    Request,
    write_request,
)
from deploy import broken
from deploy.broken import Broken, Fault, Settings, fails, reverse_features


@contextlib.asynccontextmanager
async def double(fault: Fault) -> AsyncIterator[httpx2.AsyncClient]:
    async with running(StubBackend("phase2", 500).app) as url:
        settings = Settings(url=url, fault=fault, port=0)
        async with (
            running(Broken(settings).app) as spoiled,
            httpx2.AsyncClient(base_url=spoiled) as client,
        ):
            yield client


async def ask(client: httpx2.AsyncClient, name: str, length: int = 7) -> httpx2.Response:
    message = write_request(Request(context=context(length), top_k=10))
    headers = {**message.headers, "x-request-id": name}
    return await client.post("/v2/models/lvm/infer", content=message.body, headers=headers)


def predicted(answer: httpx2.Response) -> Prediction:
    assert answer.status_code == 200, answer.text
    return read_answer(answer.content, answer.headers[HEADER_LENGTH])


async def test_it_fails_the_same_three_in_ten_requests_every_time() -> None:
    names = [f"request-{number}" for number in range(200)]
    assert 0.2 < sum(map(fails, names)) / len(names) < 0.4
    async with double(Fault.ERRORS) as client:
        for name in names[:20]:
            assert (await ask(client, name)).status_code == (500 if fails(name) else 200)


async def test_wrong_answers_are_answers_to_reversed_vectors() -> None:
    async with double(Fault.WRONG) as client:
        prediction = predicted(await ask(client, "any"))
    # The stub answers with the last vector that it was sent.
    np.testing.assert_array_equal(prediction.vector, context(7)[-1][::-1])


def test_the_json_in_front_of_the_vectors_stays_as_it_is() -> None:
    message = write_request(Request(context=context(3), top_k=10))
    head = int(message.headers[HEADER_LENGTH])
    spoiled = reverse_features(message.body, head)
    assert spoiled[:head] == message.body[:head]
    assert spoiled != message.body
    assert reverse_features(spoiled, head) == message.body


async def test_a_slow_answer_is_a_right_one_that_comes_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broken, "DELAY_S", 0.2)
    loop = asyncio.get_running_loop()
    async with double(Fault.SLOW) as client:
        began = loop.time()
        prediction = predicted(await ask(client, "any"))
        assert loop.time() - began >= 0.2
    np.testing.assert_array_equal(prediction.vector, context(7)[-1])


@pytest.mark.parametrize("fault", list(Fault))
async def test_nothing_but_predictions_is_spoiled(fault: Fault) -> None:
    async with double(fault) as client:
        assert (await client.get("/v2/health/ready")).json() == {"ready": True}
        facts = (await client.get("/v2/models/lvm")).json()["parameters"]
    assert facts == {"checkpoint": "phase2-checkpoint", "bank": "a-bank"}


async def test_a_server_behind_it_that_is_gone_is_a_502() -> None:
    settings = Settings(url="http://127.0.0.1:1", fault=Fault.ERRORS, port=0)
    async with running(Broken(settings).app) as url, httpx2.AsyncClient(base_url=url) as client:
        assert (await client.get("/v2/health/ready")).status_code == 502
