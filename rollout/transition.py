"""From a decision to the change that a store applies, and to the words that a person gets. Pure."""

from dataclasses import dataclass, replace
from typing import Final, Self

from rollout.errors import Conflict
from rollout.forecast import Forecast
from rollout.machine import AuditEntry, Record, live, tiers_after
from rollout.orders import By, Order, Result
from rollout.snapshot import Frozen, Position, Snapshot, Tier
from rollout.store.port import Change, Lease, Stored
from rollout.verdict import Verdict

UNCHANGED: Final = "nothing was changed"
UNKNOWN: Final = "unknown"
"""The state before, in the audit, of a rollout that the store does not remember."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rollout stands: the words of the audit."""

    rollout: str
    state: str
    stage: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What a command or a tick would make of the present state."""

    before: Place
    after: Place
    record: Record | None
    """The record to write; None where there is none."""
    tiers: tuple[Tier, ...]
    verdict: Verdict | None = None
    note: str = ""
    also: str = ""
    """What else a person should know of what was done."""
    forecast: Forecast | None = None

    @classmethod
    def of(
        cls,
        before: Record | None,
        after: Record,
        verdict: Verdict | None = None,
        note: str = "",
        *,
        also: str = "",
        forecast: Forecast | None = None,
    ) -> Self:
        """Decide that `before` becomes `after`."""
        was = _place(before) if before else Place(after.id, "none", "-")
        tiers = tiers_after(after)
        return cls(was, _place(after), after, tiers, verdict, note, also, forecast)


class Kept(Frozen):
    """What is kept under an idempotency key: what was asked, and what it led to."""

    asked: str
    result: Result


@dataclass(frozen=True, slots=True)
class Draft:
    """A change that was thought through and not made yet."""

    snapshot: Snapshot
    record: Record | None
    entry: AuditEntry
    result: Result
    asked: str

    @property
    def would(self) -> Result:
        """What a dry run says."""
        return self.result.model_copy(
            update={"outcome": "dry_run", "message": _conditional(self.result)}
        )

    def change(self, stored: Stored, key: str, lease: Lease | None = None) -> Change:
        """Make the change that builds on `stored`."""
        kept = Kept(asked=self.asked, result=self.result)
        return Change(
            expected=stored.position,
            deadline_ms=stored.deadline_ms,
            snapshot=self.snapshot,
            record=self.record,
            entry=self.entry,
            idempotency_key=key,
            outcome=kept.model_dump_json(),
            lease=lease,
        )


def draft(command: By, subject: str, order: Order, decision: Decision, stored: Stored) -> Draft:
    """Think a decision through: the snapshot, the audit entry and the answer that it leads to."""
    position = stored.next
    snapshot = Snapshot(
        epoch=position.epoch,
        version=position.version,
        tiers=decision.tiers,
        rollout=live(decision.record) if decision.record else None,
        changed_at=stored.now,
    )
    before, after = decision.before, decision.after
    loss = f"{lost_told(stored)}: epoch {position.epoch} begins" if stored.lost else ""
    entry = AuditEntry(
        at=stored.now,
        actor=order.actor,
        command=command,
        reason=order.reason,
        rollout=after.rollout,
        state_before=before.state,
        state_after=after.state,
        stage_before=before.stage,
        stage_after=after.stage,
        epoch=position.epoch,
        version=position.version,
        note="; ".join(filter(None, (decision.note, loss))),
    )
    result = Result(
        outcome="applied",
        command=command,
        version=str(position),
        rollout=after.rollout,
        state=after.state,
        stage=after.stage,
        message="; ".join(filter(None, (_told(command, decision), decision.also, loss))),
        verdict=decision.verdict,
        forecast=decision.forecast,
    )
    return Draft(snapshot, decision.record, entry, result, _asked(command, subject, result))


def orphan(stored: Stored, rollout: str) -> Decision | None:
    """Decide about aborting what only the gateways remember; None where the store knows enough.

    A store that lost its memory may hold no record of the rollout that gateways carry out, or one
    that ended. What they applied says which table was in force: that stays, without a split.
    """
    seen = stored.furthest.applied if stored.lost and stored.furthest else None
    if seen is None:
        return None
    split = seen.rollout
    if stored.record is not None and not stored.record.ended:
        return None
    if split is None or rollout not in ("current", split.id):
        return None
    was = Place(split.id, UNKNOWN, split.stage)
    return Decision(
        before=was,
        after=replace(was, state="aborted"),
        record=None,
        tiers=seen.tiers,
        note="the store holds no record of this rollout: it was known from a gateway's heartbeat",
    )


def placed(record: Record) -> str:
    """Name a record's stage, with its weight."""
    stage = record.stage
    return f"stage {stage.name} ({stage.weight:g} % {stage.mode})"


