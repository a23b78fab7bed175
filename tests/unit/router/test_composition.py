"""How the gateway's parts are put together, and taken apart."""

import asyncio

from router.__main__ import _keep_running, _stop


async def test_a_task_that_swallows_its_cancellation_is_ended_all_the_same() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 3:
                    raise

    tasks = [asyncio.create_task(stubborn()), asyncio.create_task(asyncio.sleep(3600))]
    await asyncio.sleep(0)
    await _stop(tasks)
    assert swallowed == 3
    assert all(task.cancelled() for task in tasks)


async def test_a_background_task_that_fails_is_logged_and_started_again() -> None:
    runs: list[int] = []
    again = asyncio.Event()

    async def failing() -> None:
        runs.append(1)
        if len(runs) == 2:
            again.set()
        raise RuntimeError("the test breaks this task")

    task = asyncio.create_task(_keep_running(failing))
    await asyncio.wait_for(again.wait(), 5)
    await _stop([task])
    assert len(runs) == 2
