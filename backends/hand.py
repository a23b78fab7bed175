"""One thread that does one thing after another for an event loop.

A ThreadPoolExecutor does the same through a future of its own, a lock and a condition each time,
and one more turn of the loop: here the loop's callback is called with what came of it.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
Work = Callable[[], Any]
Done = Callable[[Any, BaseException | None], None]


class Hand:
    """Does what it is given, in turn. Belongs to one event loop; ends with `stop`."""

    def __init__(self, name: str) -> None:
        self._given: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, Work, Done] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def do(self, work: Work, done: Done) -> None:
        """Have `work` done; `done` gets what it returned, or raised, on the running loop."""
        if self._thread.ident is None:
            self._thread.start()
        self._given.put((asyncio.get_running_loop(), work, done))

    async def wait_for(self, work: Callable[[], T]) -> T:
        """Have `work` done and wait for what it returns. Raises what it raises."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(result: Any, error: BaseException | None) -> None:
            if future.done():  # nobody waits any longer
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self.do(work, done)
        return await future

    async def stop(self) -> None:
        """End the thread when it has done what it was given."""
        self._given.put(None)
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while (given := self._given.get()) is not None:
            loop, work, done = given
            result, error = None, None
            try:
                result = work()
            except BaseException as raised:  # noqa: BLE001 - it is the caller's, not the thread's
                error = raised
            if loop.is_closed():
                return
            loop.call_soon_threadsafe(done, result, error)
            del given, work, done, result, error  # not held while it waits
