"""Many deadlines on one event loop, by one timer.

asyncio's timeout starts a timer of the loop for each deadline, and stops nearly all of them again;
that costs 10 us of CPU a request. Here a deadline is an entry of a heap, the timer stands at the
earliest, and an entry whose time never came is thrown away later, with others. None is early.
"""

import asyncio
import math
from heapq import heapify, heappop, heappush
from types import TracebackType
from typing import Any, Final, Self

KEPT: Final = 256
"""Entries that are over and may stay in the heap, whatever the number of the others."""


class Deadlines:
    """The heap and its timer. Made anywhere, used on one event loop."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Limit]] = []
        self._serial = 0
        self._over = 0
        self._timer: asyncio.TimerHandle | None = None
        self._armed = math.inf

    def __repr__(self) -> str:
        return f"<Deadlines, {len(self._heap) - self._over} of {len(self._heap)} to come>"

    def limit(self, seconds: float) -> "Limit":
        """Make a limit of so many seconds from now."""
        return Limit(self, asyncio.get_running_loop(), seconds)

    def add(self, limit: "Limit", at: float) -> int:
        """Tell `limit` when it is `at`, in the loop's seconds; give the entry's number."""
        self._serial += 1
        heappush(self._heap, (at, self._serial, limit))
        if at < self._armed:
            self._arm(limit.loop, at)
        return self._serial

    def drop(self) -> None:
        """Count an entry that is over before its time."""
        self._over += 1
        if self._over > KEPT and 2 * self._over > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].entry == entry[1]]
            heapify(self._heap)
            self._over = 0

    def _arm(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = at
        self._timer = loop.call_at(at, self._strike, loop)

    def _strike(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, self._armed = None, math.inf
        now = loop.time()
        while self._heap:
            at, serial, limit = self._heap[0]
            if limit.entry != serial:
                self._over -= 1
            elif at > now:
                self._arm(loop, at)
                return
            else:
                limit.entry = 0
                limit.strike()
            heappop(self._heap)


class Limit:
    """A timeout over all tries of a request, that may be set anew while it runs.

    As a context it bounds what is done in it, as `asyncio.timeout` does: it cancels the task, and
    raises TimeoutError. It may be entered again, for the next try.
    """

    __slots__ = (
        "_cancelling",
        "_ends",
        "_struck",
        "_worker",
        "deadlines",
        "entry",
        "loop",
        "seconds",
    )

    def __init__(
        self, deadlines: Deadlines, loop: asyncio.AbstractEventLoop, seconds: float
    ) -> None:
        self.deadlines = deadlines
        self.loop = loop
        self.seconds = seconds
        self.entry = 0
        """The number of the heap's entry that counts; 0 for none."""
        self._ends = loop.time() + seconds
        self._worker: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._struck = False

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._ends - self.loop.time()

    def __enter__(self) -> Self:
        worker = asyncio.current_task(self.loop)
        if worker is None:
            raise RuntimeError("a limit bounds what a task does")
        self._worker, self._cancelling, self._struck = worker, worker.cancelling(), False
        self._await()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        worker, self._worker = self._worker, None
        self._drop()
        if not self._struck or worker is None:
            return
        ours = worker.uncancel() <= self._cancelling
        if ours and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def reset(self, seconds: float) -> None:
        """Give it `seconds` from now on, unless it is over."""
        self.seconds = seconds
        self._ends = self.loop.time() + seconds
        if self._worker is not None and not self._struck:
            self._drop()
            self._await()

    def strike(self) -> None:
        """Its time has come: cancel what is done in it."""
        if self._worker is not None:
            self._struck = True
            self._worker.cancel()

    def _await(self) -> None:
        if self._ends < math.inf:
            self.entry = self.deadlines.add(self, self._ends)

    def _drop(self) -> None:
        if self.entry:
            self.entry = 0
            self.deadlines.drop()
