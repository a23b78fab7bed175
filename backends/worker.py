"""The queue before the engine's thread.

Everything but the work itself happens on the event loop, so there is no lock: requests wait in a
list, and whenever the engine's only thread is free the next batch is chosen (batching.py) and
handed over. A lone request never waits for company; one beside whose body others are just being
received waits for these, a small part of the time that it takes itself; and where it has begun
within that time, its run is given up and begun again with them. A lone step that takes the engine
less than a turn to its thread and back may take is done on the loop, as long as it takes no longer
than the loop may be held up.

A request leaves the queue when its turn comes, when its deadline passes, or when its caller is
cancelled because the client left; in the last two cases it never costs the engine anything. A full
queue refuses at once. A request that fails fails alone. A worker that stops finishes the batch that
runs and fails those that wait: no caller is left without an answer.

The engine is made in its own thread too (`load`), while the server already answers.
"""

import asyncio
import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from opentelemetry.context import Context

from backends.batching import Waiting, choose, company_until, joins
from backends.engine.port import GivenUpError
from backends.errors import DeadlineError, NotReadyError, OverloadedError, StoppingError
from backends.fingerprint import prints_of
from backends.hand import Hand
from backends.metrics import Metrics
from backends.predictor import Batch, Predictor, Task
from backends.protocol import Prediction, Request
from backends.serving import tracing

BATCH: Final = 16
LONG_CONTEXT: Final = 1024
"""Vectors; looking through more than this, 3 MB, may take the loop too long."""
STEP: Final = 2
"""Vectors to read, at most, that the loop reads itself."""
STEP_S: Final = 0.003
"""What the last lone step may have taken, engine and bank, if the loop is to do the next itself."""
LOOK_S: Final = 0.001
"""Between two looks at whether the company that a batch waits for has come."""


@dataclass(slots=True, eq=False)
class _Job:
    task: Task
    waiting: Waiting
    future: asyncio.Future[Prediction]
    taken: bool = False
    """Whether it has left the queue: its turn has come, or its deadline has passed."""
    turn_at: float = 0.0
    """When its turn came."""
    again: bool = False
    """Whether its run was given up: that happens to nobody twice."""
    trace: Context | None = field(default_factory=tracing.current)

    def fail(self, error: BaseException) -> None:
        """Let the caller see `error`, if it still waits."""
        if not self.future.done():
            self.future.set_exception(error)


