"""One replicate's traffic, the same for whoever decides about it.

Every stage has a random stream of its own, from the seed, the replicate and the stage; so a party
that enters a stage earlier than another sees the same requests in it. (Under a trend their chances
differ, because they come at another time.)
"""

from collections.abc import Iterator, Mapping
from typing import Final, Literal, NamedTuple

import numpy as np

from rollout.plan import Plan
from rollout.simulate.looks import Grid
from rollout.simulate.traffic import Block, Keys, Visit
from rollout.simulate.world import Floats, World, drift_path
from rollout.snapshot import Mark

Stream = Literal["traffic", "drift", "keys", "truths", "prelude"]
_STREAMS: Final[tuple[Stream, ...]] = ("traffic", "drift", "keys", "truths", "prelude")


class Site(NamedTuple):
    """Which replicate of which simulation."""

    seed: int
    replicate: int

    def stream(self, kind: Stream, stage: int = 0) -> np.random.Generator:
        """Give a random stream of this replicate's own."""
        key = (self.replicate, _STREAMS.index(kind), stage)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


class Road:
    """The traffic of one replicate, drawn when it is asked for and kept.

    `marks` are the latency marks that the rollout's gateways would count against.
    """

    def __init__(
        self,
        plan: Plan,
        world: World,
        grids: tuple[Grid, ...],
        marks: Mapping[str, Mark],
        site: Site,
    ) -> None:
        self._plan = plan
        self._world = world
        self._grids = grids
        self._marks = marks
        self._site = site
        self._lasts = sum(stage.min_duration_s for stage in plan.stages) or 1.0
        self._walks: dict[tuple[int, float], _Walk] = {}

    def blocks(self, stage: int, entered_s: float) -> Iterator[Block]:
        """Yield a stage's blocks of `Grid.window` grains, for a visit that began `entered_s` in."""
        place = (stage, entered_s if self._world.drift == "trend" else 0.0)
        walk = self._walks.get(place)
        if walk is None:
            walk = self._walks[place] = _Walk(self._visit(stage), self._drift(stage, entered_s))
        index = 0
        while (block := walk.block(index)) is not None:
            yield block
            index += 1

    def _visit(self, stage: int) -> Visit:
        keys = None
        if self._world.keyed:
            keys = Keys.of(self._world)
            chance = self._site.stream("keys")
            for before in self._plan.stages[: stage + 1]:  # weights nest: the same keys each time
                if before.mode == "ab":
                    keys.at(before.weight / 100, chance)
        return Visit(
            self._world,
            self._plan.stages[stage],
            self._marks,
            grain_s=self._grids[stage].grain_s,
            rng=self._site.stream("traffic", stage),
            keys=keys,
        )

    def _drift(self, stage: int, entered_s: float) -> list[Floats]:
        grid = self._grids[stage]
        times = entered_s + grid.grain_s * np.arange(grid.horizon, dtype=np.float64)
        path = drift_path(self._world.drift, times, self._lasts, self._site.stream("drift", stage))
        return [path[at : at + grid.window] for at in range(0, grid.horizon, grid.window)]


class _Walk:
    """A visit, and what was drawn of it."""

    def __init__(self, visit: Visit, drift: list[Floats]) -> None:
        self._visit = visit
        self._drift = drift
        self._drawn: list[Block] = []

    def block(self, index: int) -> Block | None:
        if index >= len(self._drift):
            return None
        while len(self._drawn) <= index:
            self._drawn.append(self._visit.block(self._drift[len(self._drawn)]))
        return self._drawn[index]
