"""Whatever is cancelled, late or fails: each request gets its own answer, or its own error."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from backend_samples import bank, context
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from backends.engine.port import Capabilities, GivenUpError, Piece, Reading, State
from backends.errors import DeadlineError, NotFiniteError, OverloadedError
from backends.metrics import Metrics
from backends.predictor import Predictor
from backends.prefix import PrefixStates
from backends.protocol import Floats, Prediction, Request
from backends.worker import Worker

GOOD: Final = "good"
BREAKS: Final = "breaks"
"""The engine fails on every batch that holds it."""
SPOILT: Final = "spoilt"
"""The engine's answer is not finite."""
LATE: Final = "late"
MIRRORED: Final = "mirrored"
LIMIT_S: Final = 20.0


class Echo:
    """An engine that answers with the context's last vector, one batch each time it is let."""

    capabilities = Capabilities(
        "echo", "none", threads=1, weights="none", precision="float32", ragged=True
    )

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.ends = threading.Event()
        self.given_up = 0
        self.kinds: dict[float, str] = {}
        self.batches: list[int] = []

    def predict(self, lasts: Floats, _: Sequence[State]) -> Floats:
        return lasts

    def give_up(self) -> None:
        """End the run that waits."""
        self.ends.set()

    def run(self, pieces: Sequence[Piece]) -> list[Reading]:
        self.ends.clear()
        while not self.gate.wait(0.001) and not self.ends.is_set():
            pass
        if self.ends.is_set():
            self.given_up += 1
            raise GivenUpError
        marks = [float(piece.vectors[-1, 0]) for piece in pieces]
        self.batches.append(len(marks))
        for mark in marks:
            if self.kinds.get(mark) == BREAKS:
                raise ValueError(f"cannot read {mark:g}")
        return [self._read(piece, mark) for piece, mark in zip(pieces, marks, strict=True)]

    def _read(self, piece: Piece, mark: float) -> Reading:
        wrong = np.float32(np.nan if self.kinds.get(mark) == SPOILT else 0)
        return Reading(piece.vectors[-1] + wrong, np.full((4, 512), mark, np.float32))


@dataclass
class Room:
    """A worker over the echo, and what was asked of it."""

    engine: Echo = field(default_factory=Echo)
    asked: list[tuple[float, str, asyncio.Task[Prediction]]] = field(default_factory=list)
    cancelled: set[float] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.worker = Worker(queue_limit=6, metrics=Metrics(CollectorRegistry()), batch_limit=4)

    async def start(self) -> None:
        await self.worker.start(
            lambda: Predictor(
                self.engine,
                bank(context(20)),
                100,
                "c" * 64,
                trained=False,
                prefixes=PrefixStates(1 << 20),
            )
        )
        self.worker._pace = LIMIT_S  # whoever comes beside a lone run has come at once

    def ask(self, kind: str, length: int) -> None:
        """Ask with a mark of its own; the same beginning lets contexts share known prefixes."""
        mark = float(len(self.asked) + 2)
        self.engine.kinds[mark] = kind
        vectors = np.ones((length, 768), np.float32)
        vectors[-1] = mark
        asking = self.worker.predict(
            Request(vectors, exclude_context=False),
            timeout_s=0.0005 if kind == LATE else None,
            mirrored=kind == MIRRORED,
        )
        self.asked.append((mark, kind, asyncio.create_task(asking)))

    def cancel(self, number: int) -> None:
        """Let one of the clients leave."""
        if self.asked:
            mark, _, task = self.asked[number % len(self.asked)]
            if task.cancel():
                self.cancelled.add(mark)


ASK = st.tuples(st.sampled_from([GOOD, GOOD, BREAKS, SPOILT, LATE, MIRRORED]), st.integers(1, 4))
STEP = st.one_of(
    ASK, ASK, st.integers(0, 30), st.sampled_from(["hold", "go", "turn", "turn", "wait", "joined"])
)


async def run(steps: list[tuple[str, int] | int | str]) -> Room:
    room = Room()
    await room.start()
    for step in steps:
        match step:
            case (str(kind), int(length)):
                room.ask(kind, length)
            case int(number):
                room.cancel(number)
            case "hold":
                room.engine.gate.clear()
            case "go":
                room.engine.gate.set()
            case "joined":
                room.engine.gate.clear()
                for _ in range(2):
                    room.ask(GOOD, 4)
                    await asyncio.sleep(0.003)
            case "turn":
                await asyncio.sleep(0)
            case _:
                await asyncio.sleep(0.001)
    room.engine.gate.set()
    tasks = [task for _, _, task in room.asked]
    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(*tasks, return_exceptions=True)
    await room.worker.stop()
    return room


def check(room: Room) -> None:
    for mark, kind, task in room.asked:
        if task.cancelled():
            assert mark in room.cancelled
            continue
        error = task.exception()
        if error is None:
            assert kind not in {BREAKS, SPOILT}
            assert np.all(task.result().vector == task.result().vector[0])
            assert task.result().vector[0] == np.float32(mark), "another request's answer"
        elif isinstance(error, OverloadedError):
            pass  # at most so many wait
        elif kind == BREAKS:
            assert str(error) == f"cannot read {mark:g}", "another request's error"
        else:
            own = {SPOILT: NotFiniteError, LATE: DeadlineError}.get(kind)
            assert own is not None, f"{kind} got {error!r}"
            assert isinstance(error, own), f"{kind} got {error!r}"


@settings(deadline=None, max_examples=60)
@given(st.lists(STEP, max_size=40))
def test_every_request_gets_its_own_answer_or_its_own_error(
    steps: list[tuple[str, int] | int | str],
) -> None:
    check(asyncio.run(run(steps)))


def test_the_property_sees_batches_cancellations_and_failures_together() -> None:
    asks: list[tuple[str, int] | int | str] = [(GOOD, 1), (BREAKS, 2), (GOOD, 2), (SPOILT, 2)]
    room = asyncio.run(run(["hold", (GOOD, 3), "wait", *asks, "turn", "turn", 1, "wait", "go"]))
    check(room)
    assert max(room.engine.batches) > 1
    assert room.asked[1][2].cancelled()
    assert [room.asked[i][2].exception() is None for i in (0, 3)] == [True, True]
