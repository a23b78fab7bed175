"""What a release engineer can do where something could not be measured. Pure."""

from collections.abc import Iterator, Mapping
from typing import Final

from rollout.verdict import Verdict

_STEPS: Final[Mapping[str, str]] = {
    "counts": "look which gateway runs another version or has another clock (`turnout rollout "
    "status`); `retry` after an abort begins with new counts",
    "sample ratio": "look for what treats the arms' requests differently before they are counted: "
    "a gateway of another version, retries of clients, one arm's gateway restarting",
    "mirror ratio": "look whether every gateway samples: one of another version, or one that "
    "sends nothing to the candidate (hold-at-incumbent)",
    "label ratio": "look whether feedback is sent alike for both arms: a truth must not depend on "
    "who answered",
    "mirror coverage": "give the candidate's servers more room, or the gateways a longer mirror "
    "queue; or mirror fewer requests (the stage's weight or shadow_sample)",
    "label coverage": "look whether feedback still arrives, and within label_window_s; a smaller "
    "min_label_coverage accepts fewer",
    "latency budget": "start the rollout anew, with a latency budget in the plan",
}


def advice(gate: Verdict) -> Iterator[str]:
    """Say what to do about each check that decides and could not measure."""
    for check in gate.checks:
        if check.kind == "ERROR" and check.decides and check.name in _STEPS:
            yield f"What to do about {check.name}: {_STEPS[check.name]}"
