"""Copies of requests for the arm that does not answer, off the answer's path.

A mirror starts beside the request that it copies and shares nothing with it but the memory of the
context: it has its own connections, its own deadline, and a budget of places and bytes. Where the
budget is spent the copy is dropped, with its reason, rather than queued: a copy that waits grows
stale and keeps its context alive. When both arms are done, the pair is compared and reported.

The gateway settles every copy with what the client got; nothing flows the other way.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from backends.protocol import Request
from rollout.snapshot import Live, Role
from router.limits import Budget
from router.metrics import Metrics
from router.observe import Observer
from router.record import Admission, Attempt, Pair, cell_of, pending_of
from router.upstream import Upstream

DRAIN_S: Final = 3.0

log = structlog.stdlib.get_logger("router")


@dataclass(frozen=True, slots=True)
class Settled:
    """What the client's side of a mirrored request came to."""

    assigned: Attempt
    answered: Attempt
    """What the client got: the assigned arm's attempt, or the fallback's."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A mirror under way: of which request, in which rollout, and who was assigned to answer it."""

    request: Request
    admission: Admission
    live: Live
    assigned: Role
    arm: str
    settled: "asyncio.Future[Settled | None]"

    def settle(self, outcome: Settled | None) -> None:
        """Say what the client got; None when its request came to nothing."""
        if not self.settled.done():
            self.settled.set_result(outcome)


class Mirror:
    """Starts copies within a budget. `upstream` must be the mirrors' own."""

    def __init__(
        self,
        upstream: Upstream,
        observer: Observer,
        budget: Budget,
        metrics: Metrics,
        *,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstream = upstream
        self._observer = observer
        self._budget = budget
        self._timeout_s = timeout_s
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        metrics.mirrors_in_flight.set_function(lambda: len(self._tasks))

    def start(
        self, request: Request, admission: Admission, *, live: Live, assigned: Role, arm: str
    ) -> Copy | None:
        """Send a copy of `request` to `arm`; None when the budget leaves no place for it."""
        if full := self._budget.take(request.context.nbytes):
            self._observer.mirror_dropped(live, admission, request.length, full)
            return None
        settled = asyncio.get_running_loop().create_future()
        copy = Copy(request, admission, live, assigned, arm, settled)
        task = asyncio.create_task(self._run(copy))
        self._tasks.add(task)
        task.add_done_callback(self._end)
        return copy

    async def drain(self) -> None:
        """Wait a bounded time for the copies under way, then give the rest up."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=DRAIN_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("mirror failed", exc_info=error)

    async def _run(self, copy: Copy) -> None:
        size = copy.request.context.nbytes
        try:
            attempt = await self._upstream.attempt(
                copy.arm,
                copy.request,
                deadline=self._clock() + self._timeout_s,
                request_id=copy.admission.request_id,
            )
            outcome = await copy.settled
        finally:
            self._budget.give(size)
        if outcome is None:
            self._observer.mirror_dropped(copy.live, copy.admission, copy.request.length, "error")
            return
        self._report(copy, outcome, attempt)

    def _report(self, copy: Copy, outcome: Settled, attempt: Attempt) -> None:
        live, admission, length = copy.live, copy.admission, copy.request.length
        attempts = {copy.assigned: outcome.assigned, live.role(copy.arm): attempt}
        self._observer.pair(
            Pair(admission, length, live, attempts["incumbent"], attempts["candidate"])
        )
        if outcome.answered.prediction is not None:
            pending = pending_of(
                admission,
                answered=outcome.answered,
                other=attempt,
                cell=cell_of(live, admission, length),
                live=live,
                assigned=copy.assigned,
                label_window_s=live.label_window_s,
            )
            self._observer.pend(pending)
