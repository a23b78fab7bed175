"""What a person asks of the controller, and what comes back: the words of its commands. Pure."""

from typing import ClassVar, Literal

from pydantic import Field

from rollout.errors import FrozenNow, RolloutError
from rollout.forecast import Forecast
from rollout.machine import (
    Approval,
    Command,
    Event,
    Hold,
    Record,
    State,
    Visit,
    commands,
    live,
    retriable,
)
from rollout.plan import Plan
from rollout.snapshot import Arm, Frozen, Heartbeat, Mode, Position, Tier
from rollout.tally import StageTally
from rollout.verdict import Verdict

Verb = Literal[
    "start", "retry", "advance", "promote", "approve", "pause", "resume", "abort", "undo"
]
By = Verb | Event
"""What stands in the audit: a person's command, or the event of a tick."""


class Order(Frozen):
    """What comes with every command."""

    actor: str = Field(
        default="anonymous",
        min_length=1,
        max_length=128,
        description="Who asks. Where the controller has API keys, the name of the key instead.",
    )
    reason: str = Field(min_length=1, max_length=1000, description="Why: kept in the audit.")
    idempotency_key: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        description="Sent again with the same key, the command does nothing more.",
    )
    expected_version: str | None = Field(
        default=None,
        pattern=r"^\d{1,15}\.\d{1,15}$",
        description="epoch.version: refused with 409 when the rollout has moved on.",
    )
    dry_run: bool = Field(default=False, description="Say what would happen, and do nothing.")

    @property
    def expected(self) -> Position | None:
        """The expected position, if one was given."""
        return Position.parse(self.expected_version) if self.expected_version else None


class Result(Frozen):
    """What a command led to. `version` is where the store stands after it, as `epoch.version`."""

    outcome: Literal["applied", "repeated", "dry_run"]
    command: By
    version: str
    rollout: str
    state: str
    stage: str
    message: str
    verdict: Verdict | None = None
    forecast: Forecast | None = None
    """Of `start` and `retry`: how long the stages will take."""


class RolloutStatus(Frozen):
    """One rollout as a person wants to see it."""

    id: str
    plan: Plan
    state: str
    incumbent: Arm
    candidate: Arm
    stage: str
    stage_number: int
    """Counted from 1."""
    stages: int
    mode: Mode
    weight: float
    """Percent of the traffic in scope that the candidate gets now; 0 when the rollout has ended."""
    entered_at: float
    started_at: float
    ended_at: float | None
    commands: tuple[Command | Literal["retry"], ...]
    """What a person may ask for now."""
    verdicts: dict[str, Verdict]
    """What the gate of each stage said when the stage was left."""
    guard: Verdict | None
    """What the rollback guard said when the rollout ended; None where nobody asked."""
    evidence_epoch: int
    attempt: int
    retry_of: str | None
    approval: Approval | None
    hold: Hold | None
    identities: dict[Arm, tuple[str, ...]]
    visits: tuple[Visit, ...]
    """Every stage that was entered, and when, in order."""

    @property
    def fired(self) -> Verdict | None:
        """What the guard said, if it ended the rollout."""
        return self.guard if self.guard and self.guard.kind == "FAIL" else None


class Summary(Frozen):
    """One rollout as a line of a list. Times are in Unix seconds."""

    id: str
    state: State
    candidate: Arm
    incumbent: Arm
    stage: str
    started_at: float
    ended_at: float | None
    attempt: int
    retry_of: str | None


class Status(Frozen):
    """Where everything stands. `now` is in Unix seconds on the store's clock."""

    version: str | None
    now: float
    tiers: tuple[Tier, ...]
    rollout: RolloutStatus | None
    verdict: Verdict | None = None
    """What the gate of the present stage says; None when no rollout is under way."""
    next: str | None = None
    """What happens by itself now, or why nothing does."""
    tally: StageTally | None = None
    store_lost: str | None = None
    """Set while the store stands behind what a gateway has applied: what is known of it."""
    leader: str | None = None
    gateways: tuple[Heartbeat, ...] = ()


class Refused(RolloutError):  # noqa: N818 - a decision, not a mistake
    """A command that the gate of the present stage does not allow yet. Nothing was changed."""

    status: ClassVar[int] = 409

    def __init__(self, message: str, verdict: Verdict) -> None:
        super().__init__(message)
        self.verdict = verdict


class FrozenStart(FrozenNow):
    """A rollout that a freeze window keeps from starting now. Nothing was changed."""

    def __init__(self, message: str, forecast: Forecast) -> None:
        super().__init__(message)
        self.forecast = forecast
        """How long its stages will take once it may start."""


def describe(record: Record) -> RolloutStatus:
    """Say where a rollout stands."""
    split = live(record)
    return RolloutStatus(
        id=record.id,
        plan=record.plan,
        state=record.state,
        incumbent=record.incumbent,
        candidate=record.plan.candidate,
        stage=record.stage.name,
        stage_number=record.stage_index + 1,
        stages=len(record.plan.stages),
        mode=record.stage.mode,
        weight=split.weight if split else 0,
        entered_at=record.visits[-1].entered_at,
        started_at=record.started_at,
        ended_at=record.ended_at,
        commands=(*commands(record), *(("retry",) if retriable(record) else ())),
        verdicts=record.verdicts,
        guard=record.guard,
        evidence_epoch=record.evidence_epoch,
        attempt=record.attempt,
        retry_of=record.retry_of,
        approval=record.approval,
        hold=record.hold,
        identities=record.identities,
        visits=record.visits,
    )


def summarise(record: Record) -> Summary:
    """Say in one line where a rollout stands."""
    return Summary(
        id=record.id,
        state=record.state,
        candidate=record.plan.candidate,
        incumbent=record.incumbent,
        stage=record.stage.name,
        started_at=record.started_at,
        ended_at=record.ended_at,
        attempt=record.attempt,
        retry_of=record.retry_of,
    )