def lost_told(stored: Stored) -> str:
    """Say what is known of a store that lost its memory."""
    where = f"stands at {stored.position}" if stored.position else "is empty"
    seen = stored.furthest and stored.furthest.position
    other = "something else at " if seen == stored.position else ""
    return f"the store lost its memory: it {where}, and a gateway has applied {other}{seen}"


def repeated(outcome: str, command: By, subject: str) -> Result:
    """Hand out the first outcome again. Raises Conflict when the key was another command's."""
    kept = Kept.model_validate_json(outcome)
    if kept.asked != _asked(command, subject, kept.result):
        raise Conflict(
            f"this idempotency key was used for another command ({kept.result.command} of "
            f"{kept.result.rollout}): {UNCHANGED}; draw a new key for each command"
        )
    return kept.result.model_copy(update={"outcome": "repeated"})


def conflict(order: Order, current: Position | None) -> Conflict:
    """Say that somebody else was there before."""
    found = f"at version {current}" if current else "empty"
    wanted = (
        f"version {order.expected_version} was expected"
        if order.expected_version
        else "somebody else's command came in between"
    )
    return Conflict(f"the store is {found}, but {wanted}: {UNCHANGED}; look at the status again")


# --- words ---------------------------------------------------------------------------------------

_DONE: Final = {
    "start": ("entered", "would enter"),
    "retry": ("entered", "would enter"),
    "advance": ("entered", "would enter"),
    "promote": ("entered", "would enter"),
    "approve": ("was approved in", "would be approved in"),
    "pause": ("is paused in", "would be paused in"),
    "resume": ("goes on in", "would go on in"),
    "abort": ("was aborted in", "would be aborted in"),
    "undo": ("was undone after", "would be undone after"),
}
_SUCCESS: Final = ("succeeded", "would succeed")


def _told(command: By, decision: Decision, mood: int = 0) -> str:
    after, record = decision.after, decision.record
    if decision.before.state != "succeeded" and after.state == "succeeded" and record:
        active = ("is", "would be")[mood]
        return f"{after.rollout} {_SUCCESS[mood]}: {record.plan.candidate} {active} active"
    stage = placed(record) if record else f"stage {after.stage}"
    words = _DONE.get(command)
    return f"{after.rollout} {words[mood] if words else command} {stage}"


def _conditional(result: Result) -> str:
    """Say what was done as what would be done."""
    for done, would in (*_DONE.values(), _SUCCESS):
        head = f"{result.rollout} {done}"
        if result.message.startswith(head):
            rest = result.message.removeprefix(head)
            told = rest.replace(" is active", " would be active", 1)
            told = told.replace("table changes", "table would change", 1)
            return f"{result.rollout} {would}{told.replace(' begins', ' would begin', 1)}"
    return result.message


def _place(record: Record) -> Place:
    return Place(record.id, record.state, record.stage.name)


def _asked(command: By, subject: str, result: Result) -> str:
    """Say what was asked in one way: `current` is the id of the rollout that the command met."""
    if command == "start":
        return f"start {subject}"  # the whole plan
    name, _, option = subject.partition(" ")
    met = result.rollout if name == "current" and command != "retry" else name
    return f"{command} {met} {option}".rstrip()
