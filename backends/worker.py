"""The queue before the engine's thread.

Everything but the work itself happens on the event loop, so there is no lock: requests wait in a
deque, one dispatcher task takes them in order and hands each to the only engine thread. A request
leaves the deque when its turn comes, when its deadline passes, or when its caller is cancelled
because the client left; in the last two cases it never costs the engine anything. A full deque
refuses at once. A request that fails fails alone. A worker that stops finishes the request that
runs and fails those that wait: no caller is left without an answer.

The engine is made in its own thread too (`load`), while the server already answers.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from backends.errors import DeadlineError, NotReadyError, OverloadedError, StoppingError
from backends.metrics import Metrics, length_label
from backends.predictor import Predictor
from backends.protocol import Prediction, Request


@dataclass(slots=True, eq=False)
class _Job:
    request: Request
    future: asyncio.Future[Prediction]
    admitted_at: float = field(default_factory=time.perf_counter)

    def fail(self, error: Exception) -> None:
        """Let the caller see `error`, if it still waits."""
        if not self.future.done():
            self.future.set_exception(error)


class Worker:
    """Runs requests through one predictor, one at a time. Belongs to one event loop."""

    def __init__(self, *, queue_limit: int, metrics: Metrics) -> None:
        self._limit = queue_limit
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._waiting: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._dispatcher: asyncio.Task[None] | None = None
        self._stopping = False
        self.predictor: Predictor | None = None

    def __repr__(self) -> str:
        state = "ready" if self.predictor else "loading"
        return f"<Worker {state}, {len(self._waiting)} of {self._limit} waiting>"

    async def start(self, load: Callable[[], Predictor]) -> None:
        """Make the predictor in the engine's thread, warm it, and begin to take requests.

        Raises what `load` raises.
        """

        def load_warm() -> Predictor:
            predictor = load()
            predictor.engine.warm(predictor.window)
            return predictor

        loop = asyncio.get_running_loop()
        self.predictor = await loop.run_in_executor(self._thread, load_warm)
        self._dispatcher = asyncio.create_task(self._dispatch(self.predictor))
        self._metrics.ready.set(1)

    async def stop(self) -> None:
        """Finish the request that runs, fail those that wait or come later, and end the thread.

        Cancelled meanwhile, it fails the request that runs as well.
        """
        self._metrics.ready.set(0)
        self._stopping = True
        while self._waiting:
            self._waiting.popleft().fail(_stopping())
        self._arrived.set()
        if self._dispatcher:
            await self._dispatcher
        await asyncio.to_thread(self._thread.shutdown)

    async def predict(self, request: Request, *, timeout_s: float | None = None) -> Prediction:
        """Wait for the request's turn and its answer, for at most `timeout_s` seconds.

        Raises NotReadyError, StoppingError, OverloadedError (the queue is full), DeadlineError, and
        what the predictor raises. Cancel it when the client has left.
        """
        if self._stopping:
            raise _stopping()
        if self.predictor is None:
            raise NotReadyError("the model is still being loaded: try again in a second")
        if len(self._waiting) >= self._limit:
            raise OverloadedError(f"{self._limit} requests wait already: try again in a second")
        job = _Job(request, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._arrived.set()
        try:
            with self._metrics.in_flight.track_inprogress():
                async with asyncio.timeout(timeout_s):
                    return await job.future
        except TimeoutError:
            waited = time.perf_counter() - job.admitted_at
            raise DeadlineError(
                f"no answer within the deadline: gave up after {waited:.3f} s"
            ) from (None)
        finally:
            with contextlib.suppress(ValueError):  # it has had its turn
                self._waiting.remove(job)

    async def _dispatch(self, predictor: Predictor) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping:
            await self._arrived.wait()
            if not self._waiting:
                self._arrived.clear()
                continue
            job = self._waiting.popleft()
            began = time.perf_counter()
            self._metrics.queue_wait.observe(began - job.admitted_at)
            try:
                answer = await loop.run_in_executor(self._thread, predictor.predict, job.request)
            except asyncio.CancelledError:
                job.fail(_stopping())
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to this request
                job.fail(error)
            else:
                seconds = time.perf_counter() - began
                self._metrics.engine.labels(length_label(answer.window)).observe(seconds)
                if not job.future.done():
                    job.future.set_result(answer)


def _stopping() -> StoppingError:
    return StoppingError("the server stops: try another one, or again in a second")
