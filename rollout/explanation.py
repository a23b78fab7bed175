"""The document that explains a rollout: `rollout.explain` writes it, everybody reads it. Pure.

It is served as JSON, and the terminal's sentences and tables are made of it alone.
"""

from typing import Literal

from rollout.judging.nearness import Nearness
from rollout.machine import State, Visit
from rollout.snapshot import Arm, Frozen, Mode
from rollout.verdict import Per, Verdict

Name = Literal[
    "store_lost", "no_leader", "no_gateway", "gateway_behind", "held_locally", "counts_dropped",
    "warm_up", "frozen", "no_traffic", "no_labels", "keyless", "waiting", "traffic_stopped",
    "labels_stopped",
]  # fmt: skip
Quantity = Literal["seconds"] | Per
"""What something is missing of."""


class Notice(Frozen):
    """A condition that a release engineer should know of."""

    name: Name
    told: str


Outlook = Literal["projected", "never", "too_early", "undecided"]
"""Whether `seconds` is known, and if not, why: nothing comes in; the stage is too young, or nothing
of it was counted, so that nobody can say; or what came in so far points to no decision."""


class Missing(Frozen):
    """What the gate waits for. `seconds` is None unless the outlook is `projected`."""

    check: str
    quantity: Quantity
    needed: float | None
    """How many more; None where no decision is in sight yet."""
    seconds: float | None
    """At the rate of the last minutes, and after the first of it can be read at all."""
    outlook: Outlook
    told: str


class Acted(Frozen):
    """A transition of the audit: who acted, and why. `at` is in Unix seconds."""

    at: float
    actor: str
    command: str
    reason: str
    note: str
    version: str
    state_after: str
    stage_after: str


class Waiting(Frozen):
    """What has come in and is not read yet. Times are in Unix seconds; None where none waits."""

    requests: int
    """Newer than the watermark."""
    requests_from: float | None
    requests_until: float | None
    """When the first, and the last, of them is read."""
    labels: int
    """Of requests whose label window is open."""
    labels_from: float | None
    labels_until: float | None


class Traffic(Frozen):
    """What came in during the present stage, and how much of it the judge reads."""

    requests: int
    requests_per_s: float | None
    """The mean over the last `seconds`; None where that is too short, or the rollout has ended."""
    seconds: float
    pairs: int
    labels: int
    keyless: int
    keyless_percent: float | None
    """Of the requests in scope, those without a routing key: outside the statistics by key."""
    read: dict[Per, int]
    """What the judge reads of it, which lies behind the watermark and the label window; by
    `unit: key`, the first of each key. Empty where the rollout has ended."""
    waiting: Waiting | None
    quiet_s: float = 0.0
    """How long no request has come in, where so many were to be expected that it is no chance."""
    unlabelled_s: float = 0.0
    """How long no truth has come, likewise."""


class Gateways(Frozen):
    """Those with a fresh heartbeat. The others are names (boots)."""

    alive: int
    behind: tuple[str, ...]
    """They have not applied the present version."""
    held: tuple[str, ...]
    """Their local file stops all candidate traffic there."""
    dropped: int
    """Counts that they lost since they started."""


class Explanation(Frozen):
    """The whole answer. Times are in Unix seconds on the store's clock."""

    now: float
    version: str | None
    rollout: str
    state: State
    candidate: Arm
    incumbent: Arm
    stage: str
    stage_number: int
    stages: int
    mode: Mode
    weight: float
    visit: Visit
    evidence_epoch: int
    headline: str
    because: tuple[str, ...]
    notices: tuple[Notice, ...]
    verdict: Verdict | None
    """The gate's: of the present stage, or the one that the last stage was left on; where it was
    left without one, as by an abort, what its gate says now."""
    guard: Verdict | None
    """The rollback guard's: now, or when the rollout ended by itself. None where nothing could be
    judged."""
    guard_high: float | None
    """ln of the highest average e-value that the guard ever saw."""
    missing: tuple[Missing, ...]
    earliest_s: float | None
    """Until all that is missing has come in, at the present rate; None: not at this rate."""
    next: str | None
    """What the next look leads to; None when the rollout has ended."""
    leader: str | None
    """The controller that looks."""
    last: Acted | None
    """The last transition of this rollout."""
    last_person: Acted | None
    """The last one that a person asked for."""
    traffic: Traffic | None
    nearness: Nearness | None
    """Cosines to the truth in the present stage, or the last one, as the report has them: no check
    uses them. None where the counts cannot be read."""
    gateways: Gateways
