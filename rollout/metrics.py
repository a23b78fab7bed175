"""What a controller measures beside its HTTP requests. Labels come from closed sets."""

from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from backends.serving.telemetry import BUCKETS_S
from rollout.orders import Verb

VERBS: Final[tuple[Verb, ...]] = get_args(Verb)
OUTCOMES: Final = (
    "applied",
    "repeated",
    "dry_run",
    "refused",
    "conflict",
    "unavailable",
    "unknown",
)
TICKS: Final = ("acted", "stayed", "idle", "fenced", "overtaken", "failed")
REFUSALS: Final = ("400", "401", "403")


class Metrics:
    """The instruments of one app, in its registry. Every series exists from the start."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.commands = Counter(
            "rollout_commands",
            "Commands by what they led to",
            ("command", "outcome"),
            registry=registry,
        )
        self.access_refused = Counter(
            "rollout_access_refused",
            "Requests refused for their API key or their path, by status",
            ("status",),
            registry=registry,
        )
        self.leader = Gauge(
            "rollout_leader", "1 while this controller acts by itself", registry=registry
        )
        self.ticks = Counter(
            "rollout_ticks",
            "Looks at the rollout by what they led to; of the leader, and those that failed",
            ("outcome",),
            registry=registry,
        )
        self.tick_seconds = Histogram(
            "rollout_tick_seconds",
            "How long such a look took, with its lease",
            buckets=BUCKETS_S,
            registry=registry,
        )
        for verb in VERBS:
            for outcome in OUTCOMES:
                self.commands.labels(verb, outcome)
        for outcome in TICKS:
            self.ticks.labels(outcome)
        for status in REFUSALS:
            self.access_refused.labels(status)
