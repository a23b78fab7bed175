"""How a history of a rollout is played on the real stores and on the model, step by step.

`History` is a Hypothesis state machine without rules: the helpers with which rules are written, and
what must hold after every one.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clocked_valkey import ClockedValkey
from hypothesis.stateful import RuleBasedStateMachine, invariant
from modelled_controller import Command, Model
from modelled_life import Life, Stay, Where
from modelled_store import Answer, Draft, Entry, Held, told
from rollout_sides import InMemory, OnValkey, Side, runner

from rollout import measured as measured_module
from rollout.errors import RolloutError
from rollout.freeze import Freeze
from rollout.machine import AuditEntry, Record
from rollout.orders import Order, Result
from rollout.plan import DEFAULT_PLAN, Plan, Stage
from rollout.snapshot import Batch, Cell, Position, Snapshot
from rollout.store.port import Change
from rollout.verdict import Judgement, Kind, Verdict

NOON = 1_790_035_200 // 86_400 * 86_400 + 43_200
BOOTS = ("g1", "g2", "g3")
GATEWAYS_KNOWN = {"phase1": "p1-a", "phase2": "p2-a"}
ENDS = {"aborted", "rolled_back", "undone", "succeeded"}


def plan_of(name: str, *, by_itself: bool = False, **more: Any) -> Plan:
    facts = {"min_duration_s": 0.0, "min_requests": 0}
    stages = (
        Stage(name="shadow", mode="shadow", weight=5, max_requests=40, **facts),
        Stage(name="asked", mode="ab", weight=25, approval=True, approval_timeout_s=60, **facts),
        Stage(name="timed", mode="ab", weight=50, max_duration_s=300, **facts),
        Stage(name="whole", mode="ab", weight=100, **facts),
    )
    return DEFAULT_PLAN.model_copy(
        update={
            "name": name,
            "stages": stages,
            "watermark_s": 0.0,
            "max_retries": 1,
            "on_pass": "advance" if by_itself else "wait",
            **more,
        }
    )


PLANS = (
    plan_of("itself", by_itself=True),
    plan_of("itself-all", by_itself=True, scope="all", on_error="hold"),
    plan_of("person", on_fail="hold", on_inconclusive="rollback"),
    plan_of("iced", by_itself=True, freeze=(Freeze(begins="13:00", ends="14:00"),)),
)


@dataclass
class Gateway:
    """What a gateway remembers: it never goes back."""

    boot: str
    applied: Snapshot | None = None
    beaten: bool = False
    sequence: int = 0
    sent: list[Batch] = field(default_factory=list)
    identities: dict[str, str] = field(default_factory=lambda: dict(GATEWAYS_KNOWN))

    @property
    def place(self) -> Position:
        return self.applied.position if self.applied else Position(0, 0)


def verdict(kind: str) -> Verdict:
    kind_: Kind = kind  # type: ignore[assignment] # one of the four
    return Verdict(kind=kind_, checks=(), reason="as the test says")


def entry_of(entry: AuditEntry) -> Entry:
    ticked = entry.actor == "controller"
    assert entry.reason
    return Entry(
        entry.at, entry.actor, entry.command, "" if ticked else entry.reason, entry.rollout,
        (entry.state_before, entry.state_after), (entry.stage_before, entry.stage_after),
        (entry.epoch, entry.version),
    )  # fmt: skip


def life_of(record: Record) -> Life:
    approval, hold = record.approval, record.hold
    return Life(
        id=record.id,
        salt=record.salt,
        plan=record.plan,
        before=frozenset(tier.arm for tier in record.tiers_before if tier.active),
        began=record.started_at,
        stays=tuple(
            Stay(v.stage, v.entered_at, v.evidence_epoch, v.left_at, v.settled_at)
            for v in record.visits
        ),
        state=record.state,
        at=record.stage_index,
        epoch=record.evidence_epoch,
        approval=approval.actor if approval else None,
        asked=record.asked_at,
        hold=hold.cause if hold else None,
        extended=record.extended,
        known=record.identities,
        left_on={name: one.kind for name, one in record.verdicts.items()},
        attempt=record.attempt,
        retry_of=record.retry_of,
        ended=record.ended_at,
    )


def answer_of(result: Result) -> Answer:
    return Answer(result.command, result.version, result.rollout, result.state, result.stage)


class History(RuleBasedStateMachine):
    """One history, on one store or on both side by side: how steps are taken, what always holds.

    The rules, which say what may happen, are in `test_rollout_histories`.
    """

    server: ClockedValkey
    kinds: tuple[str, ...]
    tried: Counter[str]
    """How often what came of what, over all histories."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = runner()
        self.sides: list[Side] = [
            InMemory() if kind == "memory" else OnValkey(self.server) for kind in self.kinds
        ]
        self.model = Model(NOON, frozenset({"phase1"}))
        self.gateways = {boot: Gateway(boot) for boot in BOOTS}
        self.leases: dict[str, tuple[str, int]] = {}
        self.waiting: list[Draft] = []
        self.dumps: list[tuple[Held, list[Any]]] = []
        self.last: tuple[Command, str] | None = None
        self.requests = 0
        self.reasons = 0
        self.known_ids: set[str] = set()
        self.applied = 0
        """Transitions since what was published was looked at."""
        for side in self.sides:
            self.loop.run(side.open(NOON))
        setattr(measured_module, "judge", self._judge)  # noqa: B010 - the module exports it not

    def teardown(self) -> None:
        for side in self.sides:
            self.loop.run(side.close())
        self.loop.close()

    def _judge(self, _: Plan, seen: Any, elapsed_s: float, **__: Any) -> Judgement:
        """Stand in for the judge, and look at what it is given."""
        assert elapsed_s >= 0
        life = self.model.held.life  # or one that was asked for by name, from the past
        if life and life.live:
            epoch = [stay.stage for stay in life.stays if stay.epoch == life.epoch]
            assert [one.stage.name for one in seen] == epoch
            assert elapsed_s == self.model.now - life.stays[-1].since
        return Judgement(gate=verdict(self.model.gate), guard=verdict(self.model.guard))

    def _each(self, call: Any) -> list[Any]:
        """Have every side do something, and find that all came to the same."""
        found = [self.loop.run(call(side)) for side in self.sides]
        assert all(one == found[0] for one in found), found
        return found

    def _bytes(self) -> list[Mapping[str, object]]:
        return [self.loop.run(side.contents()) for side in self.sides]

    def _unchanged(self, before: list[Mapping[str, object]], but: tuple[str, ...] = ()) -> None:
        for was, now in zip(before, self._bytes(), strict=True):
            for name in was.keys() | now.keys():
                if not name.endswith(but):
                    assert was.get(name) == now.get(name), f"{name} changed"

    # --- commands --------------------------------------------------------------------------------

    def _order(self, command: Command) -> Order:
        return Order(
            actor=command.actor,
            reason=command.reason,
            idempotency_key=command.key,
            expected_version=command.expected,
            dry_run=command.dry,
        )

    async def _ask(self, side: Side, holder: str, command: Command) -> tuple[str, Any]:
        controller, order = side.controllers[holder], self._order(command)
        try:
            match command.verb:
                case "start":
                    assert command.plan is not None
                    result = await controller.start(command.plan, order)
                case "promote":
                    result = await controller.promote(command.target, order, full=command.full)
                case verb:
                    result = await getattr(controller, verb)(command.target, order)
        except RolloutError as error:
            return type(error).__name__, None
        return result.outcome, result

    def _carry_out(
        self,
        command: Command,
        holder: str = "c1",
        *,
        keep_back: bool = False,
        other: Command | None = None,
    ) -> str:
        before = self._bytes()
        marks = [len(side.door.changes) for side in self.sides]
        others: list[tuple[str, Any]] = []

        async def ask(side: Side) -> tuple[str, Any]:
            async def meanwhile() -> None:
                assert other is not None
                others.append(await self._ask(side, "c2", other))

            side.door.keep_back = keep_back
            side.door.meanwhile = meanwhile if other else None
            try:
                return await self._ask(side, holder, command)
            finally:
                side.door.keep_back = False
                side.door.meanwhile = None

        outcome, result = self._each(ask)[0]
        changes = self.sides[0].door.changes[marks[0] :]
        held = len(self.model.held.audit)
        expected, answer, told_other = self._model(command, keep_back, other, changes)
        assert outcome == expected, (command, outcome, expected)
        if answer is not None and not (command.dry and command.verb in ("start", "retry")):
            assert answer_of(result) == answer
        for one in others:
            assert one[0] == told_other
        self.tried[f"{command.verb}: {outcome}"] += 1
        gained = len(self.model.held.audit) - held
        self.applied += gained
        if not gained:
            self._unchanged(before)
        self.last = (command, holder)
        return str(outcome)

    def _model(
        self, command: Command, keep_back: bool, other: Command | None, changes: list[Change]
    ) -> tuple[str, Answer | None, str | None]:
        """Ask the model the same; `changes` say which ids and salts were drawn."""
        model = self.model
        begun = [
            (one.record.id, one.record.salt)
            for one in changes
            if one.record and one.entry.command in ("start", "retry")
        ]
        for id_, salt in begun:
            assert not {id_, salt} & self.known_ids, "ids and salts are drawn anew"
            self.known_ids |= {id_, salt}
        drawn = iter(begun)
        model.begun = lambda: next(drawn, ("?", "?"))
        pending = [other] if other else []
        told_other: list[str] = []

        def commit(draft: Draft) -> str:
            if pending:
                told_other.append(model.carry_out(pending.pop(), model.apply)[0])
            if keep_back:
                self.waiting.append(draft)
                return "OutcomeUnknown"
            return model.apply(draft)

        outcome, answer = model.carry_out(command, commit)
        return outcome, answer, told_other[0] if told_other else None

    def _command(self, verb: str, **more: Any) -> Command:
        self.reasons += 1
        facts = {"key": f"key {self.reasons}", **more}
        return Command(verb, reason=f"reason {self.reasons}", **facts)

    def _expected(self, which: str) -> str | None:
        epoch, version = self.model.held.place or (1, 0)
        stale = {"old": (epoch, version - 1), "new": (epoch, version + 1), "other": (epoch + 1, 1)}
        if which == "right" and self.model.held.place:
            return f"{epoch}.{version}"
        return "{}.{}".format(*stale[which]) if which in stale and version else None

    def _target(self, which: str) -> str:
        lives = list(self.model.held.lives)
        if which == "it" and self.model.held.life:
            return self.model.held.life.id
        return lives[0] if which == "first" and lives else {"none": "nothing"}.get(which, "current")

    # --- what holds always -----------------------------------------------------------------------

    @invariant()
    def the_store_holds_what_the_model_holds(self) -> None:
        held, now = self.model.held, self.model.now
        for side in self.sides:
            stored = self.loop.run(side.door.load("k1"))
            assert (stored.now, stored.position) == (now, held.place)
            assert stored.snapshot is None or told(stored.snapshot) == held.told()
            assert (stored.record and life_of(stored.record)) == held.life
            kept = self.model.kept("k1")
            assert (stored.outcome is not None) == (kept is not None)
            assert (stored.lease and (stored.lease.holder, stored.lease.token)) == (
                self.model.leads()
            )
            assert {one.boot: one.at for one in stored.heartbeats} == {
                boot: one.at for boot, one in held.beats.items()
            }
            assert (stored.lost, stored.next) == (self.model.lost, self.model.next)
            past = self.loop.run(side.door.store.past())
            assert [life_of(one) for one in past] == list(reversed(held.lives.values()))

    @invariant()
    def there_is_one_audit_entry_for_each_transition_and_they_make_a_chain(self) -> None:
        for side in self.sides:
            entries = self.loop.run(side.door.store.journal()).entries
            assert [entry_of(one) for one in entries] == self.model.held.audit
            _check_chain(entries)
            if entries:
                last = Position(entries[-1].epoch, entries[-1].version)
                assert self.loop.run(side.door.load()).position == last

    @invariant()
    def counts_are_the_models(self) -> None:
        by_epoch: dict[tuple[str, int], list[str]] = {}
        for rollout, epoch, stage in self.model.held.counts:
            by_epoch.setdefault((rollout, epoch), []).append(stage)
        for side in self.sides:
            for (rollout, epoch), stages in by_epoch.items():
                seen = self.loop.run(side.door.store.observations(rollout, epoch, stages))
                for stage in stages:
                    counts = self.model.held.counts[rollout, epoch, stage]
                    assert seen.stage(stage).total.total == counts

    @invariant()
    def what_was_published_is_what_is_stored(self) -> None:
        for side in self.sides:
            published = self.loop.run(side.published())
            if published is None:
                continue
            assert len(published) == self.applied
            if published:
                stored = self.loop.run(side.snapshot())
                assert stored is not None
                assert published[-1] == stored.model_dump_json()
        self.applied = 0

    @invariant()
    def a_gateway_that_stands_where_the_store_stands_has_applied_what_it_holds(self) -> None:
        """Or the store is known to have lost its memory."""
        held = self.model.held
        for beat in held.beats.values():
            if beat.place == held.place and beat.applied and told(beat.applied) != held.told():
                assert self.model.lost


