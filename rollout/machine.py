"""The life of one rollout: its states, its events, and the one table that says what is legal.

A `Record` is a value. `step` takes a record and an event and returns the next record, or raises
`IllegalTransition` and has changed nothing. What a gateway must do follows from the record alone:
`live` (the split under trial) and `tiers_after` (the table). Nothing here reads a clock, draws a
salt or knows that a store exists. `rollout.tick` decides which events happen by themselves.

A command and an event are not the same: `advance` leads to another state in the last stage than
before it, `resume` means something else to a person's pause than to the controller's hold, and a
late approval also releases. `EVENTS_OF` and `event_of` say which event a command means.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar, Final, Literal

from pydantic import Field, model_validator

from rollout.errors import RolloutError
from rollout.marks import marks_of
from rollout.plan import Plan, Stage
from rollout.snapshot import Arm, Frozen, Live, Mark, MarkName, Tier
from rollout.tiers import check_scope, incumbent_of
from rollout.verdict import GUARD, Verdict

State = Literal[
    "running", "waiting", "paused", "held", "succeeded", "aborted", "rolled_back", "undone"
]
Event = Literal[
    "start", "advance", "finish", "promote", "complete", "ask", "approve", "lapse", "reopen",
    "pause", "resume", "hold", "release", "identify", "void", "settle", "rollback", "abort", "undo",
]  # fmt: skip
Before = State | Literal["none"]
"""`none` is the state of a rollout that does not exist yet."""

LIVE: Final[tuple[State, ...]] = ("running", "waiting", "paused", "held")
"""The states in which the candidate gets traffic."""
TRANSITIONS: Final[dict[tuple[Before, Event], State]] = {
    ("none", "start"): "running",
    ("running", "advance"): "running",
    ("running", "finish"): "succeeded",
    **{(before, "promote"): "running" for before in ("running", "waiting", "held")},
    **{(before, "complete"): "succeeded" for before in ("running", "waiting", "held")},
    ("running", "ask"): "waiting",
    ("running", "approve"): "running",
    ("waiting", "approve"): "running",
    ("waiting", "lapse"): "held",
    ("held", "reopen"): "running",
    **{(before, "pause"): "paused" for before in ("running", "waiting", "held")},
    ("paused", "resume"): "running",
    ("running", "hold"): "held",
    ("waiting", "hold"): "held",
    ("held", "release"): "running",
    **{(before, "identify"): before for before in LIVE},
    ("running", "void"): "held",
    ("waiting", "void"): "held",
    ("held", "void"): "held",
    ("paused", "void"): "paused",
    **{(before, "settle"): before for before in LIVE},
    **{(before, "rollback"): "rolled_back" for before in LIVE},
    **{(before, "abort"): "aborted" for before in LIVE},
    ("succeeded", "undo"): "undone",
}
MEANING: Final[dict[Event, str]] = {
    "start": "enters the first stage",
    "advance": "enters the next stage: not from the last one",
    "finish": "leaves the last stage, and the candidate becomes active",
    "promote": "enters a later stage without waiting for the gate",
    "complete": "leaves the last stage without waiting for its gate",
    "ask": "the gate has passed, and an approver is awaited",
    "approve": "an approver agrees that this stage may be left",
    "lapse": "nobody approved in time",
    "reopen": "an approval that came after that",
    "pause": "a person freezes the weight where it is",
    "resume": "goes on in the same stage",
    "hold": "the controller freezes the weight, and says why",
    "release": "a person lets it go on in the same stage",
    "identify": "learns which models the arms compute with",
    "void": "a model has changed: the evidence so far counts no more",
    "settle": "every live gateway has applied the stage: from now on its requests are evidence",
    "rollback": "the guard takes all traffic off the candidate, for good",
    "abort": "a person takes all traffic off the candidate, for good",
    "undo": "the tier table is as it was before the rollout, in one step",
}

Cause = Literal["evidence", "limit", "approval", "model", "error"]
"""Why the controller holds: what was measured, a stage's limit, a late approval, a model that
changed, or what could not be measured."""
Identities = Mapping[str, tuple[str, ...]]
"""Arm -> what its model servers say that they are; more than one while one replaces another."""


class Visit(Frozen):
    """The time spent in one stage under one evidence epoch, in Unix seconds."""

    stage: str
    entered_at: float
    left_at: float | None = None
    evidence_epoch: int = 1
    settled_at: float | None = None
    """Since when every live gateway had applied the stage; what came before is no evidence."""


class Approval(Frozen):
    """Who agreed that the present stage may be left."""

    actor: str
    at: float


class Hold(Frozen):
    """Why the controller holds a rollout, and since when."""

    cause: Cause
    reason: str
    at: float


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
    attempt: int = Field(default=1, ge=1)
    retry_of: str | None = None
    """The id of the attempt before this one."""
    approval: Approval | None = None
    """Of the present stage alone."""
    asked_at: float | None = None
    """Since when an approval is awaited."""
    hold: Hold | None = None
    extended: bool = False
    """Whether a person let the present stage go on past its limit."""
    identities: dict[Arm, tuple[str, ...]] = Field(default_factory=dict)
    """The models that the present evidence is about, as far as they are known."""
    marks: dict[MarkName, Mark] = Field(default_factory=dict)
    """The latencies that are counted against: frozen when the rollout began."""
    guard_high: float = 0.0
    """ln of the highest average e-value of the guard, as far as a transition has kept it."""
    guard: Verdict | None = None
    """What the rollback guard said when the rollout ended; None where nobody asked, as at an
    abort."""

    @model_validator(mode="before")
    @classmethod
    def _parted(cls, raw: object) -> object:
        """Read records in which a rollback kept the guard's verdict in the place of the gate's."""
        if not isinstance(raw, dict) or "guard" in raw:
            return raw
        kept = {
            stage: Verdict.model_validate(one) for stage, one in raw.get("verdicts", {}).items()
        }
        guards = {
            stage: one
            for stage, one in kept.items()
            if one.checks[:1] and one.checks[0].name == GUARD
        }
        if not guards:
            return raw
        gates = {stage: one for stage, one in kept.items() if stage not in guards}
        return raw | {"verdicts": gates, "guard": next(iter(guards.values()))}

    @property
    def stage(self) -> Stage:
        """The stage that the rollout is in, or was in last."""
        return self.plan.stages[self.stage_index]

    @property
    def last(self) -> bool:
        """Whether the present stage is the plan's last one."""
        return self.stage_index == len(self.plan.stages) - 1

    @property
    def ended(self) -> bool:
        """Whether the candidate is on trial no more. Only `undo` may follow, and only success."""
        return self.state not in LIVE


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


