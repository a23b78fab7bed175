"""Load, judge, step, save: every command walks the same four steps.

The controller holds no state of its own, so any number of them may run: what makes a command happen
once is the store's compare-and-set. A command that builds on a version somebody saw
(`expected_version`), or that depends on what the gate says, is never retried over a conflict: its
author must look again. `pause` and `abort` mean the same whatever happened meanwhile, so they try
again, a few times.

Time is the store's: two controllers never disagree about how long a stage has lasted.
"""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal

from rollout.errors import Conflict, NoRollout, TooLate
from rollout.judge import Verdict, judge, unreadable
from rollout.machine import (
    AuditEntry,
    IllegalTransition,
    Record,
    begin,
    live,
    next_event,
    step,
    tiers_after,
)
from rollout.orders import Order, Refused, Result, Status, Verb, describe
from rollout.plan import Plan
from rollout.snapshot import Frozen, Position, Snapshot, Tier
from rollout.store.port import (
    Applied,
    Change,
    Journal,
    Late,
    Moved,
    Observations,
    Repeated,
    Store,
    Stored,
)
from rollout.tally import CountsError, StageTally, tally
from rollout.tiers import merge_tiers, table_changes

CURRENT: Final = "current"
ATTEMPTS: Final = 5
KEPT_SAMPLES: Final = 1000
FIRST: Final = Position(1, 1)
UNCHANGED: Final = "nothing was changed"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a command would make of the present record."""

    before: Record | None
    after: Record
    message: str
    verdict: Verdict | None = None


class Kept(Frozen):
    """What is kept under an idempotency key: what was asked, and what it led to."""

    asked: str
    result: Result


@dataclass(frozen=True, slots=True)
class History:
    """All that is known of one rollout: what a report is made of."""

    record: Record
    observations: Observations
    journal: Journal
    now: float


class Controller:
    """The commands of a rollout, over any store.

    `tiers` is the table of the settings; `new_token` draws ids and salts (hexadecimal text).
    Every command raises RolloutError, and only OutcomeUnknown leaves open whether it happened.
    """

    def __init__(
        self,
        store: Store,
        tiers: tuple[Tier, ...],
        *,
        new_token: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._store = store
        self._tiers = tiers
        self._new_token = new_token

    # --- commands --------------------------------------------------------------------------------

    async def start(self, plan: Plan, order: Order) -> Result:
        """Enter the first stage of `plan`. Raises IllegalTransition, CannotStart.

        Inactive tiers that the settings add, change or drop are named in the answer's message.
        """

        async def decide(stored: Stored) -> Decision:
            held = stored.record
            if held and not held.ended:
                raise IllegalTransition(
                    f"start is illegal: {held.id} is {held.state} in its stage "
                    f"{held.stage.name!r}, and one rollout runs at a time"
                )
            held_tiers = stored.snapshot.tiers if stored.snapshot else ()
            tiers = merge_tiers(self._tiers, held_tiers)
            record = begin(
                plan,
                tiers,
                id_=f"{plan.name}-{self._new_token()[:8]}",
                salt=self._new_token(),
                now=stored.now,
            )
            changes = table_changes(held_tiers, tiers) if held_tiers else ()
            told = f"; the tier table changes: {', '.join(changes)}" if changes else ""
            return Decision(None, record, f"{record.id} entered {_stage(record)}{told}")

        return await self._carry_out("start", plan.model_dump_json(), order, decide)

    async def advance(self, rollout: str, order: Order) -> Result:
        """Enter the next stage, or finish. Raises Refused unless the gate of this one is open."""

        async def decide(stored: Stored) -> Decision:
            record = _held(stored, rollout)
            event = next_event(record)
            step(record, event, stored.now)  # an illegal event is refused before the gate is asked
            _, verdict = await self._judged(record, stored.now)
            if verdict.kind != "PASS":
                raise Refused(
                    f"{record.id} stays in {_stage(record)}, {verdict.reason}; nothing was changed",
                    verdict,
                )
            after = step(record, event, stored.now, verdict=verdict)
            told = (
                f"{record.id} succeeded: {record.plan.candidate} is active"
                if event == "finish"
                else f"{record.id} entered {_stage(after)}"
            )
            return Decision(record, after, told, verdict)

        return await self._carry_out("advance", rollout, order, decide)

    async def pause(self, rollout: str, order: Order) -> Result:
        """Freeze the weight."""
        return await self._plain("pause", rollout, order, "is paused in", ATTEMPTS)

    async def resume(self, rollout: str, order: Order) -> Result:
        """Go on in the same stage."""
        return await self._plain("resume", rollout, order, "goes on in", 1)

    async def abort(self, rollout: str, order: Order) -> Result:
        """Take all traffic off the candidate, for good."""
        return await self._plain("abort", rollout, order, "was aborted in", ATTEMPTS)

    # --- questions -------------------------------------------------------------------------------

    async def status(self) -> Status:
        """Say where everything stands, and what the gate says now."""
        stored = await self._store.load()
        journal = await self._store.journal()
        record = stored.record
        figures = verdict = None
        if record:
            figures, verdict = await self._judged(record, stored.now)
        return Status(
            version=str(stored.position) if stored.position else None,
            now=stored.now,
            tiers=stored.snapshot.tiers if stored.snapshot else self._tiers,
            rollout=describe(record) if record else None,
            verdict=verdict if record and not record.ended else None,
            tally=figures,
            gateways=journal.heartbeats,
        )

    async def history(self, rollout: str) -> History:
        """Gather what a report is made of. Raises NoRollout."""
        stored = await self._store.load()
        record = _held(stored, rollout)
        visited = [visit.stage for visit in record.visits]
        seen = await self._store.observations(
            record.id, record.evidence_epoch, visited, samples=KEPT_SAMPLES
        )
        return History(record, seen, await self._store.journal(), stored.now)

    async def journal(self) -> Journal:
        """Read the audit and the heartbeats."""
        return await self._store.journal()

    async def ready(self) -> None:
        """Return when the store answers. Raises StoreUnavailable."""
        await self._store.load()

    async def close(self) -> None:
        """Give the store's connections back."""
        await self._store.close()

    # --- the four steps --------------------------------------------------------------------------

    async def _plain(
        self,
        event: Literal["pause", "resume", "abort"],
        rollout: str,
        order: Order,
        told: str,
        attempts: int,
    ) -> Result:
        meant = rollout

        async def decide(stored: Stored) -> Decision:
            nonlocal meant
            record = _held(stored, meant)
            meant = record.id  # `current` is who it was at first: never the next one, tried again
            after = step(record, event, stored.now)
            return Decision(record, after, f"{record.id} {told} {_stage(after)}")

        return await self._carry_out(event, rollout, order, decide, attempts)

    async def _carry_out(
        self,
        command: Verb,
        subject: str,
        order: Order,
        decide: Callable[[Stored], Awaitable[Decision]],
        attempts: int = 1,
    ) -> Result:
        key = order.idempotency_key or self._new_token()
        for left in reversed(range(attempts)):
            stored = await self._store.load(key)
            if stored.outcome is not None:
                return _repeated(stored.outcome, command, subject)
            if order.expected_version and order.expected != stored.position:
                raise _conflict(order, stored.position)
            decision = await decide(stored)
            snapshot = _next_snapshot(stored, decision.after)
            result = _result(command, decision, snapshot)
            if order.dry_run:
                return result.model_copy(update={"outcome": "dry_run"})
            kept = Kept(asked=_asked(command, subject, result), result=result)
            change = Change(
                expected=stored.position,
                deadline_ms=stored.deadline_ms,
                snapshot=snapshot,
                record=decision.after,
                entry=_entry(command, order, decision, snapshot),
                idempotency_key=key,
                outcome=kept.model_dump_json(),
            )
            match await self._store.commit(change):
                case Applied():
                    return result
                case Repeated(outcome):
                    return _repeated(outcome, command, subject)
                case Late():
                    raise TooLate(f"{command} reached the store after its deadline: {UNCHANGED}")
                case Moved(current) if order.expected_version or not left:
                    raise _conflict(order, current)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _judged(self, record: Record, now: float) -> tuple[StageTally | None, Verdict]:
        """Judge the stage that `record` is in, or was left in."""
        stage = record.stage
        seen = await self._store.observations(record.id, record.evidence_epoch, [stage.name])
        try:
            figures = tally(stage, seen.counts[stage.name])
        except CountsError as error:
            return None, unreadable(str(error))
        visit = record.visits[-1]
        elapsed_s = (visit.left_at or now) - visit.entered_at
        return figures, judge(stage, figures, record.plan, elapsed_s)