class Worker:
    """Runs requests through one predictor, a batch at a time. Belongs to one event loop."""

    def __init__(self, *, queue_limit: int, metrics: Metrics, batch_limit: int = BATCH) -> None:
        self._limit = queue_limit
        self._largest = batch_limit
        self._metrics = metrics
        self._hand = Hand("engine")
        self._queue: list[_Job] = []
        self._running: Sequence[_Job] = ()
        """What the engine's thread reads."""
        self._turn: asyncio.Handle | None = None
        self._bodies: dict[object, float] = {}
        """When each body that is being received began."""
        self._free = asyncio.Event()
        self._free.set()
        self._stopping = False
        self._pace = 0.0
        self._step_s = math.inf
        """What the last lone step took, engine and bank."""
        self.predictor: Predictor | None = None

    def __repr__(self) -> str:
        state = "ready" if self.predictor else "loading"
        return f"<Worker {state}, {len(self._queue)} of {self._limit} waiting>"

    async def start(self, load: Callable[[], Predictor]) -> None:
        """Make the predictor in the engine's thread, warm it, and begin to take requests.

        Raises what `load` raises.
        """

        def load_warm() -> tuple[Predictor, float]:
            predictor = load()
            return predictor, predictor.warm()

        self.predictor, self._pace = await self._hand.wait_for(load_warm)
        self._metrics.ready.set(1)

    async def stop(self) -> None:
        """Finish the batch that runs, fail those that wait or come later, and end the thread.

        Cancelled meanwhile, it fails the requests that run as well.
        """
        self._metrics.ready.set(0)
        self._stopping = True
        for job in self._queue:
            job.taken = True
            job.fail(_stopping())
        self._queue.clear()
        try:
            await self._free.wait()
        except asyncio.CancelledError:
            for job in self._running:
                job.fail(_stopping())
            raise
        await self._hand.stop()

    def loaded(self) -> Predictor:
        """Return the predictor. Raises NotReadyError while it is being loaded."""
        if self.predictor is None:
            raise NotReadyError("the model is still being loaded: try again in a second")
        return self.predictor

    @contextlib.contextmanager
    def expecting(self) -> Iterator[None]:
        """Say that a request's body is being received: what comes now may wait for it a little."""
        over = self.expect()
        try:
            yield
        finally:
            over()

    def expect(self) -> Callable[[], None]:
        """Say so until what is returned is called, once."""
        body = object()
        self._bodies[body] = time.perf_counter()
        return functools.partial(self._bodies.__delitem__, body)

    async def predict(
        self, request: Request, *, timeout_s: float | None = None, mirrored: bool = False
    ) -> Prediction:
        """Wait for the request's turn and its answer, for at most `timeout_s` seconds.

        A `mirrored` request waits behind all that are not. Raises NotReadyError, StoppingError,
        OverloadedError (the queue is full), DeadlineError, and what the predictor raises. Cancel it
        when the client has left.
        """
        began = time.perf_counter()
        predictor = self._ready()
        self._metrics.in_flight += 1
        try:
            answer = self._answer(predictor, request, began, timeout_s, mirrored)
            if timeout_s is None:  # a limit costs the more the colder the caches are
                return await answer
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise DeadlineError(
                f"no answer within the deadline: gave up after {time.perf_counter() - began:.3f} s"
            ) from None
        finally:
            self._metrics.in_flight -= 1

    def _ready(self) -> Predictor:
        """Return the predictor, if one more request may wait for it now."""
        if self._stopping:
            raise _stopping()
        predictor = self.loaded()
        if len(self._queue) >= self._limit:
            raise OverloadedError(f"{self._limit} requests wait already: try again in a second")
        return predictor

    async def _answer(
        self,
        predictor: Predictor,
        request: Request,
        began: float,
        timeout_s: float | None,
        mirrored: bool,
    ) -> Prediction:
        prints = None
        if request.length > LONG_CONTEXT and predictor.remembers(request):
            prints = await asyncio.to_thread(prints_of, request.context)
            self._ready()  # again: that may have taken a while
        task = predictor.prepare(predictor.question(request, prints))
        deadline = None if timeout_s is None else began + timeout_s
        waiting = Waiting(task.length, began, deadline, mirrored)
        job = _Job(task, waiting, asyncio.get_running_loop().create_future())
        self._queue.append(job)
        self._join(predictor, job)
        self._plan_turn()
        try:
            return await job.future
        finally:
            if not job.taken:
                self._queue.remove(job)

    # --- turns ----------------------------------------------------------------------------------

    def _plan_turn(self) -> None:
        """Choose a batch when the loop has handled what came together with the request."""
        if isinstance(self._turn, asyncio.TimerHandle):
            self._turn.cancel()  # the company has come
            self._turn = None
        if self._turn is None and self._free.is_set():
            self._turn = asyncio.get_running_loop().call_soon(self._take_turn)

    def _join(self, predictor: Predictor, job: _Job) -> None:
        """Have a run that has just begun without `job` given up, if it is to be begun with it."""
        if (
            self._running
            and not self._stopping
            and not self._running[0].again
            and joins(
                job.waiting,
                [running.waiting for running in self._running],
                job.waiting.admitted_at,
                self._running[0].turn_at,
                largest=self._largest,
                pace=self._pace,
            )
        ):
            predictor.engine.give_up()

    def _take_turn(self) -> None:
        """Hand the next batch over, or wait for the company that is on its way."""
        self._turn = None
        now = time.perf_counter()
        if self._bodies and now < (until := self._company_until()):
            loop = asyncio.get_running_loop()
            self._turn = loop.call_later(min(until - now, LOOK_S), self._take_turn)
            return
        jobs = self._choose(now)
        if not jobs:
            return
        predictor = self.loaded()
        if not self._is_quick(predictor, jobs):
            self._hand_over(predictor, jobs)
            return
        began = time.perf_counter()
        try:
            batch = predictor.read([job.task for job in jobs])
        except Exception as error:  # noqa: BLE001 - it is the caller's, as the hand's are
            self._done(predictor, jobs, began, None, error)
        else:
            self._done(predictor, jobs, began, batch, None)

    def _hand_over(self, predictor: Predictor, jobs: Sequence[_Job]) -> None:
        """Have the engine's thread read a batch."""
        self._running = jobs
        self._free.clear()
        tasks = [job.task for job in jobs]
        done = functools.partial(self._done, predictor, jobs, time.perf_counter())
        self._hand.do(lambda: predictor.read(tasks), done)

    def _done(
        self,
        predictor: Predictor,
        jobs: Sequence[_Job],
        began: float,
        batch: Batch | None,
        error: BaseException | None,
    ) -> None:
        """Hand out what was read since `began`, and go on."""
        if isinstance(error, GivenUpError) and self._stopping:
            self._hand_over(predictor, jobs)  # what ran when the server was stopped is finished
            return
        self._running = ()
        self._free.set()
        if batch is not None:
            self._hand_out(predictor, jobs, batch, began)
        elif isinstance(error, GivenUpError):
            self._take_back(jobs)
        else:  # a fault of ours: nobody may wait for ever
            for job in jobs:
                job.fail(error or RuntimeError("no answer and no error"))
        if self._queue and not self._stopping:
            self._take_turn()

    def _company_until(self) -> float:
        return company_until(
            [job.waiting for job in self._queue],
            list(self._bodies.values()),
            largest=self._largest,
            pace=self._pace,
        )

    def _is_quick(self, predictor: Predictor, jobs: Sequence[_Job]) -> bool:
        """Whether the loop reads a batch itself: a lone step, when nobody else is there."""
        return (
            self._step_s <= STEP_S
            and _is_step(jobs)
            and not self._queue
            and not self._bodies
            and predictor.engine.capabilities.device == "cpu"
        )

    def _take_back(self, jobs: Sequence[_Job]) -> None:
        """Let those wait again whose run was given up, but for who has left meanwhile."""
        for job in jobs:
            job.again = True
            if not job.future.done():
                job.taken = False
                self._queue.append(job)

    def _hand_out(
        self, predictor: Predictor, jobs: Sequence[_Job], batch: Batch, began: float
    ) -> None:
        for job, outcome in zip(jobs, batch.outcomes, strict=True):
            predictor.settle(job.task, outcome)
            if outcome.prediction is None:
                job.fail(outcome.error or RuntimeError("no answer and no error"))
            elif not job.future.done():
                job.future.set_result(outcome.prediction)
        if _is_step(jobs):
            self._step_s = batch.engine_s + batch.search_s
        read = began + batch.engine_s, time.perf_counter()
        # After those who wait for the answers have written them.
        asyncio.get_running_loop().call_soon(self._count, predictor, jobs, batch, (began, *read))

    def _count(
        self,
        predictor: Predictor,
        jobs: Sequence[_Job],
        batch: Batch,
        times: tuple[float, float, float],
    ) -> None:
        """Measure a batch that is over: when it began, was read, and ended."""
        for job in jobs:
            self._metrics.prefix(predictor.prefix_outcome(job.task), job.task)
            self._metrics.waited(job.task, job.turn_at - job.waiting.admitted_at)
            tracing.record(job.trace, "queue", job.waiting.admitted_at, job.turn_at)
        self._metrics.batch([job.task for job in jobs], batch.engine_s, batch.search_s)
        self._metrics.prefix_bytes.set(predictor.prefixes.bytes_held)
        _trace(predictor, jobs, *times)

    def _choose(self, now: float) -> Sequence[_Job]:
        """Take the next batch out of the queue."""
        choice = choose(
            [job.waiting for job in self._queue], now, largest=self._largest, pace=self._pace
        )
        for place in choice.expired:
            self._queue[place].taken = True
            self._queue[place].fail(DeadlineError("no answer within the deadline"))
        jobs = [self._queue[place] for place in choice.batch]
        gone = {*choice.batch, *choice.expired}
        self._queue = [job for place, job in enumerate(self._queue) if place not in gone]
        for job in jobs:
            job.taken, job.turn_at = True, now
        return jobs


def _is_step(jobs: Sequence[_Job]) -> bool:
    return len(jobs) == 1 and jobs[0].task.length <= STEP


def _trace(
    predictor: Predictor, jobs: Sequence[_Job], began: float, read: float, ended: float
) -> None:
    """Tell each request's trace about the batch that has just ended: its reading, its searches."""
    for job in jobs:
        tracing.record(
            job.trace,
            "engine",
            began,
            read,
            batch_size=len(jobs),
            vectors_read=job.task.length,
            vectors_known=job.task.known.length,
            prefix=predictor.prefix_outcome(job.task),
        )
        tracing.record(job.trace, "search", read, ended, batch_size=len(jobs))


def _stopping() -> StoppingError:
    return StoppingError("the server stops: try another one, or again in a second")
