"""One body, held once, read by many."""

import asyncio

import numpy as np
import pytest

from backends.protocol import Terms
from router.body import Body, Question
from router.errors import ClientLeftError


async def everything(body: Body) -> bytes:
    return b"".join([piece async for piece in body.read()])


async def test_every_reader_gets_all_of_it_whenever_it_begins() -> None:
    body = Body(6)
    early = asyncio.create_task(everything(body))
    await asyncio.sleep(0)
    for piece in (b"ab", b"cd"):
        body.feed(piece)
        await asyncio.sleep(0)
    late = asyncio.create_task(everything(body))
    await asyncio.sleep(0)
    before = body.whole
    body.feed(b"ef")
    assert (before, body.whole) == (False, True)
    assert await early == await late == await everything(body) == b"abcdef"


async def test_a_reader_that_is_cancelled_disturbs_no_other() -> None:
    body = Body(2)
    first, second = (asyncio.create_task(everything(body)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    body.feed(b"ab")
    assert await second == b"ab"
    assert first.cancelled()


async def test_who_waits_for_what_never_comes_is_told() -> None:
    body = Body(2)
    body.feed(b"a")
    reader = asyncio.create_task(everything(body))
    await asyncio.sleep(0)
    body.cut()
    with pytest.raises(ClientLeftError):
        await reader


def test_a_call_back_comes_once_when_the_body_is_whole() -> None:
    body, calls = Body(2), []
    body.when_whole(lambda: calls.append(1))
    body.feed(b"a")
    assert calls == []
    body.feed(b"b")
    assert calls == [1]


def test_an_array_becomes_a_body_without_a_copy() -> None:
    floats = np.ones((2, 768), np.float32)
    (piece,) = Body.of(floats).pieces()
    floats[0, 0] = 7
    assert np.frombuffer(piece, np.float32)[0] == 7


def test_backends_are_told_neither_the_clients_id_nor_its_key() -> None:
    head = Question(Terms(1, id="mine", key="secret", top_k=2), Body(3072)).head
    assert b"mine" not in head
    assert b"secret" not in head
    assert b'"top_k":10' in head
