"""One replicate: the real controller from start to end, and the rivals beside it.

The controller, its machine, its judge and the store are the ones that serve people; only the clock
is the simulation's, and the gateways are replaced by what they would have written. A person is
replaced too: gates that pass are followed at once (`on_pass: advance`), and approvals are given.

No counter is missing that a test reads; histograms, which are for display, are left out.
"""

import time
from collections import Counter as Multiset
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeVar

import numpy as np

from rollout import background
from rollout.controller import Controller, Ticked
from rollout.orders import Order
from rollout.plan import Plan
from rollout.simulate.looks import Grid, grid
from rollout.simulate.rivals import RIVALS, Rival, series
from rollout.simulate.road import Road, Site
from rollout.simulate.scenario import Setting
from rollout.simulate.traffic import LABEL_NAMES, Block, Ints, arriving, label_counts
from rollout.simulate.world import ROLES, SIGMA, STRATA
from rollout.snapshot import Batch, Cell, Counter, Heartbeat, Live, Snapshot, Tier
from rollout.store.memory import MemoryStore
from rollout.store.port import Lease, Stored
from rollout.tick import Act

START: Final = 1_767_571_200.0
"""Where the clock begins: Monday, 2026-01-05, 00:00 UTC."""
WE: Final = "turnout"
Party = Literal["turnout"] | Rival
End = Literal["promoted", "rolled_back", "held", "undecided"]
_ENDS: Final[dict[str, End]] = {
    "finish": "promoted", "rollback": "rolled_back", "hold": "held", "void": "held",
    "lapse": "held",
}  # fmt: skip
_BOOT: Final = "simulated"
HOUR_S: Final = 3600.0
_PRELUDE: Final = 20_000.0
"""Requests, at most: quantiles need no more."""
_MINUTE: Final = 60
_STEPS: Final = 8
"""Ticks at one look, at most: several events may be due at once."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one party ended one replicate."""

    party: Party
    end: End
    stage: int
    """The index of the last stage that it was in."""
    requests: int
    """In scope, until it ended."""
    seconds: float
    passed: tuple[int, ...] = ()
    """Requests in each stage that was left by its gate."""
    why: str = ""
    """The checks that decided, or that had not."""
    looks: int = 0


class SimulationError(RuntimeError):
    """The simulated store or controller did what the real ones could not: a bug, and it says so."""


def replicate(setting: Setting, site: Site, looks: int) -> tuple[Outcome, ...]:
    """Run one replicate: our outcome first, then those of the rivals."""
    grids = tuple(grid(stage, looks) for stage in setting.plan.stages)
    run = Run(setting, grids, site)
    return (run.ours(), *_rivals(setting, grids, run.road))


