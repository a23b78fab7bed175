import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest
from backend_samples import bank, context
from prometheus_client import CollectorRegistry

from backends import worker
from backends.engine.port import Capabilities, GivenUpError, Piece, Reading, State
from backends.errors import (
    DeadlineError,
    NotFiniteError,
    NotReadyError,
    OverloadedError,
    StoppingError,
)
from backends.metrics import Metrics, length_label
from backends.predictor import Predictor
from backends.protocol import Floats, Request
from backends.worker import Worker

QUEUE_LIMIT = 3
STATE = np.zeros((4, 512), np.float32)


class GatedEngine:
    """An engine whose every run waits until the test opens the gate."""

    capabilities = Capabilities(
        "gated", "none", threads=1, weights="none", precision="float32", ragged=True
    )

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.running = threading.Event()
        self.seen: list[list[float]] = []
        self.poison: float | None = None

    def predict(self, lasts: Floats, _: Sequence[State]) -> Floats:
        return lasts

    def give_up(self) -> None:
        """Run to the end."""

    def run(self, pieces: Sequence[Piece]) -> list[Reading]:
        if all(len(piece.vectors) == 2 for piece in pieces):  # not while it is warmed
            self.running.set()
            assert self.gate.wait(10)
            marks = [float(piece.vectors[0, 0]) for piece in pieces]
            self.seen.append(marks)
            if self.poison in marks:
                raise ValueError(f"cannot read {self.poison}")
        return [Reading(piece.vectors[-1], STATE) for piece in pieces]


class Room:
    """A worker over a gated engine."""

    def __init__(self) -> None:
        self.engine = GatedEngine()
        self.registry = CollectorRegistry()
        self.worker = Worker(queue_limit=QUEUE_LIMIT, metrics=Metrics(self.registry))

    def load(self) -> Predictor:
        return Predictor(self.engine, bank(context(20)), 100, "c" * 64, trained=False)

    async def occupy(self) -> asyncio.Task[object]:
        """Send a request and wait until the engine runs it."""
        task = self.ask(9)
        await asyncio.to_thread(self.engine.running.wait, 10)
        return task

    def ask(self, mark: float, timeout_s: float | None = None) -> asyncio.Task[object]:
        return asyncio.create_task(self.worker.predict(request(mark), timeout_s=timeout_s))

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


def request(mark: float) -> Request:
    return Request(np.full((2, 768), mark, np.float32), exclude_context=False)


