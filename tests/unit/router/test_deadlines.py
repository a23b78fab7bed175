"""Many deadlines by one timer: none is missed, none is early, and none is kept for long."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.deadlines import KEPT, Deadlines, Limit


class Handle:
    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at, self.call, self.cancelled = at, call, False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """A loop's clock and timers, and nothing else of it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Handle] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., None], *args: object) -> Handle:
        self.timers.append(Handle(when, lambda: callback(*args)))
        return self.timers[-1]

    def advance(self, to: float) -> None:
        """Let time pass, and every timer go off when it is due."""
        while due := [one for one in self.timers if not one.cancelled and one.at <= to]:
            first = min(due, key=lambda one: one.at)
            self.timers.remove(first)
            self.now = max(self.now, first.at)
            first.call()
        self.now = to


class Watched(Limit):
    """Notes when its time came."""

    __slots__ = ("struck_at",)

    def __init__(self, deadlines: Deadlines, loop: Any, seconds: float) -> None:
        super().__init__(deadlines, loop, seconds)
        self.struck_at: float | None = None
        self.entry = deadlines.add(self, loop.time() + seconds)

    def strike(self) -> None:
        self.struck_at = self.loop.time()

    def end(self) -> None:
        if self.entry:
            self.entry = 0
            self.deadlines.drop()


ADDED = st.tuples(st.integers(0, 50), st.integers(0, 50), st.booleans())
"""When it begins, how long it is, and whether it is over before its time."""


@given(st.lists(ADDED, max_size=40))
def test_each_deadline_comes_at_its_time_unless_it_was_over_before(
    added: list[tuple[int, int, bool]],
) -> None:
    loop, deadlines = Loop(), Deadlines()
    limits: list[tuple[Watched, int, bool]] = []
    for begins, seconds, ended in sorted(added):
        loop.advance(begins)
        limits.append((Watched(deadlines, loop, seconds), begins + seconds, ended and seconds > 0))
        if limits[-1][2]:
            limits[-1][0].end()
        assert sum(not timer.cancelled for timer in loop.timers) <= 1
    loop.advance(200)
    assert [limit.struck_at for limit, _, _ in limits] == [
        None if ended else at for _, at, ended in limits
    ]
    assert repr(deadlines) == "<Deadlines, 0 of 0 to come>"


def test_deadlines_that_never_came_are_not_kept() -> None:
    loop, deadlines = Loop(), Deadlines()
    living = [Watched(deadlines, loop, 30) for _ in range(100)]
    for _ in range(20_000):
        Watched(deadlines, loop, 30).end()
    kept = int(repr(deadlines).split(" of ")[1].split()[0])
    assert kept <= KEPT + 2 * len(living) + 2
    loop.advance(30)
    assert all(limit.struck_at == 30 for limit in living)


async def test_a_limit_ends_what_takes_too_long_as_a_timeout() -> None:
    with pytest.raises(TimeoutError), Deadlines().limit(0):
        await asyncio.sleep(3600)


async def test_a_limit_may_be_entered_again_for_the_next_try() -> None:
    limit = Deadlines().limit(math.inf)
    for _ in range(2):
        with limit:
            await asyncio.sleep(0)
    limit.reset(0)
    with pytest.raises(TimeoutError), limit:
        await asyncio.sleep(3600)


async def test_a_limit_that_is_set_anew_counts_from_then_on() -> None:
    limit = Deadlines().limit(0)
    with limit:
        limit.reset(math.inf)
        for _ in range(5):
            await asyncio.sleep(0)
    assert limit.left == math.inf


async def test_a_cancellation_from_elsewhere_is_no_timeout() -> None:
    async def work() -> None:
        with Deadlines().limit(3600):
            await asyncio.sleep(3600)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_passes_a_limit_as_it_is() -> None:
    with pytest.raises(KeyError), Deadlines().limit(3600):
        raise KeyError("x")
