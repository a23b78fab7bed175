"""A coroutine that begins at once keeps the promises of a task."""

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any

import pytest

from backends.serving.eager import Eager

Ended = tuple[Any, BaseException | None]
WORD = contextvars.ContextVar("word", default="none")


def begin(work: Coroutine[Any, Any, Any]) -> "tuple[Eager[Any], asyncio.Future[Ended]]":
    """Begin outside any task, where connections do."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Ended] = loop.create_future()
    eager = Eager(work, lambda result, error: ended.set_result((result, error)), loop)
    loop.call_soon(eager.begin)
    return eager, ended


async def ended(work: Coroutine[Any, Any, Any]) -> Ended:
    return await begin(work)[1]


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_it_runs_to_its_first_wait_before_begin_returns() -> None:
    loop = asyncio.get_running_loop()
    seen: list[str] = []

    async def work() -> None:
        seen.append("begun")
        await loop.create_future()

    def beginning() -> None:
        eager = Eager(work(), lambda *_: seen.append("ended"), loop)
        eager.begin()
        seen.append("returned")
        eager.cancel()

    loop.call_soon(beginning)
    await turns(4)
    assert seen == ["begun", "returned", "ended"]


async def test_what_it_returns_and_what_it_raises_are_told_once_it_has_ended() -> None:
    async def good() -> int:
        await asyncio.sleep(0)
        return 7

    async def bad() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    assert await ended(good()) == (7, None)
    result, error = await ended(bad())
    assert result is None
    assert isinstance(error, ValueError)


async def test_it_gets_the_result_and_the_error_of_what_it_waits_for() -> None:
    loop = asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()
    seen: list[object] = []

    async def work() -> None:
        seen.append(await first)
        with pytest.raises(KeyError):
            await second

    eager, end = begin(work())
    await turns(2)
    first.set_result("one")
    await turns(2)
    second.set_exception(KeyError("two"))
    assert await end == (None, None)
    assert seen == ["one"]
    assert eager.done()


async def test_cancelling_it_cancels_the_task_that_it_waits_for() -> None:
    inner = asyncio.create_task(asyncio.sleep(3600))

    async def work() -> None:
        await inner

    eager, end = begin(work())
    await turns(2)
    assert eager.cancel()
    _, error = await end
    assert isinstance(error, asyncio.CancelledError)
    assert inner.cancelled()
    assert not eager.cancel()


async def test_a_cancellation_that_is_caught_is_over_when_it_is_taken_back() -> None:
    async def work() -> int:
        task = asyncio.current_task()
        assert task is not None
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return task.uncancel()
        return -1

    eager, end = begin(work())
    await turns(2)
    eager.cancel()
    assert eager.cancelling() == 1
    assert await end == (0, None)


async def test_a_cancellation_while_it_waits_for_nothing_comes_at_its_next_step() -> None:
    async def work() -> None:
        await turns(1000)

    eager, end = begin(work())
    await turns(2)
    eager.cancel()
    assert isinstance((await end)[1], asyncio.CancelledError)


async def test_a_timeout_of_asyncio_ends_what_is_done_in_it() -> None:
    async def work() -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.sleep(3600)
        except TimeoutError:
            return "late"
        return "in time"

    assert await ended(work()) == ("late", None)


async def test_inside_it_is_the_current_task_and_outside_nobody_is() -> None:
    seen: list[object] = []

    async def work() -> None:
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())

    eager, end = begin(work())
    asyncio.get_running_loop().call_soon(lambda: seen.append(asyncio.current_task()))
    await end
    assert seen == [eager, None, eager]


async def test_what_it_sets_in_its_context_stays_there() -> None:
    async def work() -> str:
        WORD.set("own")
        await asyncio.sleep(0)
        return WORD.get()

    assert await ended(work()) == ("own", None)
    assert WORD.get() == "none"