async def settle() -> None:
    """Let every task run up to its next wait."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    room = Room()
    await room.worker.start(room.load)
    yield room
    room.engine.gate.set()
    with contextlib.suppress(asyncio.CancelledError):  # a test may have cancelled a stop
        await room.worker.stop()


async def test_what_waited_together_is_read_together_in_the_order_it_came(room: Room) -> None:
    first = await room.occupy()
    rest = [room.ask(mark) for mark in (1, 2, 3)]
    await settle()
    assert repr(room.worker) == "<Worker ready, 3 of 3 waiting>"
    room.engine.gate.set()
    await asyncio.gather(first, *rest)
    assert room.engine.seen == [[9], [1, 2, 3]]


async def test_a_full_queue_refuses_at_once(room: Room) -> None:
    await room.occupy()
    for mark in (1, 2, 3):
        room.ask(mark)
    await settle()
    with pytest.raises(OverloadedError, match="3 requests wait already"):
        await room.worker.predict(request(4))


async def test_a_request_whose_deadline_passes_is_dropped_before_it_costs_anything(
    room: Room,
) -> None:
    first = await room.occupy()
    with pytest.raises(DeadlineError, match="no answer within the deadline"):
        await room.ask(1, timeout_s=0.001)
    room.engine.gate.set()
    await first
    await room.ask(2)
    assert room.engine.seen == [[9], [2]]


async def test_a_request_that_is_withdrawn_frees_its_place_and_never_runs(room: Room) -> None:
    first = await room.occupy()
    waiting = [room.ask(mark) for mark in (1, 2, 3)]
    await settle()
    waiting[1].cancel()
    await settle()
    instead = room.ask(4)
    room.engine.gate.set()
    await asyncio.gather(first, waiting[0], waiting[2], instead)
    assert room.engine.seen == [[9], [1, 3, 4]]


async def test_a_request_that_is_withdrawn_while_it_runs_hurts_nobody(room: Room) -> None:
    first = await room.occupy()
    second = room.ask(1)
    first.cancel()
    await settle()
    room.engine.gate.set()
    await second
    assert room.engine.seen == [[9], [1]]


async def test_a_request_that_fails_fails_alone(room: Room) -> None:
    room.engine.gate.set()
    bad, good = room.ask(float("nan")), room.ask(1)
    with pytest.raises(NotFiniteError):
        await bad
    await good


async def test_before_the_model_is_loaded_a_request_is_told_to_try_again() -> None:
    worker = Room().worker
    with pytest.raises(NotReadyError, match="still being loaded"):
        await worker.predict(request(1))
    await worker.stop()


async def test_a_worker_that_stops_finishes_what_runs_and_fails_what_waits_or_comes_later(
    room: Room,
) -> None:
    running = await room.occupy()
    waiting = [room.ask(1), room.ask(2)]
    await settle()
    stopping = asyncio.create_task(room.worker.stop())
    await settle()
    late = room.ask(3)
    for task in (*waiting, late):
        with pytest.raises(StoppingError, match="the server stops") as error:
            await asyncio.wait_for(task, 10)
        assert error.value.status == 503
    assert not running.done()
    room.engine.gate.set()
    await asyncio.wait_for(asyncio.gather(running, stopping), 10)
    assert room.engine.seen == [[9]]


async def test_a_stop_that_is_cancelled_fails_the_request_that_runs(room: Room) -> None:
    running = await room.occupy()
    stopping = asyncio.create_task(room.worker.stop())
    await settle()
    stopping.cancel()
    with pytest.raises(StoppingError):
        await asyncio.wait_for(running, 10)
    room.engine.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await stopping


async def test_it_measures_waiting_running_and_readiness(room: Room) -> None:
    first = await room.occupy()
    assert room.metric("backend_ready") == 1
    assert room.metric("backend_in_flight_requests") == 1
    room.engine.gate.set()
    await first
    await settle()
    assert room.metric("backend_in_flight_requests") == 0
    assert room.metric("backend_queue_wait_seconds_count", length="<=100") == 1
    assert room.metric("backend_engine_seconds_count", length="<=100") == 1
    assert room.metric("backend_search_seconds_count") == 1


def test_length_labels_are_a_closed_set() -> None:
    labels = [length_label(n) for n in (1, 100, 101, 200, 350, 500, 501, 10**6)]
    assert labels == ["<=100", "<=100", "<=200", "<=200", "<=350", "<=500", ">500", ">500"]


async def test_a_mirrored_request_waits_behind_those_that_somebody_waits_for(room: Room) -> None:
    first = await room.occupy()
    copy = asyncio.create_task(room.worker.predict(request(1), mirrored=True))
    await settle()
    served = room.ask(2)
    await settle()
    room.engine.gate.set()
    await asyncio.gather(first, copy, served)
    assert room.engine.seen == [[9], [2], [1]]


async def test_a_batch_that_fails_as_a_whole_is_read_one_by_one(room: Room) -> None:
    first = await room.occupy()
    room.engine.poison = 2.0
    rest = [room.ask(mark) for mark in (1, 2, 3)]
    await settle()
    room.engine.gate.set()
    answers = await asyncio.gather(first, *rest, return_exceptions=True)
    assert [isinstance(answer, Exception) for answer in answers] == [False, False, True, False]


async def test_what_was_read_together_is_measured_as_a_batch(room: Room) -> None:
    first = await room.occupy()
    rest = [room.ask(mark) for mark in (1, 2, 3)]
    await settle()
    room.engine.gate.set()
    await asyncio.gather(first, *rest)
    await settle()
    assert room.metric("backend_batch_size_requests_sum", length="<=100") == 4
    assert room.metric("backend_batch_size_requests_count", length="<=100") == 2
    assert room.metric("backend_vectors_total", kind="read") == 8
    assert room.metric("backend_vectors_total", kind="padding") == 0
    assert room.metric("backend_prefix_lookups_total", outcome="off", length="<=100") == 4


# --- lone steps -----------------------------------------------------------------------------------


class SteppingEngine(GatedEngine):
    """Tells which thread each run was in."""

    capabilities = Capabilities(
        "stepping", "cpu", threads=1, weights="none", precision="float32", ragged=True
    )

    def __init__(self) -> None:
        super().__init__()
        self.gate.set()
        self.threads: list[threading.Thread] = []

    def run(self, pieces: Sequence[Piece]) -> list[Reading]:
        readings = super().run(pieces)
        self.threads.append(threading.current_thread())
        return readings


@pytest.fixture
async def stepping(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Room, SteppingEngine]]:
    monkeypatch.setattr(worker, "STEP_S", 60.0)
    room = Room()
    room.engine = engine = SteppingEngine()
    await room.worker.start(room.load)
    engine.threads.clear()
    yield room, engine
    await room.worker.stop()


HERE = threading.main_thread()


async def test_a_lone_step_is_done_on_the_loop_once_one_was_quick(
    stepping: tuple[Room, SteppingEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    room, engine = stepping
    for mark in (1, 2, 3):
        await room.ask(mark)
    assert [thread is HERE for thread in engine.threads] == [False, True, True]
    monkeypatch.setattr(worker, "STEP_S", 0.0)
    await room.ask(4)
    assert engine.threads[-1] is not HERE
    await settle()
    assert room.metric("backend_engine_seconds_count", length="<=100") == 4


async def test_steps_that_came_together_or_before_others_are_not_done_on_the_loop(
    stepping: tuple[Room, SteppingEngine],
) -> None:
    room, engine = stepping
    await room.ask(1)
    await asyncio.gather(room.ask(2), room.ask(3))
    with room.worker.expecting():
        await room.ask(4)
    long = Request(np.ones((5, 768), np.float32), exclude_context=False)
    await room.worker.predict(long)
    assert HERE not in engine.threads


async def test_a_step_on_the_loop_that_fails_fails_alone(
    stepping: tuple[Room, SteppingEngine],
) -> None:
    room, engine = stepping
    await room.ask(1)
    engine.poison = 2
    with pytest.raises(ValueError, match="cannot read 2"):
        await room.ask(2)
    await room.ask(3)


async def test_a_fault_of_ours_on_the_loop_leaves_no_caller_without_an_answer(
    stepping: tuple[Room, SteppingEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    room, _ = stepping
    await room.ask(1)

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(Predictor, "read", fail)
    with pytest.raises(ZeroDivisionError, match="a fault of ours"):
        await room.ask(2)


# --- runs that are given up -----------------------------------------------------------------------


class StoppableEngine(GatedEngine):
    """Gives a run up that waits at the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.given_up = 0
        self.at_once = True
        self.again = threading.Event()

    def give_up(self) -> None:
        self.given_up += 1
        if self.at_once:
            self.gate.set()

    def run(self, pieces: Sequence[Piece]) -> list[Reading]:
        before = self.given_up
        if before:
            self.again.set()
        readings = super().run(pieces)
        if self.given_up > before:
            self.seen.pop()
            self.gate.clear()
            raise GivenUpError
        return readings


