"""Load, judge, step, save: every command walks the same four steps.

The controller holds no state that matters (how high the guard has been is kept with the record at
every transition), so any number of them may run: what makes a command happen once is the store's
compare-and-set. A command that builds on a version somebody saw
(`expected_version`), or that depends on what the gate says, is never retried over a conflict: its
author must look again. `pause` and `abort` mean the same whatever happened meanwhile, so they try
again, a few times.

Time is the store's: two controllers never disagree about how long a stage has lasted.
"""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from rollout import history
from rollout.beginning import begun, thawed
from rollout.errors import MemoryLost, NoRollout, TooLate
from rollout.explain import Situation, explain
from rollout.explanation import Explanation
from rollout.history import History
from rollout.judging.judge import Judgement
from rollout.machine import Command, Detail, IllegalTransition, Record, event_of, step
from rollout.measured import Measurer, nearness_of
from rollout.orders import Order, Refused, Result, Status, Verb, describe
from rollout.pace import RECENT_S
from rollout.plan import Plan
from rollout.snapshot import Tier
from rollout.store.port import (
    Applied,
    Behind,
    Fenced,
    Journal,
    Late,
    Lease,
    Moved,
    Repeated,
    Store,
    Stored,
)
from rollout.tally import StageTally
from rollout.tick import Act, Facts, Move, Stay, models, tick
from rollout.transition import (
    UNCHANGED,
    Decision,
    conflict,
    draft,
    lost_told,
    orphan,
    placed,
    repeated,
)

