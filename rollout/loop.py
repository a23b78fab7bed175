"""What makes a controller act by itself: the lease that one of them holds, and a tick each second.

Any number of controllers run this loop. One holds the lease and ticks; the others ask for it, and
one of them has it soon after the leader resigned, or `lease_s` after it fell silent. Two that
believe to lead do no harm: a tick's change carries its lease, and the store applies it only while
that lease is held.

A round that fails is logged, when it begins to fail and when it works again, and tried again after
the interval. Nothing is made up for: a tick looks at what is there now.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Final, Literal

import structlog

from rollout.controller import Controller, Ticked
from rollout.errors import RolloutError
from rollout.metrics import Metrics
from rollout.store.port import Lease
from rollout.tick import Act

STOP_S: Final = 3.0
"""How long a round may go on after it was told to end: then it is cancelled."""
CANCEL_S: Final = 0.1
log = structlog.stdlib.get_logger("rollout.loop")

Outcome = Literal["acted", "stayed", "idle", "fenced", "overtaken", "failed"]


class Loop:
    """The ticker of one controller, which calls itself `holder` in the lease."""

    def __init__(
        self,
        controller: Controller,
        metrics: Metrics,
        *,
        holder: str,
        interval_s: float,
        lease_s: float,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._controller = controller
        self._metrics = metrics
        self._holder = holder
        self._interval_s = interval_s
        self._lease_s = lease_s
        self._timer = timer
        self._lease: Lease | None = None
        self._fault = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Go round for as long as the block runs; then resign."""
        ending = asyncio.Event()
        task = asyncio.create_task(self._run(ending))
        try:
            yield
        finally:
            ending.set()
            await _ended(task)
            await self._resign()

    async def round(self) -> Outcome:
        """Ask for the lease, and tick if this is the leader. Never raises an Exception."""
        began = self._timer()
        try:
            outcome = await self._once()
        except RolloutError as error:
            self._failed(str(error))
            outcome = "failed"
        except Exception as error:
            log.exception("a tick failed")
            self._fault = repr(error)
            outcome = "failed"
        else:
            if self._fault:
                log.info("ticks work again")
            self._fault = ""
        if self._lease or outcome == "failed":
            self._metrics.ticks.labels(outcome).inc()
            self._metrics.tick_seconds.observe(self._timer() - began)
        self._metrics.leader.set(self._lease is not None)
        return outcome

    async def _run(self, ending: asyncio.Event) -> None:
        while not ending.is_set():
            await self.round()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ending.wait(), self._interval_s)

    async def _once(self) -> Outcome:
        held, self._lease = self._lease, await self._controller.lead(self._holder, self._lease_s)
        if (held is None) != (self._lease is None):
            log.info("leads" if self._lease else "leads no more", holder=self._holder)
        if self._lease is None:
            return "idle"
        return _outcome(await self._controller.tick(self._lease))

    def _failed(self, fault: str) -> None:
        if fault != self._fault:
            log.warning("a tick failed", reason=fault)
        self._fault = fault

    async def _resign(self) -> None:
        lease, self._lease = self._lease, None
        self._metrics.leader.set(0)
        if lease is None:
            return
        try:
            await self._controller.resign(lease)
        except RolloutError as error:
            log.warning("could not resign: the lease ends by itself", reason=str(error))


def _outcome(ticked: Ticked) -> Outcome:
    if ticked.result is not None:
        log.info("acted", **ticked.result.model_dump(exclude={"verdict", "forecast", "outcome"}))
        return "acted"
    if ticked.fenced:
        log.warning("another controller leads now: nothing was changed")
        return "fenced"
    if isinstance(ticked.move, Act):
        return "overtaken"
    return "stayed" if ticked.move else "idle"


async def _ended(task: asyncio.Task[None]) -> None:
    """Wait for the last round, which the store's time-outs bound; then cancel until it has ended.

    Once is not enough: redis-py sends under asyncio.wait_for, which in Python 3.11 returns a result
    that comes in together with the cancellation, and drops the cancellation.
    """
    _, running = await asyncio.wait({task}, timeout=STOP_S)
    while running:
        task.cancel()
        _, running = await asyncio.wait(running, timeout=CANCEL_S)
