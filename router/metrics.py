"""What the gateway measures beside its HTTP requests. Labels come from closed sets."""

from functools import cache, partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Info

from backends.serving import instruments
from backends.serving.instruments import Histogram
from router.breaker import Breaker, Circuit

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
            "gateway_redis_up",
            "1 when the store answered the last time it was asked",
            registry=registry,
        )


class FleetMetrics:
    """How the replicas of the arms are, and what is tried again. A replica's name is its number."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.tries = instruments.Counter(
            "gateway_upstream_tries",
            "Requests sent to one replica on behalf of a client, by how they ended (ok: answered, "
            "or refused as the client's mistake; left: nobody waited for the answer)",
            ("arm", "replica", "outcome"),
            registry=registry,
        )
        self.retries = Counter(
            "gateway_retries",
            "Tries that failed and were worth another, by what came of it (mended, failed; or "
            "there was none: time, budget, nobody well)",
            ("arm", "outcome"),
            registry=registry,
        )
        self.ejections = Counter(
            "gateway_replica_ejections",
            "How often a replica's circuit opened, so that it got no requests for a time",
            ("arm", "replica"),
            registry=registry,
        )
        self._circuit = Gauge(
            "gateway_replica_circuit",
            "1 for the state that a replica's circuit is in; an arm that nobody can stand in for "
            "uses its last replicas whatever their state",
            ("arm", "replica", "state"),
            registry=registry,
        )

    def watch(self, arm: str, replica: str, breaker: Breaker) -> None:
        """Tell the state of a replica's circuit from now on."""
        self.ejections.labels(arm, replica)
        for state in Circuit:
            self._circuit.labels(arm, replica, str(state)).set_function(
                partial(_is_in, breaker, state)
            )


def _is_in(breaker: Breaker, state: Circuit) -> float:
    return float(breaker.state is state)


class Metrics:
    """The instruments of one gateway, in its registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = instruments.Counter(
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
        self.fleet = FleetMetrics(registry)
        self.shed = Counter(
            "gateway_shed",
            "Prediction requests turned away with 503 because too many were under way",
            registry=registry,
        )
        self.in_flight = Gauge(
            "gateway_requests_in_flight",
            "Prediction requests under way, from their whole body to their answer",
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
        self.spool_bytes = Gauge(
            "gateway_spool_bytes",
            "What counts, samples, pending labels and observations of keys take, about, that the "
            "store has not got yet",
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
        self.truths = Counter(
            "gateway_truths",
            "Truths of requests that kept their vectors, by what came of the comparison",
            ("outcome",),
            registry=registry,
        )
        self.labels_queued = Gauge(
            "gateway_labels_queued", "Feedback that waits for the store", registry=registry
        )
        self.config = ConfigMetrics(registry)


@cache
def status_class(status: int) -> str:
    """Name the class of an HTTP status: `2xx`."""
    return f"{status // 100}xx"