class Detail(Frozen):
    """What comes with an event, where the event needs it."""

    actor: str = ""
    verdict: Verdict | None = None
    """What the stage that is left was left on."""
    guard: Verdict | None = None
    """What the rollback guard said then."""
    to: int | None = Field(default=None, ge=0)
    """`promote`: the index of the stage to enter; by default the next one."""
    cause: Cause = "evidence"
    reason: str = ""
    identities: dict[Arm, tuple[str, ...]] = Field(default_factory=dict)
    guard_high: float | None = None
    """What the guard's average e-value had reached (ln): kept with the record."""


# --- the life ------------------------------------------------------------------------------------


def begin(
    plan: Plan,
    tiers: tuple[Tier, ...],
    *,
    id_: str,
    salt: str,
    now: float,
    retry_of: Record | None = None,
    marks: Mapping[MarkName, Mark] | None = None,
) -> Record:
    """Enter the first stage of `plan`. Raises CannotStart when the table does not allow it.

    `marks` are the latencies to count against (`rollout.marks`); by default the budget alone.
    """
    incumbent = incumbent_of(plan.candidate, tiers)
    check_scope(plan.scope, plan.candidate, incumbent, tiers)
    return Record(
        id=id_,
        plan=plan.around(tiers),
        state=TRANSITIONS["none", "start"],
        stage_index=0,
        evidence_epoch=1,
        salt=salt,
        incumbent=incumbent,
        started_at=now,
        visits=(Visit(stage=plan.stages[0].name, entered_at=now),),
        tiers_before=tiers,
        attempt=retry_of.attempt + 1 if retry_of else 1,
        retry_of=retry_of.id if retry_of else None,
        marks=dict(marks_of(plan, {}) if marks is None else marks),
    )