def where_of(cell: Cell) -> Where:
    return (cell.rollout, cell.evidence_epoch, cell.stage)


def _check_chain(entries: tuple[AuditEntry, ...]) -> None:
    """Each version follows the one before; each rollout goes on from where it was, one step on."""
    place = None
    standing: dict[str, AuditEntry] = {}
    stages = [stage.name for stage in PLANS[0].stages]
    for entry in entries:
        here = (entry.epoch, entry.version)
        assert (
            place is None
            or here == (place[0], place[1] + 1)
            or (here[0] > place[0] and here[1] == 1)
        )
        place = here
        before = standing.get(entry.rollout)
        standing[entry.rollout] = entry
        if before is None:
            assert entry.state_before in ("none", "unknown")
            assert entry.command in ("start", "retry", "abort")
            continue
        if entry.state_before != "unknown":
            assert entry.state_before == before.state_after
        assert entry.stage_before == before.stage_after
        if before.state_after in ENDS and entry.state_before != "unknown":
            assert (before.state_after, entry.command) == ("succeeded", "undo")
        step = stages.index(entry.stage_after) - stages.index(entry.stage_before)
        if entry.command == "promote":
            assert step >= 0
            assert step > 0 or entry.state_after == "succeeded"
        else:
            assert step == (entry.command == "advance" and entry.state_after == "running")
