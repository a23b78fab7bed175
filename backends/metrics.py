"""What a model server measures beside its HTTP requests. Labels come from closed sets."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LENGTH_BORDERS: Final = (100, 200, 350, 500)
SECONDS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0, 10.0, 30.0)


class Metrics:
    """The instruments of one app, in its registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.queue_wait = Histogram(
            "backend_queue_wait_seconds",
            "From a request's admission to its turn",
            buckets=SECONDS,
            registry=registry,
        )
        self.engine = Histogram(
            "backend_engine_seconds",
            "Model and neighbours of one request, by vectors in its window",
            ("length",),
            buckets=SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "backend_in_flight_requests", "Requests that wait or run", registry=registry
        )
        self.predictions = Counter("backend_predictions", "Requests answered", registry=registry)
        self.errors = Counter(
            "backend_errors", "Requests refused or failed", ("kind",), registry=registry
        )
        self.ready = Gauge("backend_ready", "1 when the model is loaded", registry=registry)


def length_label(length: int) -> str:
    """Name the bucket that a window of `length` vectors falls in: `<=100` to `>500`."""
    for border in LENGTH_BORDERS:
        if length <= border:
            return f"<={border}"
    return f">{LENGTH_BORDERS[-1]}"