def step(record: Record, event: Event, now: float, detail: Detail | None = None) -> Record:
    """Apply one event at Unix second `now`.

    Raises IllegalTransition, which names the state, the event and what is legal.
    """
    if event not in legal(record):
        raise IllegalTransition(f"{event} is illegal: {_told(record)}")
    detail = detail or Detail()
    changes: dict[str, object] = {"state": TRANSITIONS[record.state, event]}
    if effect := _EFFECTS.get(event):
        changes |= effect(record, now, detail)
    if detail.verdict is not None:
        changes["verdicts"] = {**record.verdicts, record.stage.name: detail.verdict}
    if detail.guard_high is not None and event != "void":
        changes["guard_high"] = detail.guard_high
    return record.model_copy(update=changes)


def legal(record: Record) -> tuple[Event, ...]:
    """List the events that `record` allows, in the table's order."""
    barred: set[Event] = {"advance", "promote"} if record.last else {"finish", "complete"}
    if record.hold is None or record.hold.cause != "approval":
        barred.add("reopen")
    if record.visits[-1].settled_at is not None:
        barred.add("settle")
    return tuple(
        event for state, event in TRANSITIONS if state == record.state and event not in barred
    )


def _told(record: Record) -> str:
    able = ", ".join((*commands(record), *(("retry",) if retriable(record) else ()))) or "nothing"
    if record.ended:
        return f"{record.id} has ended ({record.state}); possible is {able}"
    where = f"{record.state} in its stage {record.stage.name!r}"
    return f"{record.id} is {where}; possible is {able}"


# --- what each event changes ---------------------------------------------------------------------

Effect = Callable[[Record, float, Detail], dict[str, object]]
_CLEARED: Final[Mapping[str, object]] = {
    "approval": None, "asked_at": None, "hold": None, "extended": False,
}  # fmt: skip


def _leave(record: Record, now: float) -> tuple[Visit, ...]:
    *before, last = record.visits
    return (*before, last.model_copy(update={"left_at": now}))


def _enter(record: Record, now: float, detail: Detail) -> dict[str, object]:
    """Enter the next stage or a later one; never one that was visited."""
    place = record.stage_index + 1 if detail.to is None else detail.to
    if not record.stage_index < place < len(record.plan.stages):
        names = [stage.name for stage in record.plan.stages[record.stage_index + 1 :]]
        raise IllegalTransition(
            f"stage number {place + 1} is none that {record.id} could enter: "
            f"ahead lie {', '.join(names)}"
        )
    stage = record.plan.stages[place]
    entered = Visit(stage=stage.name, entered_at=now, evidence_epoch=record.evidence_epoch)
    return {"stage_index": place, "visits": (*_leave(record, now), entered), **_CLEARED}


def _end(record: Record, now: float, detail: Detail) -> dict[str, object]:
    return {
        "visits": _leave(record, now),
        "ended_at": now,
        "guard": detail.guard,
        **_CLEARED,
    }


def _approve(_: Record, now: float, detail: Detail) -> dict[str, object]:
    approval = Approval(actor=detail.actor, at=now)
    return {"approval": approval, "asked_at": None, "hold": None}


def _hold(_: Record, now: float, detail: Detail) -> dict[str, object]:
    held = Hold(cause=detail.cause, reason=detail.reason, at=now)
    return {"hold": held, "asked_at": None}