@pytest.fixture
async def hasty() -> AsyncIterator[tuple[Room, StoppableEngine]]:
    room = Room()
    room.engine = engine = StoppableEngine()
    await room.worker.start(room.load)
    room.worker._pace = 1000.0  # so that whoever comes has come at once
    yield room, engine
    engine.gate.set()
    await room.worker.stop()


async def once_more(engine: StoppableEngine) -> None:
    """Wait until what was given up runs again."""
    assert await asyncio.to_thread(engine.again.wait, 10)


async def test_a_lone_run_is_begun_again_with_who_came_at_once(
    hasty: tuple[Room, StoppableEngine],
) -> None:
    room, engine = hasty
    first = await room.occupy()
    second = room.ask(1)
    await settle()
    await once_more(engine)
    third = room.ask(2)
    await settle()
    assert engine.given_up == 1
    engine.gate.set()
    await asyncio.gather(first, second, third)
    await settle()
    assert engine.seen == [[9, 1], [2]]
    assert room.metric("backend_queue_wait_seconds_count", length="<=100") == 3
    assert room.metric("backend_batch_size_requests_sum", length="<=100") == 3


async def test_a_request_whose_run_was_given_up_runs_to_its_end_though_others_come(
    hasty: tuple[Room, StoppableEngine],
) -> None:
    room, engine = hasty
    engine.at_once = False
    first = await room.occupy()
    with pytest.raises(DeadlineError):
        await room.ask(1, timeout_s=0.001)
    engine.gate.set()
    await once_more(engine)
    third = room.ask(2)
    await settle()
    assert engine.given_up == 1
    engine.gate.set()
    await asyncio.gather(first, third)
    assert engine.seen == [[9], [2]]


async def test_a_request_that_is_withdrawn_when_its_run_is_given_up_does_not_run_again(
    hasty: tuple[Room, StoppableEngine],
) -> None:
    room, engine = hasty
    first = await room.occupy()
    second = room.ask(1)
    first.cancel()
    await settle()
    await once_more(engine)
    engine.gate.set()
    await second
    assert engine.seen == [[1]]


async def test_a_worker_that_stops_when_a_run_is_given_up_finishes_what_ran(
    hasty: tuple[Room, StoppableEngine],
) -> None:
    room, engine = hasty
    first, second = await room.occupy(), room.ask(1)
    stopping = asyncio.create_task(room.worker.stop())  # in the turn of the loop that gives it up
    with pytest.raises(StoppingError):
        await asyncio.wait_for(second, 10)
    await once_more(engine)
    engine.gate.set()
    await asyncio.wait_for(asyncio.gather(first, stopping), 10)
    assert engine.seen == [[9]]


async def test_later_company_does_not_end_a_run(hasty: tuple[Room, StoppableEngine]) -> None:
    room, engine = hasty
    room.worker._pace = 0.0  # so that nobody has come at once
    first = await room.occupy()
    second = room.ask(1)
    await settle()
    engine.gate.set()
    await asyncio.gather(first, second)
    assert (engine.given_up, engine.seen) == (0, [[9], [1]])