class Clock:
    """Seconds since 1970 that pass when they are told to."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        """Read the clock."""
        return self.now


class Run:
    """One rollout under the real controller."""

    def __init__(self, setting: Setting, grids: tuple[Grid, ...], site: Site) -> None:
        self._setting = setting
        self._plan = setting.plan
        self._grids = grids
        self._clock = Clock()
        self._store = MemoryStore(self._clock)
        tokens = iter(range(1, 1_000_000))
        self._controller = Controller(
            self._store, tiers_of(self._plan), new_token=lambda: f"{next(tokens):032x}"
        )
        self._lease = _held(self._store)
        self._chance = site.stream("truths")
        self._sequence = 0
        self._looked = 0
        self._requests = 0
        self._passed: list[int] = []
        self.on_tick: Callable[[float], object] = lambda _seconds: None
        """Told the processor time of every tick."""
        self._prelude(site)
        at_once(self._controller.start(self._plan, _ORDER))
        self.road = Road(self._plan, setting.world, grids, self._live().marks, site)

    def ours(self) -> Outcome:
        """Follow the rollout until it ends, or until its stage's horizon is reached."""
        stage = 0
        while True:
            ended, why = self._stage(stage)
            if ended != "advance":
                return Outcome(
                    WE, _ENDS.get(ended, "undecided"), stage, self._requests,
                    self._clock.now - START, tuple(self._passed), why, self._looked,
                )  # fmt: skip
            stage += 1

    def counted(self) -> dict[str, dict[str, int]]:
        """Give the raw totals of each stage of the plan that saw traffic, as the store has them."""
        record = at_once(self._store.load()).record
        if record is None:
            raise SimulationError("the store is empty")
        names = [visit.stage for visit in record.visits]
        seen = at_once(self._store.observations(record.id, record.evidence_epoch, names))
        return {name: dict(counts) for name, counts in seen.counts.items() if counts}

    def _prelude(self, site: Site) -> None:
        """Let the incumbent serve for an hour, if the plan compares latencies with what it took."""
        if not any("latency_relative" in stage.required for stage in self._plan.stages):
            return
        world, tiers = self._setting.world, tiers_of(self._plan)
        requests = int(min(world.rps * HOUR_S, _PRELUDE))
        waits = site.stream("prelude").lognormal(np.log(world.incumbent.median_s), SIGMA, requests)
        counters = Multiset(background.waited(float(wait)) for wait in waits)
        counters[background.REQUESTS] = requests
        where = background.place(tiers[1].arm, tiers[0].arm)
        minute = int(START // _MINUTE) - 1
        cells = {Cell(background.ROLLOUT, 1, where, minute, next(iter(STRATA))): counters}
        self._sequence += 1
        self._store.flush(Batch(_BOOT, self._sequence, cells))

    # --- one stage -------------------------------------------------------------------------------

    def _stage(self, index: int) -> tuple[str, str]:
        """Follow one stage: the event that ended it, or "" at the horizon; and why."""
        ended = self._settle()
        if ended:
            return ended
        entered = self._clock.now
        truths: list[_Truth] = []
        before = self._requests
        slots = _slots(self.road.blocks(index, entered - START), self._grids[index].looks)
        for slot in slots:
            end = entered + slot.until * self._grids[index].grain_s
            minute = int(end // _MINUTE) - 1
            self._requests += slot.requests
            truths += self._told(slot, end, minute)
            self._clock.now = end + self._plan.watermark_s
            due = [truth for truth in truths if truth.at <= self._clock.now]
            truths = [truth for truth in truths if truth.at > self._clock.now]
            self._flush([(minute, slot.counts), *((truth.minute, truth.counts) for truth in due)])
            ended = self._look()
            if ended:
                self._passed += [self._requests - before] * (ended[0] in ("advance", "finish"))
                return ended
        return "", self._undecided()

    def _settle(self) -> tuple[str, str] | None:
        """Let the gateways apply the stage, so that its requests count from now on."""
        ended = self._look()
        if not ended and not self._live().counting:
            raise SimulationError("the controller did not let the stage count")
        self._clock.now += -self._clock.now % _MINUTE
        return ended

    def _look(self) -> tuple[str, str] | None:
        """Tick until nothing more happens now: the event that ends the stage, if one does."""
        for _ in range(_STEPS):
            self._beat()
            began = time.process_time()
            ticked = at_once(self._controller.tick(self._lease))
            self.on_tick(time.process_time() - began)
            self._looked += 1
            if not isinstance(ticked.move, Act):
                return None
            event = _applied(ticked)
            if event == "hold" and ticked.move.detail.cause == "limit":
                return event, self._undecided()
            if event in _ENDS or event == "advance":
                return event, _why(ticked.move)
            if event == "ask":
                at_once(self._controller.approve("current", _ORDER))
        raise SimulationError(f"the controller went on acting: {ticked.move}")

    def _told(self, slot: "_Slot", end: float, minute: int) -> Iterator["_Truth"]:
        """Say when the truths of a slot come; those that come too late never do."""
        window = self._plan.label_window_s
        arrivals = self._setting.world.arrivals
        for prefix, truths in slot.truths.items():
            parts = arriving(truths, arrivals, self._chance)
            for arrival, part in zip(arrivals, parts, strict=False):
                if arrival.delay <= 1:
                    names = [prefix + name for name in LABEL_NAMES]
                    counts = _by_stratum(names, label_counts(part))
                    yield _Truth(end + arrival.delay * window, minute, counts)

    # --- the gateways' half ----------------------------------------------------------------------

    def _flush(self, parts: list[tuple[int, "_Counts"]]) -> None:
        live = self._live()
        cells: dict[Cell, dict[str, int]] = {}
        for minute, counts in parts:
            for stratum, counters in counts.items():
                cell = Cell(live.id, live.evidence_epoch, live.stage, minute, stratum)
                held = cells.setdefault(cell, {})
                for name, by in counters.items():
                    held[name] = held.get(name, 0) + by
        self._sequence += 1
        if not self._store.flush(Batch(_BOOT, self._sequence, cells)):
            raise SimulationError("the store took a batch for one that it had")

    def _beat(self) -> None:
        at = self._snapshot().position
        self._store.beat(
            Heartbeat(
                boot=_BOOT, at=self._clock.now, epoch=at.epoch, version=at.version, held=False
            )
        )

    def _snapshot(self) -> Snapshot:
        stored: Stored = at_once(self._store.load())
        if stored.snapshot is None:
            raise SimulationError("the store is empty")
        return stored.snapshot

    def _live(self) -> Live:
        live = self._snapshot().rollout
        if live is None:
            raise SimulationError("no rollout is live")
        return live

    def _undecided(self) -> str:
        status = at_once(self._controller.status())
        checks = status.verdict.checks if status.verdict else ()
        return ", ".join(check.name for check in checks if check.kind != "PASS" and check.decides)


class _Slot(NamedTuple):
    """The traffic between two looks."""

    until: int
    """Grains since the stage was entered."""
    requests: int
    counts: "_Counts"
    truths: dict[str, Ints]
    """`[categories, strata]`"""


class _Truth(NamedTuple):
    at: float
    minute: int
    counts: "_Counts"


_Counts = dict[str, dict[str, int]]
"""Counters by stratum."""
_ORDER: Final = Order(actor="simulation", reason="simulated")


def _slots(blocks: Iterator[Block], looks: tuple[int, ...]) -> Iterator[_Slot]:
    """Add up the grains between looks, across blocks."""
    block, begins, ends = next(blocks), 0, 0
    ends = _grains(block)
    done = 0
    for look in looks:
        counts: dict[str, Ints] = {}
        truths: dict[str, Ints] = {}
        while done < look:
            if done == ends:
                block, begins = next(blocks), ends
                ends = begins + _grains(block)
            part = slice(done - begins, min(look, ends) - begins)
            for name, by in block.counts.items():
                counts[name] = counts.get(name, 0) + by[part].sum(0)
            for name, by in block.truths.items():
                truths[name] = truths.get(name, 0) + by[:, part].sum(1)
            done = min(look, ends)
        requests = sum(int(counts[Counter.assigned(role)].sum()) for role in ROLES)
        table = np.stack(list(counts.values()))
        yield _Slot(look, requests, _by_stratum(list(counts), table), truths)


def _grains(block: Block) -> int:
    return len(next(iter(block.counts.values())))


def _by_stratum(names: list[str], table: Ints) -> _Counts:
    """Turn `[counters, strata]` into counters by stratum, without the zeros."""
    return {
        stratum: {name: by for name, by in zip(names, column, strict=True) if by}
        for stratum, column in zip(STRATA, table.T.tolist(), strict=True)
    }


def tiers_of(plan: Plan) -> tuple[Tier, ...]:
    """Make a table in which the plan's candidate can be rolled out."""
    return (
        Tier(arm="incumbent" if plan.candidate != "incumbent" else "phase1", max_length=100),
        Tier(arm=plan.candidate, max_length=500, active=False),
    )


def _held(store: MemoryStore) -> Lease:
    lease = at_once(store.lead("simulation", float("inf")))
    if lease is None:
        raise SimulationError("nobody else is there, and yet the lease was not given")
    return lease


def _applied(ticked: Ticked) -> str:
    if ticked.result is None:
        raise SimulationError(f"the store refused {ticked.move}")
    return str(ticked.result.command)


def _why(act: Act) -> str:
    guard = act.detail.guard
    verdict = guard if guard and guard.kind == "FAIL" else act.detail.verdict
    if verdict is None:
        return act.detail.cause
    return ", ".join(check.name for check in verdict.checks if check.kind == verdict.kind)


def at_once(waiting: Coroutine[Any, Any, T]) -> T:
    """Run what never really waits: a controller over a store in this process."""
    try:
        waiting.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    waiting.close()
    raise SimulationError("something waited that has nothing to wait for")


# --- the rivals ----------------------------------------------------------------------------------


def _rivals(setting: Setting, grids: tuple[Grid, ...], road: Road) -> Iterator[Outcome]:
    for rival, rule in RIVALS.items():
        requests, passed = 0, list[int]()
        spent = 0.0
        end: End = "promoted"
        index = 0
        for index, stage in enumerate(setting.plan.stages):
            block = next(road.blocks(index, spent))
            arrived = sum(block.counts[Counter.assigned(role)].sum(1) for role in ROLES)
            seen = series(setting.scenario.metric, setting.plan, stage, block)
            alarm = rule(seen)
            windows = len(arrived) if alarm is None else alarm
            requests += int(arrived[:windows].sum())
            spent += windows * grids[index].grain_s
            if alarm is not None:
                end = "rolled_back"
                break
            passed.append(int(arrived.sum()))
        yield Outcome(rival, end, index, requests, spent, tuple(passed), setting.scenario.metric)