def _go_on(record: Record, _: float, detail: Detail) -> dict[str, object]:
    past = record.extended or (record.hold is not None and record.hold.cause == "limit")
    known = {**record.identities, **detail.identities}
    return {"hold": None, "extended": past, "identities": known}


def _identify(record: Record, _: float, detail: Detail) -> dict[str, object]:
    return {"identities": {**record.identities, **detail.identities}}


def _settle(record: Record, now: float, _: Detail) -> dict[str, object]:
    *before, last = record.visits
    return {"visits": (*before, last.model_copy(update={"settled_at": now}))}


def _void(record: Record, now: float, detail: Detail) -> dict[str, object]:
    """Begin the present stage again under a new evidence epoch, about the models that are there."""
    epoch = record.evidence_epoch + 1
    again = Visit(stage=record.stage.name, entered_at=now, evidence_epoch=epoch)
    return {
        "evidence_epoch": epoch,
        "visits": (*_leave(record, now), again),
        "identities": {**record.identities, **detail.identities},
        "guard_high": 0.0,
        **_CLEARED,
        "hold": Hold(cause="model", reason=detail.reason, at=now),
    }


_EFFECTS: Final[Mapping[Event, Effect]] = {
    "advance": _enter,
    "promote": _enter,
    "finish": _end,
    "complete": _end,
    "rollback": _end,
    "abort": _end,
    "ask": lambda _record, now, _detail: {"asked_at": now},
    "approve": _approve,
    "reopen": _approve,
    "lapse": _hold,
    "hold": _hold,
    "release": _go_on,
    "resume": _go_on,
    "pause": lambda _record, _now, _detail: {"asked_at": None},
    "identify": _identify,
    "void": _void,
    "settle": _settle,
}

# --- commands ------------------------------------------------------------------------------------

Command = Literal["advance", "promote", "approve", "pause", "resume", "abort", "undo"]
EVENTS_OF: Final[Mapping[Command, tuple[Event, ...]]] = {
    "advance": ("advance", "finish"),
    "promote": ("promote", "complete"),
    "approve": ("approve", "reopen"),
    "pause": ("pause",),
    "resume": ("resume", "release"),
    "abort": ("abort",),
    "undo": ("undo",),
}
"""What a person may ask of a rollout, and the events that this can mean."""


def event_of(command: Command, record: Record) -> Event:
    """Say which event a command means in the state of `record`. Raises IllegalTransition."""
    able = legal(record)
    for event in EVENTS_OF[command]:
        if event in able:
            return event
    raise IllegalTransition(f"{command} is illegal: {_told(record)}")


def commands(record: Record) -> tuple[Command, ...]:
    """List the commands that lead on from `record`.

    An approval where the stage asks for none is legal and leads nowhere: it is not among them.
    """
    able = set(legal(record))
    if not record.stage.approval and record.state == "running":
        able.discard("approve")
    return tuple(name for name, events in EVENTS_OF.items() if not able.isdisjoint(events))


def retriable(record: Record) -> bool:
    """Whether the plan of `record` may be begun anew."""
    ended = record.state in ("aborted", "rolled_back", "undone")
    return ended and record.attempt <= record.plan.max_retries


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
        marks=record.marks,
        strata=record.plan.borders,
        counting=record.visits[-1].settled_at is not None,
    )


def tiers_after(record: Record) -> tuple[Tier, ...]:
    """Give the tier table that holds now.

    Success makes the candidate active, and with `scope: all` the only active one; in every other
    state, also after an undo, the table is as it was before.
    """
    if record.state != "succeeded":
        return record.tiers_before
    candidate, alone = record.plan.candidate, record.plan.scope == "all"
    return tuple(
        tier.model_copy(update={"active": tier.arm == candidate or (tier.active and not alone)})
        for tier in record.tiers_before
    )
