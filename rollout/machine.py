"""The life of one rollout: its states, its events, and the one table that says what is legal.

A `Record` is a value. `step` takes a record and an event and returns the next record, or raises
`IllegalTransition` and has changed nothing. What a gateway must do follows from the record alone:
`live` (the split under trial) and `tiers_after` (the table). Nothing here reads a clock, draws a
salt or knows that a store exists.

`advance` and `finish` are one command to a release engineer; here they are two events, because
they lead to two states: `next_event` says which one the present stage allows.
"""

from typing import ClassVar, Final, Literal

from pydantic import Field

from rollout.errors import RolloutError
from rollout.judge import Verdict
from rollout.plan import Plan, Stage
from rollout.snapshot import Arm, Frozen, Live, Tier
from rollout.tiers import check_scope, incumbent_of

State = Literal["running", "paused", "succeeded", "aborted"]
Event = Literal["start", "advance", "finish", "pause", "resume", "abort"]
Before = State | Literal["none"]
"""`none` is the state of a rollout that does not exist yet."""

TRANSITIONS: Final[dict[tuple[Before, Event], State]] = {
    ("none", "start"): "running",
    ("running", "advance"): "running",
    ("running", "finish"): "succeeded",
    ("running", "pause"): "paused",
    ("paused", "resume"): "running",
    ("running", "abort"): "aborted",
    ("paused", "abort"): "aborted",
}
MEANING: Final[dict[Event, str]] = {
    "start": "enters the first stage",
    "advance": "enters the next stage: not from the last one",
    "finish": "leaves the last stage, and the candidate becomes active",
    "pause": "freezes the weight where it is",
    "resume": "goes on in the same stage",
    "abort": "takes all traffic off the candidate, for good",
}


class Visit(Frozen):
    """The time spent in one stage, in Unix seconds."""

    stage: str
    entered_at: float
    left_at: float | None = None


class Record(Frozen):
    """Everything the controller knows of one rollout. `verdicts` holds what each stage was left on.

    `stage_index` stays at the last stage visited when the rollout ends.
    """

    id: str
    plan: Plan
    state: State
    stage_index: int = Field(ge=0)
    evidence_epoch: int = Field(ge=1)
    salt: str
    incumbent: Arm
    started_at: float
    ended_at: float | None = None
    visits: tuple[Visit, ...]
    tiers_before: tuple[Tier, ...]
    verdicts: dict[str, Verdict] = Field(default_factory=dict)

    @property
    def stage(self) -> Stage:
        """The stage that the rollout is in, or was in last."""
        return self.plan.stages[self.stage_index]

    @property
    def ended(self) -> bool:
        """Whether no event is legal any more."""
        return self.state in ("succeeded", "aborted")


class AuditEntry(Frozen):
    """One transition: who did what, why, and where it led. `at` is in Unix seconds."""

    at: float
    actor: str
    command: str
    reason: str
    rollout: str
    state_before: str
    state_after: str
    stage_before: str
    stage_after: str
    epoch: int
    version: int
    note: str = ""


class IllegalTransition(RolloutError):  # noqa: N818 - the name says what was tried
    """An event that the state does not allow. Nothing was changed."""

    status: ClassVar[int] = 409


# --- the life ------------------------------------------------------------------------------------


def begin(plan: Plan, tiers: tuple[Tier, ...], *, id_: str, salt: str, now: float) -> Record:
    """Enter the first stage of `plan`. Raises CannotStart when the table does not allow it."""
    incumbent = incumbent_of(plan.candidate, tiers)
    check_scope(plan.scope, plan.candidate, incumbent, tiers)
    return Record(
        id=id_,
        plan=plan,
        state=TRANSITIONS["none", "start"],
        stage_index=0,
        evidence_epoch=1,
        salt=salt,
        incumbent=incumbent,
        started_at=now,
        visits=(Visit(stage=plan.stages[0].name, entered_at=now),),
        tiers_before=tiers,
    )


def step(record: Record, event: Event, now: float, *, verdict: Verdict | None = None) -> Record:
    """Apply one event at Unix second `now`; `verdict` is what the stage that is left was left on.

    Raises IllegalTransition, which names the state, the event and what is legal.
    """
    if event not in legal(record):
        able = ", ".join(legal(record)) or "nothing: the rollout has ended"
        where = f"{record.state} in its stage {record.stage.name!r}"
        raise IllegalTransition(f"{event} is illegal: {record.id} is {where}; legal is {able}")
    changes: dict[str, object] = {"state": TRANSITIONS[record.state, event]}
    if verdict is not None:
        changes["verdicts"] = {**record.verdicts, record.stage.name: verdict}
    if event in ("advance", "finish", "abort"):
        left = record.visits[-1].model_copy(update={"left_at": now})
        changes["visits"] = (*record.visits[:-1], left)
    if event == "advance":
        stage = record.plan.stages[record.stage_index + 1]
        changes["stage_index"] = record.stage_index + 1
        changes["visits"] = (
            *record.visits[:-1],
            record.visits[-1].model_copy(update={"left_at": now}),
            Visit(stage=stage.name, entered_at=now),
        )
    if event in ("finish", "abort"):
        changes["ended_at"] = now
    return record.model_copy(update=changes)


def legal(record: Record) -> tuple[Event, ...]:
    """List the events that `record` allows, in the table's order."""
    last = record.stage_index == len(record.plan.stages) - 1
    barred: Event = "advance" if last else "finish"
    return tuple(event for state, event in TRANSITIONS if state == record.state and event != barred)


def next_event(record: Record) -> Event:
    """Name the event that the command `advance` means in the present stage."""
    return "finish" if record.stage_index == len(record.plan.stages) - 1 else "advance"


# --- what a gateway must do ----------------------------------------------------------------------


def live(record: Record) -> Live | None:
    """Say which split gateways act on; None once the rollout has ended. A pause keeps the split."""
    if record.ended:
        return None
    stage = record.stage
    return Live(
        id=record.id,
        candidate=record.plan.candidate,
        incumbent=record.incumbent,
        scope=record.plan.scope,
        unit=record.plan.unit,
        salt=record.salt,
        evidence_epoch=record.evidence_epoch,
        stage=stage.name,
        mode=stage.mode,
        weight=stage.weight,
        shadow_sample=stage.shadow_sample,
        label_window_s=record.plan.label_window_s,
    )


def tiers_after(record: Record) -> tuple[Tier, ...]:
    """Give the tier table that holds now.

    Success makes the candidate active, and with `scope: all` the only active one; in every other
    state the table is as it was before.
    """
    if record.state != "succeeded":
        return record.tiers_before
    candidate, alone = record.plan.candidate, record.plan.scope == "all"
    return tuple(
        tier.model_copy(update={"active": tier.arm == candidate or (tier.active and not alone)})
        for tier in record.tiers_before
    )


def mermaid() -> str:
    """Draw the table as a Mermaid state diagram, for the docs."""
    lines = ["stateDiagram-v2"]
    for (before, event), after in TRANSITIONS.items():
        start = "[*]" if before == "none" else before
        lines.append(f"    {start} --> {after}: {event} ({MEANING[event]})")
    ends = sorted(set(TRANSITIONS.values()) - {before for before, _ in TRANSITIONS})
    lines += [f"    {state} --> [*]" for state in ends]
    return "\n".join(lines) + "\n"