CURRENT: Final = "current"
ATTEMPTS: Final = 5
ALIVE_S: Final = 10.0
"""How fresh a live gateway's heartbeat is."""
TICKER: Final = "controller"
"""Who acts, in the audit, when nobody asked."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """What a tick did, or why it did nothing."""

    move: Move | None
    result: Result | None = None
    fenced: bool = False


class Look(NamedTuple):
    """What a command's gate was judged on."""

    record: Record
    figures: StageTally | None
    judged: Judgement
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
        self._measurer = Measurer(store)

    # --- commands --------------------------------------------------------------------------------

    async def start(self, plan: Plan, order: Order) -> Result:
        """Enter the first stage of `plan`. Raises IllegalTransition, CannotStart, FrozenNow.

        Inactive tiers that the settings add, change or drop are named in the answer's message.
        """

        async def decide(stored: Stored) -> Decision:
            return await self._begun(plan, stored)

        return await self._carry_out("start", plan.model_dump_json(), order, decide)

    async def retry(self, rollout: str, order: Order) -> Result:
        """Start the plan of a rollout that ended anew: another id and salt, no old evidence."""

        async def decide(stored: Stored) -> Decision:
            before = await self._found(stored, rollout)
            if before.state not in ("aborted", "rolled_back", "undone"):
                raise IllegalTransition(
                    f"retry is illegal: {before.id} is {before.state}; what was aborted, rolled "
                    "back or undone can be tried again"
                )
            if before.attempt > before.plan.max_retries:
                raise IllegalTransition(
                    f"retry is illegal: {before.id} was attempt {before.attempt}, and its plan "
                    f"allows {before.plan.max_retries} retries; `start` begins from the first"
                )
            return await self._begun(before.plan, stored, before)

        return await self._carry_out("retry", rollout, order, decide)

    async def advance(self, rollout: str, order: Order) -> Result:
        """Enter the next stage, or finish. Raises Refused unless the gate of this one is open.

        Raises FrozenNow in a freeze window, and Refused while an approval is missing.
        """
        looks: list[Look] = []

        async def decide(stored: Stored) -> Decision:
            record = _held(stored, rollout)
            event = event_of("advance", record)  # what is illegal is refused before the gate
            thawed(record, stored.now)
            judged = await self._looked(record, stored.now, looks)
            verdict = judged.gate
            if verdict.kind != "PASS":
                raise Refused(
                    f"{record.id} stays in {placed(record)}, {verdict.reason}; {UNCHANGED}", verdict
                )
            if record.stage.approval and record.approval is None:
                raise Refused(
                    f"{record.id} stays in {placed(record)}: its gate has passed, but an approval "
                    f"is missing (`turnout rollout approve`); {UNCHANGED}",
                    verdict,
                )
            after = step(record, event, stored.now, Detail(verdict=verdict, guard=judged.guard))
            return Decision.of(record, after, verdict, verdict.reason)

        return await self._remembered(
            await self._carry_out("advance", rollout, order, decide), looks
        )

    async def promote(self, rollout: str, order: Order, *, full: bool = False) -> Result:
        """Enter the next stage, or the last one, without waiting for the gate.

        What the gate said is kept in the audit. Raises FrozenNow in a freeze window.
        """
        looks: list[Look] = []

        async def decide(stored: Stored) -> Decision:
            record = _held(stored, rollout)
            event = event_of("promote", record)
            thawed(record, stored.now)
            judged = await self._looked(record, stored.now, looks)
            verdict = judged.gate
            to = len(record.plan.stages) - 1 if full and not record.last else None
            after = step(
                record, event, stored.now, Detail(verdict=verdict, guard=judged.guard, to=to)
            )
            note = f"without waiting for the gate, which said {verdict.kind}: {verdict.reason}"
            return Decision.of(record, after, verdict, note)

        subject = f"{rollout} --full" if full else rollout
        return await self._remembered(
            await self._carry_out("promote", subject, order, decide), looks
        )

    async def approve(self, rollout: str, order: Order) -> Result:
        """Agree that the present stage may be left."""
        return await self._plain("approve", rollout, order)

    async def pause(self, rollout: str, order: Order) -> Result:
        """Freeze the weight; the rollback guard stays armed."""
        return await self._plain("pause", rollout, order, ATTEMPTS)

    async def resume(self, rollout: str, order: Order) -> Result:
        """Go on in the same stage, after a pause or a hold."""
        return await self._plain("resume", rollout, order)

    async def abort(self, rollout: str, order: Order) -> Result:
        """Take all traffic off the candidate, for good; also when the store lost its memory."""
        return await self._plain("abort", rollout, order, ATTEMPTS)

    async def undo(self, rollout: str, order: Order) -> Result:
        """Bring the tier table back to what it was before a rollout that succeeded."""
        return await self._plain("undo", rollout, order)

    # --- by itself -------------------------------------------------------------------------------

    async def tick(self, lease: Lease) -> Ticked:
        """Look once, and take at most one step, as long as `lease` is held; remember some looks.

        Raises RolloutError when the store is lost; what happened then shows at the next tick.
        """
        stored = await self._store.load()
        record = stored.record
        if record is None or record.ended:
            return Ticked(None)
        figures, judged = await self._measurer.judged(record, stored.now)
        move = self._move(stored, record, figures, judged)
        ticked = await self._act(stored, record, move, judged.guard_high, lease)
        acts = ticked.result is not None
        await history.keep_look(self._store, record, figures, judged, stored.now, acts=acts)
        return ticked

    async def _act(
        self, stored: Stored, record: Record, move: Move, high: float, lease: Lease
    ) -> Ticked:
        if isinstance(move, Stay):
            return Ticked(move)
        detail = move.detail.model_copy(update={"guard_high": high})
        after = step(record, move.event, stored.now, detail)
        decision = Decision.of(record, after, move.detail.verdict, move.reason)
        order = Order(actor=TICKER, reason=move.reason[:1000])
        made = draft(move.event, record.id, order, decision, stored)
        key = f"tick:{record.id}:{stored.position}"
        outcome = await self._store.commit(made.change(stored, key, lease))
        if isinstance(outcome, Applied):
            return Ticked(move, made.result)
        return Ticked(move, fenced=isinstance(outcome, Fenced))

    async def lead(self, holder: str, ttl_s: float) -> Lease | None:
        """Take or renew the lease of the one that acts by itself; None while another has it."""
        return await self._store.lead(holder, ttl_s)

    async def resign(self, lease: Lease) -> None:
        """Give the lease back."""
        await self._store.resign(lease)

    # --- questions -------------------------------------------------------------------------------

    async def status(self) -> Status:
        """Say where everything stands, what the gate says, and what happens next."""
        stored = await self._store.load()
        record = stored.record
        figures = judged = move = None
        if record:
            figures, judged = await self._measurer.judged(record, stored.now)
            move = self._move(stored, record, figures, judged)
        live = record is not None and not record.ended
        return Status(
            version=str(stored.position) if stored.position else None,
            now=stored.now,
            tiers=stored.snapshot.tiers if stored.snapshot else self._tiers,
            rollout=describe(record) if record else None,
            verdict=judged.gate if judged and live else None,
            next=_said(move) if live and move else None,
            tally=figures,
            store_lost=lost_told(stored) if stored.lost else None,
            leader=stored.lease.holder if stored.lease else None,
            gateways=stored.heartbeats,
        )

    async def rollouts(self) -> tuple[Record, ...]:
        """List the rollouts that are remembered, newest first."""
        return await self._store.past()

    async def rollout(self, rollout: str) -> Record:
        """Give the record of one rollout, also of one that ended. Raises NoRollout."""
        return await self._found(await self._store.load(), rollout)

    async def explain(self, rollout: str) -> Explanation:
        """Say why a rollout is where it is, and what is missing. Raises NoRollout."""
        stored = await self._store.load()
        record = await self._found(stored, rollout)
        live = not record.ended
        seen = await self._measurer.measured(record, stored.now, RECENT_S if live else 0.0)
        figures, judged = seen.figures, seen.judgement
        journal = await self._store.journal()
        return explain(
            Situation(
                record=record,
                now=stored.now,
                position=stored.position,
                alive=stored.alive(ALIVE_S),
                leader=stored.lease.holder if stored.lease else None,
                store_lost=lost_told(stored) if stored.lost else None,
                figures=figures,
                judgement=judged,
                move=self._move(stored, record, figures, judged) if live else None,
                entries=tuple(entry for entry in journal.entries if entry.rollout == record.id),
                ticker=TICKER,
                pace=await self._measurer.pace(record, seen) if live else None,
                nearness=nearness_of(record, seen),
            )
        )

    async def history(self, rollout: str) -> History:
        """Gather what a report is made of. Raises NoRollout."""
        stored = await self._store.load()
        record = await self._found(stored, rollout)
        _, judged = await self._measurer.judged(record, stored.now)
        return await history.gather(self._store, record, stored.now, judged)

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
        self, command: Command, rollout: str, order: Order, attempts: int = 1
    ) -> Result:
        meant = rollout

        async def decide(stored: Stored) -> Decision:
            nonlocal meant
            if command == "abort" and (found := orphan(stored, rollout)):
                return found
            record = _held(stored, meant)
            meant = record.id  # `current` is who it was at first: never the next one, tried again
            event = event_of(command, record)
            seen = models(beat.identities for beat in stored.alive(ALIVE_S))
            known = {arm: seen[arm] for arm in record.identities if arm in seen}
            after = step(record, event, stored.now, Detail(actor=order.actor, identities=known))
            early = await self._early(record, stored.now) if event == "approve" else ""
            decision = Decision.of(record, after, also=early)
            if stored.lost and stored.furthest and (applied := stored.furthest.applied):
                return replace(decision, tiers=applied.tiers)  # what serves now
            return decision

        return await self._carry_out(command, rollout, order, decide, attempts)

    async def _early(self, record: Record, now: float) -> str:
        """Say what an approval does that nobody waits for."""
        if not record.stage.approval:
            return f"the stage {record.stage.name} asks for no approval: this one changes nothing"
        if record.state == "waiting":
            return ""
        _, judged = await self._measurer.judged(record, now)
        if judged.gate.kind == "PASS":
            return ""
        return (
            f"its gate has not passed yet ({judged.gate.kind}): the approval counts from now on, "
            "and the gate must still pass"
        )

    async def _begun(self, plan: Plan, stored: Stored, before: Record | None = None) -> Decision:
        return await begun(
            self._store, self._tiers, plan, stored, new_token=self._new_token, before=before
        )

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
                return repeated(stored.outcome, command, subject)
            if order.expected_version and order.expected != stored.position:
                raise conflict(order, stored.position)
            _remembers(stored, command)
            made = draft(command, subject, order, await decide(stored), stored)
            if order.dry_run:
                return made.would
            match await self._store.commit(made.change(stored, key)):
                case Applied():
                    return made.result
                case Repeated(outcome):
                    return repeated(outcome, command, subject)
                case Late():
                    raise TooLate(f"{command} reached the store after its deadline: {UNCHANGED}")
                case Moved(current) if order.expected_version or not left:
                    raise conflict(order, current)
                case Behind() if not left:
                    raise conflict(order, stored.position)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _move(
        self, stored: Stored, record: Record, figures: StageTally | None, judged: Judgement
    ) -> Move:
        alive = stored.alive(ALIVE_S)
        facts = Facts(
            gateways=len(alive),
            behind=sum(beat.position != stored.position for beat in alive),
            identities=models(beat.identities for beat in alive),
            requests=figures.requests if figures else 0,
            store_lost=stored.lost,
        )
        return tick(record, judged, stored.now, facts)

    async def _looked(self, record: Record, now: float, looks: list[Look]) -> Judgement:
        """Judge for a command, and add what was seen to `looks`."""
        figures, judged = await self._measurer.judged(record, now)
        looks.append(Look(record, figures, judged, now))
        return judged

    async def _remembered(self, result: Result, looks: list[Look]) -> Result:
        """Keep the look that a stage was left on, so that a report ends where the gate did."""
        if result.outcome == "applied" and looks:
            await history.keep_look(self._store, *looks[-1], acts=True)
        return result

    async def _found(self, stored: Stored, rollout: str) -> Record:
        """Give a record, of the present rollout or of a past one. Raises NoRollout."""
        if stored.record is None or rollout in (CURRENT, stored.record.id):
            return _held(stored, rollout)
        if found := await self._store.past(rollout):
            return found[0]
        raise NoRollout(f"no rollout {rollout!r} is remembered: `turnout rollout list` names them")


def _held(stored: Stored, rollout: str) -> Record:
    """Give the record if it is the one that `rollout` names. Raises NoRollout."""
    record = stored.record
    if record is None:
        raise NoRollout("there is no rollout yet: start one")
    if rollout not in (CURRENT, record.id):
        raise NoRollout(f"{rollout!r} is not the current rollout: that is {record.id!r}")
    return record


def _remembers(stored: Stored, command: Verb) -> None:
    """Refuse to build on a store that lost its memory, but for what takes traffic off."""
    if not stored.lost or command == "abort":
        return
    gone = stored.furthest.applied if stored.furthest else None
    free = (
        gone is not None and gone.rollout is None and (stored.record is None or stored.record.ended)
    )
    if free and command in ("start", "retry"):
        return
    raise MemoryLost(
        f"{lost_told(stored)}: {command} would build on what is gone; `turnout rollout abort` "
        f"brings every gateway back to 0 % first; {UNCHANGED}"
    )


def _said(move: Move) -> str:
    return f"{move.event}: {move.reason}" if isinstance(move, Act) else move.reason
