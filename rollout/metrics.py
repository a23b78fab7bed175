"""What a controller measures beside its HTTP requests. Labels come from closed sets."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter

VERBS: Final = ("start", "advance", "pause", "resume", "abort")
OUTCOMES: Final = (
    "applied",
    "repeated",
    "dry_run",
    "refused",
    "conflict",
    "unavailable",
    "unknown",
)


class Metrics:
    """The instruments of one app, in its registry. Every series exists from the start."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.commands = Counter(
            "rollout_commands",
            "Commands by what they led to",
            ("command", "outcome"),
            registry=registry,
        )
        for verb in VERBS:
            for outcome in OUTCOMES:
                self.commands.labels(verb, outcome)
