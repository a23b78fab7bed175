"""Copies of requests for the arm that does not answer, off the answer's path.

A mirror goes out after the request that it copies, never before, and shares nothing with it but the
memory of the context: it has its own connections, its own deadline, and a budget of places and
bytes. Where the budget is spent the copy is dropped, with its reason, rather than queued: a copy
that waits grows stale and keeps its context alive. When both arms are done, the pair is compared
and reported.

The gateway settles every copy with what the client got; nothing flows the other way. A copy comes
to its end when it is settled and its attempt is over, however either ended: an attempt that broke
or was given up at the end of the process is a drop, and the label of the client's answer is kept
without it.
"""

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import structlog

from rollout.snapshot import Live, Role
from router.body import Question
from router.errors import ClientLeftError
from router.limits import Budget
from router.metrics import Metrics
from router.observe import Observer
from router.record import Admission, Attempt, Pair, cell_of, pending_of
from router.upstream import Patience, Upstream

DRAIN_S: Final = 3.0

log = structlog.stdlib.get_logger("router")


class Settled(NamedTuple):
    """What the client's side of a mirrored request came to."""

    assigned: Attempt
    answered: Attempt
    """What the client got: the assigned arm's attempt, or the fallback's."""


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """A mirror under way: of which request, in which rollout, and who was assigned to answer it."""

    question: Question
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
    ) -> None:
        self._upstream = upstream
        self._observer = observer
        self._budget = budget
        self._timeout_s = timeout_s
        self._metrics = metrics
        self._tasks: set[asyncio.Task[Attempt]] = set()
        metrics.mirrors_in_flight.set_function(lambda: len(self._tasks))

    def start(
        self, question: Question, admission: Admission, *, live: Live, assigned: Role, arm: str
    ) -> Copy | None:
        """Send a copy of `question` to `arm`; None when the budget leaves no place for it."""
        if full := self._budget.take(question.body.size):
            self._observer.mirror_dropped(live, admission, question.length, full)
            return None
        settled = asyncio.get_running_loop().create_future()
        copy = Copy(question, admission, live, assigned, arm, settled)
        task = asyncio.create_task(self._attempt(copy))
        self._tasks.add(task)
        for side in (task, settled):
            side.add_done_callback(partial(self._meet, copy, task))
        return copy

    async def _attempt(self, copy: Copy) -> Attempt:
        """Ask the mirror's arm, after the primary: when its request has gone out as far as it can.

        The body has all come by then: a mirror never waits with a backend for a slow client.
        """
        await asyncio.sleep(0)
        await copy.question.body.filled()
        return await self._upstream.attempt(
            copy.arm,
            copy.question,
            patience=Patience(most_s=self._timeout_s),
            request_id=copy.admission.request_id,
        )

    async def drain(self) -> None:
        """Wait a bounded time for the copies under way, then give the rest up."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=DRAIN_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _meet(self, copy: Copy, task: "asyncio.Task[Attempt]", _: "asyncio.Future[Any]") -> None:
        """End a copy when both its sides are done; a copy that nobody awaits is given up."""
        if not copy.settled.done():
            return
        outcome = copy.settled.result()
        if not task.done():
            if outcome is None:
                task.cancel()
            return
        if task in self._tasks:  # both sides may be done before either is told
            self._tasks.discard(task)
            self._budget.give(copy.question.body.size)
            self._end(copy, outcome, _attempt_of(task))

    def _end(self, copy: Copy, outcome: Settled | None, attempt: Attempt | None) -> None:
        if outcome is None:
            self._metrics.mirrors.labels("abandoned").inc()
            return
        live, admission, length = copy.live, copy.admission, copy.question.length
        if attempt is None:
            self._observer.mirror_dropped(live, admission, length, "error")
        else:
            attempts = {copy.assigned: outcome.assigned, live.role(copy.arm): attempt}
            self._observer.pair(
                Pair(
                    admission,
                    length,
                    live,
                    attempts["incumbent"],
                    attempts["candidate"],
                    key=copy.question.terms.key,
                )
            )
        if outcome.answered.prediction is not None:
            pending = pending_of(
                admission,
                answered=outcome.answered,
                other=attempt,
                cell=cell_of(live, admission, length),
                live=live,
                assigned=copy.assigned,
                key=copy.question.terms.key,
                label_window_s=live.label_window_s,
            )
            self._observer.pend(pending)


def _attempt_of(task: "asyncio.Task[Attempt]") -> Attempt | None:
    """Return what a copy's attempt came to; None when it was given up or broke."""
    if task.cancelled():
        return None
    error = task.exception()
    if isinstance(error, ClientLeftError):
        return None
    if error:
        log.error("mirror failed", exc_info=error)
        return None
    return task.result()
