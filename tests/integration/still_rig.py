"""A real controller over a store in memory, whose clock stands still unless a test moves it."""

from collections.abc import Mapping
from itertools import count
from typing import Final

from rollout.controller import Controller
from rollout.orders import Order
from rollout.plan import DEFAULT_PLAN, Plan
from rollout.snapshot import DEFAULT_TIERS, Batch, Cell, Heartbeat
from rollout.store.memory import MemoryStore

ORDER: Final = Order(actor="ann", reason="a test")


class StillRig:
    """The controller, its store, one gateway, and `now` in Unix seconds."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.store = MemoryStore(lambda: self.now)
        self.controller = Controller(self.store, DEFAULT_TIERS)
        self._sequence = count()

    async def start(self, plan: Plan = DEFAULT_PLAN) -> None:
        await self.controller.start(plan, ORDER)
        await self.look()

    async def look(self) -> None:
        """Let a gateway apply what is there, and the controller look, until nothing happens."""
        lease = await self.controller.lead("one", 10)
        assert lease is not None
        while True:
            position = (await self.store.load()).position
            assert position is not None
            at = Heartbeat(
                boot="gw", at=self.now, epoch=position.epoch, version=position.version, held=False
            )
            self.store.beat(at)
            if (await self.controller.tick(lease)).result is None:
                return

    async def flush(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        """Count, by stratum, in the present stage and minute."""
        snapshot = (await self.store.load()).snapshot
        assert snapshot is not None
        live = snapshot.rollout
        assert live is not None
        minute = int(self.now // 60)
        cells = {
            Cell(live.id, live.evidence_epoch, live.stage, minute, stratum): counters
            for stratum, counters in counts.items()
        }
        self.store.flush(Batch("gw", next(self._sequence), cells))
