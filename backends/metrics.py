"""What a model server measures beside its HTTP requests. Labels come from closed sets."""

import functools
from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from backends.predictor import Task
from backends.serving import instruments
from backends.statistics import SECOND_NS, Tally

LENGTH_BORDERS: Final = (100, 200, 350, 500)
SIZES: Final = (1, 2, 4, 8, 16, 32, 64)
SECONDS: Final = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0, 10.0, 30.0)


class Metrics:
    """The instruments of one app, in its registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.queue_wait = Histogram(
            "backend_queue_wait_seconds",
            "From a request's admission to its turn, by vectors in its window",
            ("length",),
            buckets=SECONDS,
            registry=registry,
        )
        self._engine = Histogram(
            "backend_engine_seconds",
            "The engine's time for a batch, by vectors in its longest window",
            ("length",),
            buckets=SECONDS,
            registry=registry,
        )
        self._search = Histogram(
            "backend_search_seconds",
            "The bank's time for the neighbours of a batch's predictions",
            buckets=SECONDS,
            registry=registry,
        )
        self._batch_size = Histogram(
            "backend_batch_size_requests",
            "Requests that the engine read together, by vectors in the longest window",
            ("length",),
            buckets=SIZES,
            registry=registry,
        )
        self._vectors = Counter(
            "backend_vectors",
            "Vectors of batches: read; known (skipped, their prefix's state was kept); padding "
            "(what an engine that pads would read besides)",
            ("kind",),
            registry=registry,
        )
        self._prefixes = instruments.Counter(
            "backend_prefix_lookups",
            "Requests by what the known prefixes did for them; slid: longer than the window",
            ("outcome", "length"),
            registry=registry,
        )
        self.executions: dict[int, Tally] = {}
        """The engine's runs by how many requests each read."""
        self.prefix_bytes = Gauge(
            "backend_prefix_states_bytes", "Bytes of the kept prefixes' states", registry=registry
        )
        self.in_flight = 0
        """Requests that wait or run."""
        Gauge(
            "backend_in_flight_requests", "Requests that wait or run", registry=registry
        ).set_function(lambda: self.in_flight)
        self.predictions = instruments.Counter(
            "backend_predictions", "Requests answered", registry=registry
        ).labels()
        self.errors = Counter(
            "backend_errors", "Requests refused or failed", ("kind",), registry=registry
        )
        self.ready = Gauge("backend_ready", "1 when the model is loaded", registry=registry)
        # The children by their labels: `labels` itself costs more than counting.
        self._waits_of = functools.cache(self.queue_wait.labels)
        self._engine_of = functools.cache(self._engine.labels)
        self._batch_size_of = functools.cache(self._batch_size.labels)
        self._vectors_of = functools.cache(self._vectors.labels)
        self._prefixes_of = functools.cache(self._prefixes.labels)

    def prefix(self, outcome: str, task: Task) -> None:
        """Count what the known prefixes did for a request."""
        self._prefixes_of(outcome, length_label(len(task.question.window))).inc()

    def waited(self, task: Task, seconds: float) -> None:
        """Count a request's wait for its turn."""
        self._waits_of(length_label(len(task.question.window))).observe(seconds)

    def batch(self, tasks: Sequence[Task], engine_s: float, search_s: float) -> None:
        """Count what the engine read together."""
        label = length_label(max(len(task.question.window) for task in tasks))
        self._engine_of(label).observe(engine_s)
        self._search.observe(search_s)
        self._batch_size_of(label).observe(len(tasks))
        self.executions.setdefault(len(tasks), Tally()).add(int(engine_s * SECOND_NS))
        lengths = [task.length for task in tasks]
        self._vectors_of("read").inc(sum(lengths))
        self._vectors_of("padding").inc(max(lengths) * len(lengths) - sum(lengths))
        self._vectors_of("known").inc(sum(task.known.length for task in tasks))


def length_label(length: int) -> str:
    """Name the bucket that a window of `length` vectors falls in: `<=100` to `>500`."""
    for border in LENGTH_BORDERS:
        if length <= border:
            return f"<={border}"
    return f">{LENGTH_BORDERS[-1]}"
