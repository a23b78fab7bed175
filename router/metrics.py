"""What the gateway measures beside its HTTP requests. Labels come from closed sets."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class ConfigMetrics:
    """Which configuration the gateway applies, how old it is, and what it refused."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.age = Gauge(
            "config_age_seconds",
            "Since the store last confirmed the configuration that this gateway applies",
            registry=registry,
        )
        self.version = Info(
            "config_version", "The configuration that this gateway applies", registry=registry
        )
        self.refused = Counter(
            "config_refused",
            "Snapshots not applied: older than the applied one, or naming an arm without a backend",
            ("why",),
            registry=registry,
        )
        self.held = Gauge(
            "gateway_held_at_incumbent",
            "1 while the file hold-at-incumbent stops candidate traffic here",
            registry=registry,
        )
        self.redis_up = Gauge(
            "redis_up", "1 when the store answered the last time it was asked", registry=registry
        )


class Metrics:
    """The instruments of one gateway, in its registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter(
            "gateway_requests",
            "Prediction requests decided, by who answered (- for nobody), why, and how it ended "
            "(left: the client did not wait)",
            ("arm", "reason", "status"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "gateway_request_seconds",
            "From a prediction request's headers to its answer, by who answered",
            ("arm",),
            buckets=SECONDS,
            registry=registry,
        )
        self.upstream_seconds = Histogram(
            "gateway_upstream_seconds",
            "One attempt of one arm on behalf of a client, by outcome",
            ("arm", "outcome"),
            buckets=SECONDS,
            registry=registry,
        )
        self.mirrors = Counter(
            "gateway_mirrors",
            "Mirrors, by what came of them (compared, full, bytes, timeout, error, refused; "
            "abandoned: the client's side of it came to nothing)",
            ("outcome",),
            registry=registry,
        )
        self.mirrors_in_flight = Gauge(
            "gateway_mirrors_in_flight", "Mirrors under way", registry=registry
        )
        self.batches = Counter(
            "gateway_observation_batches",
            "Batches sent to the store (counted, repeat, failed)",
            ("outcome",),
            registry=registry,
        )
        self.dropped = Gauge(
            "gateway_observations_dropped",
            "Counts and pending labels lost since start because the spool was full",
            registry=registry,
        )
        self.access_refused = Counter(
            "gateway_access_refused",
            "Requests refused at the gate: 401 no key or an unknown one, 403 a key without the "
            "right, 400 a path that no one may send",
            ("status",),
            registry=registry,
        )
        self.labels = Counter(
            "gateway_labels", "Feedback, by what came of it", ("outcome",), registry=registry
        )
        self.labels_queued = Gauge(
            "gateway_labels_queued", "Feedback that waits for the store", registry=registry
        )
        self.config = ConfigMetrics(registry)


def status_class(status: int) -> str:
    """Name the class of an HTTP status: `2xx`."""
    return f"{status // 100}xx"
