"""Any history of commands, ticks, losses and repeats: both stores, and a model of them, agree.

Hypothesis draws histories; the model says what each step of one must lead to. In the default run
they are few and short; `TURNOUT_HISTORIES=1000 TURNOUT_HISTORY_STEPS=50` draws as many for each of
the stores, and prints what came of what.
"""

import copy
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from clocked_valkey import ClockedValkey, clocked_valkey
from histories import BOOTS, NOON, PLANS, History, answer_of, where_of
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test
from modelled_store import Beat, Held
from rollout_sides import HOLDERS, Side

from rollout import measured as measured_module
from rollout.errors import RolloutError
from rollout.plan import Plan
from rollout.snapshot import Batch, Cell, Heartbeat, Pending, Snapshot, Vectors
from rollout.snapshot import Counter as Name
from rollout.store.port import Lease, Moved

HISTORIES = int(os.environ.get("TURNOUT_HISTORIES", "6"))
STEPS = int(os.environ.get("TURNOUT_HISTORY_STEPS", "30"))
LEASE_S = 4.5
WINDOW_S = 1800.5
TOP = (5, 3, 1)


class Histories(History):
    """What may happen."""

    @initialize(plan=st.sampled_from((*PLANS, None)))
    def begin_well(self, plan: Plan | None) -> None:
        if plan:
            self.begin(plan)
            self.all_goes_well(2, "INCONCLUSIVE")

    @rule(
        verb=st.sampled_from(
            ["advance", "advance", "promote", "approve", "pause", "resume", "resume", "abort",
             "undo", "retry", "start"]
        ),
        plan=st.sampled_from(PLANS),
        named=st.sampled_from(["current", "current", "it", "it", "first", "none"]),
        version=st.sampled_from(["", "", "", "right", "right", "old", "new", "other"]),
        key=st.sampled_from(["its own", "its own", None, "k1", "k2"]),
        actor=st.sampled_from(["ann", "bob"]),
        holder=st.sampled_from(HOLDERS),
        fate=st.sampled_from(["", "", "", "", "dry", "kept back"]),
        full=st.booleans(),
    )  # fmt: skip
    def commands(
        self, verb: str, plan: Plan, named: str, version: str, key: str | None, actor: str,
        holder: str, fate: str, full: bool,
    ) -> None:  # fmt: skip
        command = self._command(
            verb,
            target=self._target(named) if verb != "start" else "current",
            plan=plan if verb == "start" else None,
            expected=self._expected(version),
            actor=actor,
            dry=fate == "dry",
            full=full and verb == "promote",
            **({} if key == "its own" else {"key": key}),
        )
        self._carry_out(command, holder, keep_back=fate == "kept back")

    @precondition(lambda self: self.model.held.life is None or not self.model.held.life.live)
    @rule(plan=st.sampled_from(PLANS))
    def begin(self, plan: Plan) -> None:
        self._carry_out(self._command("start", plan=plan))

    @precondition(lambda self: self.last is not None)
    @rule(again=st.sampled_from(["the same", "another reason", "another verb"]))
    def send_again(self, again: str) -> None:
        assert self.last is not None
        command, holder = self.last
        if again == "another reason":
            command = replace(command, reason="other words", actor="eve")
        elif again == "another verb":
            command = replace(command, verb="abort", plan=None, full=False)
        self._carry_out(command, holder)

    @rule(
        verb=st.sampled_from(["abort", "pause", "promote", "resume", "advance"]),
        other=st.sampled_from(["abort", "pause", "resume", "promote", "start"]),
        version=st.sampled_from(["", "right"]),
    )
    def overtaken(self, verb: str, other: str, version: str) -> None:
        """Have another controller carry a command out between the load and the commit of one."""
        plan = PLANS[0] if other == "start" else None
        self._carry_out(
            self._command(verb, expected=self._expected(version)),
            other=self._command(other, plan=plan, actor="bob"),
        )

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 9))
    def deliver(self, which: int) -> None:
        """Have the store get a change that was given up, or that it got before."""
        place = which % len(self.waiting)
        before = self._bytes()

        async def commit(side: Side) -> object:
            outcome = await side.door.store.commit(side.door.kept_back[place])
            return (type(outcome).__name__, getattr(outcome, "current", None))

        name, current = self._each(commit)[0]
        expected = self.model.apply(self.waiting[place])
        assert name == expected
        if name == Moved.__name__:
            assert current == self.model.held.place
        self.tried[f"delivered late: {name}"] += 1
        self.applied += name == "Applied"
        if name != "Applied":
            self._unchanged(before)

    @rule(seconds=st.sampled_from([0, 0, 1, 3]), times=st.integers(1, 2), heard=st.booleans())
    def give_up(self, seconds: int, times: int, heard: bool) -> None:
        """Have a client give up, and the store get the change when time has passed.

        `heard` is whether it hears from the gateways in between.
        """
        life = self.model.held.life
        if life is None or not life.live:
            command = self._command("start", plan=PLANS[0])
        else:
            command = self._command("resume" if life.state in ("paused", "held") else "pause")
        if self._carry_out(command, keep_back=True) == "OutcomeUnknown":
            if seconds:
                self.time_passes(seconds)
            for boot in BOOTS if heard else ():
                self.beat(boot)
            for _ in range(times):
                self.deliver(len(self.waiting) - 1)

    # --- controllers by themselves ---------------------------------------------------------------

    @rule(holder=st.sampled_from(HOLDERS))
    def lead(self, holder: str) -> None:
        async def lead(side: Side) -> Lease | None:
            return await side.controllers[holder].lead(holder, LEASE_S)

        found, expected = self._each(lead)[0], self.model.lead(holder, LEASE_S)
        assert (found and (found.holder, found.token)) == expected
        if expected:
            self.leases[holder] = expected  # one that is refused goes by its old one: a bad leader

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 1))
    def resign(self, which: int) -> None:
        lease = list(self.leases.values())[which % len(self.leases)]

        async def resign(side: Side) -> None:
            await side.controllers[lease[0]].resign(Lease(*lease))

        self._each(resign)
        self.model.resign(lease)

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 1), keep_back=st.sampled_from([False, False, False, True]))
    def tick(self, which: int, keep_back: bool) -> None:
        self._tick(list(self.leases.values())[which % len(self.leases)], keep_back=keep_back)

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 1), meanwhile=st.sampled_from(["", "nobody leads", "another does"]))
    def freeze_the_leader(self, which: int, meanwhile: str) -> None:
        """Have a leader stand still in the middle of a tick, and go on when others have acted."""
        place = which % len(self.leases)
        lease, waiting = list(self.leases.values())[place], len(self.waiting)
        self._tick(lease, keep_back=True)
        if len(self.waiting) == waiting:
            return
        if meanwhile:
            self.resign(place)
        if meanwhile == "another does":
            self.lead("c2" if lease[0] == "c1" else "c1")
        self.deliver(waiting)

    def _tick(self, lease: tuple[str, int], *, keep_back: bool = False) -> None:
        before = self._bytes()

        async def tick(side: Side) -> tuple[str, object]:
            side.door.keep_back = keep_back
            try:
                ticked = await side.controllers[lease[0]].tick(Lease(*lease))
            except RolloutError as error:
                return type(error).__name__, None
            finally:
                side.door.keep_back = False
            return "fenced" if ticked.fenced else "", ticked.result

        outcome, result = self._each(tick)[0]
        draft, word = self.model.tick(lease), "Stay"
        if draft and keep_back:
            word = "kept back"
            self.waiting.append(draft)
            assert outcome == "OutcomeUnknown"
        elif draft:
            word = self.model.apply(draft)
            assert (outcome == "fenced") == (word == "Fenced")
            assert (result is not None) == (word == "Applied")
        if word == "Applied":
            assert draft is not None
            assert answer_of(result) == draft.answer
            self.applied += 1
        else:
            assert result is None
            self._unchanged(before)
        self.tried[f"tick {draft.entry.command if draft else ''}: {word}"] += 1

    @rule(rounds=st.integers(1, 6), gate=st.sampled_from(["PASS", "PASS", "INCONCLUSIVE"]))
    def all_goes_well(self, rounds: int, gate: str) -> None:
        """Have a controller lead and every gateway follow, for some rounds."""
        self.model.gate, self.model.guard = gate, "PASS"
        for _ in range(rounds):
            self.lead("c1")
            for boot in BOOTS:
                self.look(boot)
                self.beat(boot)
            if self.model.leads() and self.model.leads() == self.leases.get("c1"):
                self._tick(self.leases["c1"])

    @rule(
        gate=st.sampled_from(["PASS", "PASS", "INCONCLUSIVE", "FAIL", "ERROR"]),
        guard=st.sampled_from(["PASS", "PASS", "PASS", "FAIL"]),
    )
    def judged(self, gate: str, guard: str) -> None:
        self.model.gate, self.model.guard = gate, guard

    # --- gateways --------------------------------------------------------------------------------

    @rule(boot=st.sampled_from(BOOTS))
    def look(self, boot: str) -> None:
        """Have a gateway read the snapshot: it takes one that is further, and no other."""

        async def look(side: Side) -> Snapshot | None:
            return await side.snapshot()

        found, gateway = self._each(look)[0], self.gateways[boot]
        if found and found.position > gateway.place:
            gateway.applied = found

    @rule(boot=st.sampled_from(BOOTS))
    def beat(self, boot: str) -> None:
        gateway = self.gateways[boot]
        heartbeat = Heartbeat(
            boot=boot,
            at=self.model.now,
            epoch=gateway.place.epoch,
            version=gateway.place.version,
            held=False,
            identities=gateway.identities,
            applied=gateway.applied,
        )

        async def beat(side: Side) -> None:
            await side.beat(heartbeat)

        self._each(beat)
        place, identities = tuple(gateway.place), dict(gateway.identities)
        assert len(place) == 2
        self.model.beat(
            boot,
            Beat(place, heartbeat.at, gateway.applied, identities),
            first=not gateway.beaten,
        )
        gateway.beaten = True

    @rule(boot=st.sampled_from(BOOTS), arm=st.sampled_from(["phase1", "phase2"]),
          name=st.sampled_from(["a", "b"]))  # fmt: skip
    def another_model(self, boot: str, arm: str, name: str) -> None:
        self.gateways[boot].identities[arm] = f"{arm}-{name}"

    @rule(
        boot=st.sampled_from(BOOTS),
        requests=st.integers(1, 30),
        ahead=st.sampled_from([1, 1, 1, 2]),
        awaited=st.booleans(),
        kept=st.booleans(),
    )
    def serve(self, boot: str, requests: int, ahead: int, awaited: bool, kept: bool) -> None:
        """Count requests; `ahead` leaves a batch out, which then comes too late."""
        gateway = self.gateways[boot]
        live = gateway.applied.rollout if gateway.applied else None
        now, counts = int(self.model.now), dict[Cell, dict[str, int]]()
        cell = None
        if live:
            cell = Cell(live.id, live.evidence_epoch, live.counted_stage, now // 60, "101-200")
            counts[cell] = {Name.assigned("incumbent"): requests, Name.assigned("candidate"): 2}
        pending: tuple[Pending, ...] = ()
        if awaited:
            self.requests += 1
            pending = (
                Pending(
                    request_id=f"q{self.requests}", at=now, cell=cell, assigned="candidate",
                    top={"candidate": TOP}, label_window_s=WINDOW_S,
                ),
            )  # fmt: skip
        vectors: tuple[Vectors, ...] = ()
        if pending and cell and kept:
            vectors = (Vectors(pending[0].request_id, now, cell, WINDOW_S, b"i", b"c"),)
        gateway.sequence += ahead
        if ahead > 1:
            gateway.sent.append(Batch(boot, gateway.sequence - 1, counts))
        gateway.sent.append(Batch(boot, gateway.sequence, counts, pending=pending, vectors=vectors))
        self._flush(gateway.sent[-1])

    @precondition(lambda self: any(one.sent for one in self.gateways.values()))
    @rule(boot=st.sampled_from(BOOTS), which=st.integers(0, 30))
    def flush_again(self, boot: str, which: int) -> None:
        """Send a batch another time, or at last: in any order."""
        sent = self.gateways[boot].sent
        if sent:
            self._flush(sent[which % len(sent)])

    def _flush(self, batch: Batch) -> None:
        before = self._bytes()

        async def flush(side: Side) -> bool:
            return await side.flush(batch)

        counts = {where_of(cell): by for cell, by in batch.counts.items()}
        found, expected = self._each(flush)[0], self.model.flush(batch.boot, batch.sequence, counts)
        assert found == expected
        self.tried[f"flush: {found}"] += 1
        if not found:
            self._unchanged(before)
        for one in batch.pending if found else ():
            where = where_of(one.cell) if one.cell else None
            self.model.await_label(one.request_id, where, "candidate", one.at + WINDOW_S)
        for kept in batch.vectors if found else ():
            place = where_of(kept.cell), kept.slice
            self.model.keep(kept.request_id, place, kept.rank, kept.at + WINDOW_S)

    @precondition(lambda self: self.requests)
    @rule(which=st.integers(1, 40), truth=st.sampled_from([5, 1, 8]))
    def label(self, which: int, truth: int) -> None:
        request = f"q{1 + which % (self.requests + 1)}"  # one of them was never seen
        before = self._bytes()

        async def label(side: Side) -> str:
            return await side.label(request, truth)

        found, expected = self._each(label)[0], self.model.label(request, truth, TOP)
        assert found == expected
        self.tried[f"label: {found}"] += 1
        if found not in ("counted", "sampled", "outside"):
            self._unchanged(before)

    # --- what befalls the store ------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 1, 3, 7, 11, 61, 301, 4001, 90_001]))
    def time_passes(self, seconds: int) -> None:
        self.model.now += seconds
        for side in self.sides:
            side.move(int(self.model.now))

    @rule()
    def dump(self) -> None:
        self.dumps.append(
            (copy.deepcopy(self.model.held), [self.loop.run(side.dump()) for side in self.sides])
        )

    @rule(
        which=st.integers(0, 5),
        how=st.sampled_from(["", "", "", "back", "back", "empty"]),
        soon=st.sampled_from([0, 0, 1, 9]),
    )
    def lose_memory(self, which: int, how: str, soon: int) -> None:
        """Have the store come up empty, or from an old dump; mostly, all is well.

        `soon` is how often somebody acts on it before a gateway is heard of, until it has come as
        far as gateways were.
        """
        if not how or (how == "back" and not self.dumps):
            return
        dump: list[Any] = [None] * len(self.sides)
        self.model.held = Held()
        if how == "back":
            held, dump = self.dumps[which % len(self.dumps)]
            self.model.held = copy.deepcopy(held)
        for side, one in zip(self.sides, dump, strict=True):
            self.loop.run(side.lose(one))
        self.tried[f"memory lost, {how}"] += 1
        if not soon:
            self.give_up(0, 1, heard=True)
        furthest = max(gateway.place for gateway in self.gateways.values())
        for _ in range(soon):
            life, place = self.model.held.life, self.model.held.place
            if place and place >= furthest:
                break
            if life is None or not life.live:
                self.begin(PLANS[0])
            else:
                self._carry_out(self._command("resume" if life.state == "paused" else "pause"))
        for boot in BOOTS if soon else ():
            self.beat(boot)


@pytest.fixture(scope="module")
def server() -> Iterator[ClockedValkey]:
    with clocked_valkey(NOON) as made:
        yield made


@pytest.mark.parametrize("kinds", [("memory",), ("valkey",), ("memory", "valkey")], ids="+".join)
def test_any_history_leads_where_the_model_says(
    server: ClockedValkey, kinds: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured_module, "judge", None)  # and each history sets its own
    tried = Counter[str]()
    machine = type("Machine", (Histories,), {"server": server, "kinds": kinds, "tried": tried})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=HISTORIES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
    if "TURNOUT_HISTORIES" in os.environ:
        told = "\n".join(f"{by:7} {what}" for what, by in sorted(tried.items()))
        sys.stdout.write(f"\n{told}\n")
