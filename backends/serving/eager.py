"""A coroutine that begins at once, and goes on when what it waits for is there.

A task begins a turn of the loop later, and until Python 3.14 every task enters and leaves a weak
set that is written in Python: 10 us of CPU for each. `Eager` is a task of our own, by the rules
that asyncio has for them ("Extending": Task lifetime support): `asyncio.current_task` names it
inside, so that `asyncio.timeout` and cancellation work as they do in a task. Nobody can await it;
who began it is called when it ends.
"""

import asyncio
import contextvars
from asyncio.tasks import _enter_task, _leave_task  # documented for tasks of others
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Eager(Generic[T]):
    """Runs `work` in a context of its own; `done` gets its result, or what it raised.

    `done` is called once, and not from within the coroutine. Begin it where no task runs.
    """

    __slots__ = (
        "_cancelling", "_context", "_done", "_loop", "_must_cancel", "_over", "_waiting", "_work",
    )  # fmt: skip

    def __init__(
        self,
        work: Coroutine[Any, Any, T],
        done: Callable[[T | None, BaseException | None], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._work = work
        self._done = done
        self._loop = loop
        self._context = contextvars.copy_context()
        self._waiting: asyncio.Future[Any] | None = None
        self._cancelling = 0
        self._must_cancel = False
        self._over = False

    def __repr__(self) -> str:
        state = "over" if self._over else "waiting" if self._waiting else "running"
        return f"<Eager {self._work}, {state}>"

    def begin(self) -> None:
        """Run as far as it goes without waiting."""
        self._context.run(self._step)

    def done(self) -> bool:
        """Whether it has ended."""
        return self._over

    def cancel(self, msg: object = None) -> bool:
        """Raise CancelledError where it waits, as `Task.cancel` does; False when it has ended."""
        if self._over:
            return False
        self._cancelling += 1
        if self._waiting is None or not self._waiting.cancel(msg):
            self._must_cancel = True
        return True

    def cancelling(self) -> int:
        """Count the cancellations that nobody took back."""
        return self._cancelling

    def uncancel(self) -> int:
        """Take a cancellation back; how many are left."""
        if self._cancelling:
            self._cancelling -= 1
        return self._cancelling

    def _step(self, _: object = None) -> None:
        """Go on until it waits or ends. A future's result, or its error, it takes by itself."""
        self._waiting = None
        result, failed, waited = None, None, None
        _enter_task(self._loop, self)  # type: ignore[arg-type] # a task of another kind
        try:
            if self._must_cancel:
                self._must_cancel = False
                waited = self._work.throw(asyncio.CancelledError())
            else:
                waited = self._work.send(None)
        except StopIteration as end:
            result = end.value
            self._over = True
        except BaseException as error:  # noqa: BLE001 - whoever began it gets it
            failed = error
            self._over = True
        finally:
            _leave_task(self._loop, self)  # type: ignore[arg-type]
        if self._over:
            self._done(result, failed)
        elif waited is None:  # a bare yield: `asyncio.sleep(0)`
            self._loop.call_soon(self._step, context=self._context)
        else:
            waited._asyncio_future_blocking = False  # noqa: SLF001 - a future's side of the protocol
            waited.add_done_callback(self._step, context=self._context)
            self._waiting = waited
            if self._must_cancel and waited.cancel():
                self._must_cancel = False
