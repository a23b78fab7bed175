"""One request's work: window, prefix, model, neighbours.

`prepare` and `settle` belong to the event loop, which owns the known prefixes; `read` belongs to
the engine's thread. A request that fails fails alone: what its batch's neighbours get is what they
would have got without it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from backends.bank import Asked, Bank, Neighbours
from backends.engine.port import Engine, GivenUpError, Piece, Reading, State, warm
from backends.errors import NotFiniteError
from backends.fingerprint import Prints, prints_of
from backends.prefix import NOTHING, Known, Link, PrefixStates, links_of
from backends.protocol import DIMENSION, Floats, Prediction, PrefixOutcome, Request

NO_STATES: Final = 0


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A request with its window [n, 768] and the window's links (none where no prefix can be).

    `prints` [length, 4]: the fingerprints of the request's vectors, where the links needed them.
    """

    request: Request
    window: Floats
    links: tuple[Link, ...] = ()
    prints: Prints | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A question and the longest prefix of it that is known: what the engine reads is the rest.

    There may be no rest: the very context was read before.
    """

    question: Question
    known: Known = NOTHING

    @property
    def length(self) -> int:
        """Vectors to read."""
        return len(self.question.window) - self.known.length


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What became of a task: a prediction and the state after its window, or what failed."""

    prediction: Prediction | None
    state: State | None = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The outcomes of tasks, in their order; the seconds of the engine and of the bank's search."""

    outcomes: tuple[Outcome, ...]
    engine_s: float
    search_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Predictor:
    """An engine, a bank, and what they are. `window` is in vectors, `checkpoint` a sha256."""

    engine: Engine
    bank: Bank
    window: int
    checkpoint: str
    trained: bool
    prefixes: PrefixStates = field(default_factory=lambda: PrefixStates(NO_STATES))

    def remembers(self, request: Request) -> bool:
        """Whether a prefix of a request's window may be known, or be kept."""
        return self.prefixes.enabled and request.length <= self.window

    def question(self, request: Request, prints: Prints | None = None) -> Question:
        """Cut a request's window, and link it where the predictor `remembers` such.

        `prints` are the fingerprints of the request's vectors, if they have been taken already.
        """
        window = request.context[-self.window :]
        if not self.remembers(request):
            return Question(request, window)
        prints = prints_of(request.context) if prints is None else prints
        return Question(request, window, links_of(prints, self.prefixes.lengths(prints)), prints)

    def prepare(self, question: Question) -> Task:
        """Find what is known of a question's window."""
        return Task(question, self.prefixes.longest(question.links))

    def prefix_outcome(self, task: Task) -> PrefixOutcome:
        """Name what the known prefixes did for a task."""
        if not self.prefixes.enabled:
            return "off"
        if not task.question.links:
            return "slid"
        return "hit" if task.known.length else "miss"

    def read(self, tasks: Sequence[Task]) -> Batch:
        """Read tasks as one batch; one by one when the batch fails as a whole.

        Raises GivenUpError when the engine was told to give it up.
        """
        began = time.perf_counter()
        try:
            readings = self._readings(tasks)
        except GivenUpError:
            raise
        except Exception as error:  # noqa: BLE001 - it belongs to one of these requests
            if len(tasks) == 1:
                return Batch((Outcome(None, error=error),), time.perf_counter() - began)
            alone = [self.read([task]) for task in tasks]
            return Batch(
                tuple(batch.outcomes[0] for batch in alone),
                sum(batch.engine_s for batch in alone),
                sum(batch.search_s for batch in alone),
            )
        read = time.perf_counter()
        outcomes = self._finish(tasks, readings)
        return Batch(outcomes, read - began, time.perf_counter() - read)

    def _readings(self, tasks: Sequence[Task]) -> list[Reading]:
        """Read what is to be read; what is known whole needs no more than its state."""
        pieces: list[Piece] = []
        lasts: list[Floats] = []
        states: list[State] = []
        for task in tasks:
            window, known = task.question.window, task.known
            if task.length:
                pieces.append(Piece(window[known.length :], known.state))
            elif known.state is not None:
                lasts.append(window[-1])
                states.append(known.state)
        read = iter(self.engine.run(pieces) if pieces else ())
        told = map(Reading, self.engine.predict(np.stack(lasts), states) if states else (), states)
        return [next(read if task.length else told) for task in tasks]

    def settle(self, task: Task, outcome: Outcome) -> None:
        """Keep what is now known of a task's window."""
        if task.question.links and outcome.state is not None:
            self.prefixes.keep(task.question.links[-1], outcome.state)

    def warm(self) -> float:
        """Prepare the engine for the first request; return its seconds for one vector, about."""
        warm(self.engine, self.window)
        began = time.perf_counter()
        self.engine.run([Piece(np.zeros((self.window, DIMENSION), np.float32))])
        return (time.perf_counter() - began) / self.window

    def _finish(self, tasks: Sequence[Task], readings: Sequence[Reading]) -> tuple[Outcome, ...]:
        """Find the neighbours of all readings at once; a task that fails here fails alone."""
        asked: list[Asked | Exception] = []
        for task, reading in zip(tasks, readings, strict=True):
            try:
                asked.append(_asked(task.question, reading))
            except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to this request
                asked.append(error)
        found = iter(self.bank.search_all([one for one in asked if isinstance(one, Asked)]))
        answers = [next(found) if isinstance(one, Asked) else one for one in asked]
        return tuple(map(self._outcome, tasks, readings, answers))

    def _outcome(self, task: Task, reading: Reading, found: Neighbours | Exception) -> Outcome:
        if isinstance(found, Exception):
            return Outcome(None, error=found)
        ids, scores = found
        prediction = Prediction(
            vector=reading.vector,
            ids=ids,
            scores=scores,
            length=task.question.request.length,
            window=len(task.question.window),
            checkpoint=self.checkpoint,
            bank=self.bank.identity,
            prefix=self.prefix_outcome(task),
        )
        return Outcome(prediction, reading.state)

    @property
    def facts(self) -> dict[str, Any]:
        """What the model's metadata says about it."""
        engine = self.engine.capabilities
        return {
            "window": self.window,
            "trained": self.trained,
            "weights": "trained weights" if self.trained else "untrained weights",
            "checkpoint": self.checkpoint,
            "bank": self.bank.identity,
            "bank_size": self.bank.size,
            "engine": engine.name,
            "weights_type": engine.weights,
            "precision": engine.precision,
            "device": engine.device,
            "threads": engine.threads,
        }


def _asked(question: Question, reading: Reading) -> Asked:
    """Say what to look for in the bank. Raises NotFiniteError."""
    request = question.request
    if not np.isfinite(reading.vector).all():
        raise NotFiniteError(
            "the engine failed: the model's answer is not finite, though every number of the "
            f"context is (the largest is {np.abs(question.window).max():.3g}; vectors of length 1 "
            "are expected)"
        )
    exclude = None
    if request.exclude_context:
        exclude = prints_of(request.context) if question.prints is None else question.prints
    return Asked(reading.vector, request.top_k, exclude)