# --- the words of a transition -------------------------------------------------------------------


def _held(stored: Stored, rollout: str) -> Record:
    """Give the record if it is the one that `rollout` names. Raises NoRollout."""
    record = stored.record
    if record is None:
        raise NoRollout("there is no rollout yet: start one")
    if rollout not in (CURRENT, record.id):
        raise NoRollout(f"there is no rollout {rollout!r}: the current one is {record.id!r}")
    return record


def _next_snapshot(stored: Stored, record: Record) -> Snapshot:
    before = stored.position
    after = Position(before.epoch, before.version + 1) if before else FIRST
    return Snapshot(
        epoch=after.epoch,
        version=after.version,
        tiers=tiers_after(record),
        rollout=live(record),
        changed_at=stored.now,
    )


def _result(command: Verb, decision: Decision, snapshot: Snapshot) -> Result:
    return Result(
        outcome="applied",
        command=command,
        version=str(snapshot.position),
        rollout=decision.after.id,
        state=decision.after.state,
        stage=decision.after.stage.name,
        message=decision.message,
        verdict=decision.verdict,
    )


def _entry(command: Verb, order: Order, decision: Decision, snapshot: Snapshot) -> AuditEntry:
    before, after = decision.before, decision.after
    return AuditEntry(
        at=snapshot.changed_at,
        actor=order.actor,
        command=command,
        reason=order.reason,
        rollout=after.id,
        state_before=before.state if before else "none",
        state_after=after.state,
        stage_before=before.stage.name if before else "-",
        stage_after=after.stage.name,
        epoch=snapshot.epoch,
        version=snapshot.version,
        note=decision.verdict.reason if decision.verdict else "",
    )


def _asked(command: Verb, subject: str, result: Result) -> str:
    """Say what was asked in one way: `current` is the id of the rollout that the command met."""
    return f"{command} {result.rollout if subject == CURRENT else subject}"


def _repeated(outcome: str, command: Verb, subject: str) -> Result:
    """Hand out the first outcome again. Raises Conflict when the key was another command's."""
    kept = Kept.model_validate_json(outcome)
    if kept.asked != _asked(command, subject, kept.result):
        raise Conflict(
            f"this idempotency key was used for another command ({kept.result.command} of "
            f"{kept.result.rollout}): {UNCHANGED}; draw a new key for each command"
        )
    return kept.result.model_copy(update={"outcome": "repeated"})


def _conflict(order: Order, current: Position | None) -> Conflict:
    found = f"at version {current}" if current else "empty"
    wanted = (
        f"version {order.expected_version} was expected"
        if order.expected_version
        else ("somebody else's command came in between")
    )
    return Conflict(f"the store is {found}, but {wanted}: {UNCHANGED}; look at the status again")


def _stage(record: Record) -> str:
    stage = record.stage
    return f"stage {stage.name} ({stage.weight:g} % {stage.mode})"
