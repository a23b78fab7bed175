"""What the judge costs: one tick of the real controller over a full plan, in processor time."""

import importlib
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from bench_grid import plan
from bench_statistics import Spread, median, quantile

from rollout.simulate.looks import grid
from rollout.simulate.replicate import Run
from rollout.simulate.road import Site
from rollout.simulate.scenario import SCENARIOS, Levels, setting

LOOKS = 40
module: Any = importlib.import_module("rollout.measured")


def costs(rounds: int) -> dict[str, tuple[Spread, Spread]]:
    """Time `judge` and `tick` in the last stage of a plan: (median, 95 %) in seconds.

    Every stage before it has all its counters in every stratum, and the judge reads them all.
    """
    spent: dict[str, list[float]] = {"judge": [], "tick": []}
    real = module.judge
    module.judge = _timed(real, spent["judge"])
    try:
        for number in range(rounds):
            _walk(spent, number)
    finally:
        module.judge = real
    return {name: (median(times), quantile(times, 0.95)) for name, times in spent.items()}


def _walk(spent: dict[str, list[float]], number: int) -> None:
    of = setting(plan(0.001), SCENARIOS["non-inferior"], Levels(rps=20.0))
    grids = tuple(grid(stage, LOOKS) for stage in of.plan.stages)
    run = Run(of, grids, Site(1, number))
    ticks: list[float] = []
    before = len(spent["judge"])
    run.on_tick = ticks.append
    ended = run.ours()
    if ended.stage != len(of.plan.stages) - 1:
        del spent["judge"][before:]  # it was held on the way: no full plan
        return
    last = len(grids[-1].looks)
    spent["tick"] += ticks[-last:]
    del spent["judge"][before : len(spent["judge"]) - last]


def _timed(real: Callable[..., Any], times: list[float]) -> Callable[..., Any]:
    @wraps(real)
    def timed(*args: Any, **named: Any) -> Any:
        began = time.process_time()
        found = real(*args, **named)
        times.append(time.process_time() - began)
        return found

    return timed
