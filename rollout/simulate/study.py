"""One simulation from its options to its figures: which settings, how many replicates, a bar."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rollout.plan import Plan
from rollout.simulate import pool
from rollout.simulate.looks import Grid, grid
from rollout.simulate.replicate import Outcome
from rollout.simulate.scenario import SCENARIOS, Levels, setting
from rollout.simulate.summary import Summary
from rollout.snapshot import HITS
from rollout.wording import count, span

ALL = "all"


def levels(
    plan: Plan,
    *,
    rps: float,
    error: float,
    hit: float,
    candidate_error: float | None,
    candidate_hit: float | None,
    slower: float | None,
    labelled: float,
) -> Levels:
    """Make levels of what a person writes in percent. `hit` is the Hit@k that the plan compares."""
    usual = Levels()
    by = hit / 100 - usual.hits[HITS.index(plan.gate_hit)]
    one, five, ten = (min(max(share + by, 0.0), 1.0) for share in usual.hits)
    return Levels(
        rps=rps,
        error=error / 100,
        hits=(one, five, ten),
        candidate_error=None if candidate_error is None else candidate_error / 100,
        candidate_hit=None if candidate_hit is None else candidate_hit / 100,
        slower=None if slower is None else 1 + slower / 100,
        labelled=labelled / 100,
    )


class Study:
    """A plan under some scenarios. Raises ValueError when a scenario has another name."""

    def __init__(
        self,
        *,
        plan: Plan,
        names: tuple[str, ...],
        levels: Levels,
        seed: int,
        replicates: int,
        looks: int,
    ) -> None:
        if ALL in names:
            names = tuple(SCENARIOS)
        if unknown := [name for name in names if name not in SCENARIOS]:
            raise ValueError(
                f"no scenario is called {unknown[0]!r}: they are {', '.join(SCENARIOS)}, or {ALL}"
            )
        self.plan = plan
        self.seed = seed
        self.replicates = replicates
        self.looks = looks
        self.interrupted = False
        self._settings = [setting(plan, SCENARIOS[name], levels) for name in dict.fromkeys(names)]
        self._outcomes: list[list[Outcome]] = [[] for _ in self._settings]

    def run(self, processes: int | None, console: Console) -> None:
        """Run every replicate, with a bar on `console`; Ctrl-C keeps what was done."""
        chunks = [
            chunk
            for one in self._settings
            for chunk in pool.cut(one, self.seed, self.replicates, self.looks)
        ]
        places = {one.scenario.name: place for place, one in enumerate(self._settings)}
        with _bar(console, len(self._settings) * self.replicates) as advance:
            done = pool.run(chunks, processes or pool.cores())
            try:
                with contextlib.closing(done):
                    for chunk, outcomes in done:
                        self._outcomes[places[chunk.setting.scenario.name]] += outcomes
                        advance(chunk.count)
            except KeyboardInterrupt:
                self.interrupted = True

    def summaries(self) -> tuple[Summary, ...]:
        """Add up what was done, scenario by scenario; one of which nothing was is left out."""
        pairs = zip(self._settings, self._outcomes, strict=True)
        return tuple(Summary.of(one, outcomes) for one, outcomes in pairs if outcomes)

    def remarks(self) -> tuple[str, ...]:
        """Say how it was simulated, so that nobody reads more into the figures."""
        grids = {stage.name: grid(stage, self.looks) for stage in self.plan.stages}
        each = ", ".join(f"{name} {len(one.looks)}" for name, one in grids.items())
        windows = dict.fromkeys(span(one.grain_s) for one in grids.values())
        horizons = dict.fromkeys(span(one.horizon * one.grain_s) for one in grids.values())
        return (
            f"looks of the controller until a stage's horizon: {each}, on a geometric grid",
            "(a real controller looks every few seconds: fewer looks can only help a rule)",
            *self._resolution(grids.values()),
            f"windows of the rivals: {' or '.join(windows)}; a rival looks after each of them",
            f"a stage that has not decided after {' or '.join(horizons)} is inconclusive",
            "gates that pass are followed and approvals are given at once",
        )

    def _resolution(self, grids: Iterable[Grid]) -> Iterator[str]:
        """Say how finely requests to a decision can be told."""
        rates = sorted({one.world.rps for one in self._settings})
        for grain_s in sorted({one.grain_s for one in grids}):
            requests = " or ".join(count(rps * grain_s) for rps in rates)
            yield (
                f"two looks lie {span(grain_s)} apart at least, which is {requests} requests: no "
                "decision is timed finer than that"
            )

    def as_json(self) -> dict[str, Any]:
        """Give everything by name."""
        return {
            "plan": self.plan.model_dump(mode="json"),
            "seed": self.seed,
            "looks": self.looks,
            "interrupted": self.interrupted,
            "remarks": list(self.remarks()),
            "scenarios": [summary.as_json() for summary in self.summaries()],
        }


@contextlib.contextmanager
def _bar(console: Console, total: int) -> Iterator[Any]:
    columns = (
        TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TextColumn("rollouts"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda by: progress.advance(task, by)
