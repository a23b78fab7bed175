"""The grid of the judge's bench: which worlds, which plan, how often. Pure.

Requests per second {1, 20, 200} by base errors {0.1 %, 1 %} by scenarios; where a scenario is not
about errors, one base is enough. The plan has two hours in each stage that compares, as the
simulation has that the method was chosen by (120 windows of a minute), and is given twice that.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from rollout.plan import Plan, Stage
from rollout.simulate.pool import Chunk
from rollout.simulate.scenario import SCENARIOS, Levels, Setting, setting

HOUR: Final = 3600.0
SEED: Final = 20_261_125
RATES: Final = (1.0, 20.0, 200.0)
BASES: Final = (0.001, 0.01)
LOOKS: Final = 10
ABOUT_ERRORS: Final = (
    "aa", "regression-errors", "margin-errors", "non-inferior", "ramp-drift", "ar1-drift",
    "sticky-keys",
)  # fmt: skip
OTHERS: Final = (
    "regression-latency", "margin-latency", "regression-hits", "margin-hits", "label-delay",
)  # fmt: skip
CHUNK: Final = 25
DETECT_S: Final = 2 * HOUR


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of the grid."""

    name: str
    base: float
    setting: Setting
    replicates: int
    looks: int = LOOKS
    detection: bool = False
    """Whether it asks how soon a rollback comes, and not how often a decision is wrong."""

    @property
    def rps(self) -> float:
        """Requests per second in scope."""
        return self.setting.world.rps

    def chunks(self) -> Iterator[Chunk]:
        """Cut its replicates."""
        for first in range(0, self.replicates, CHUNK):
            count = min(CHUNK, self.replicates - first)
            yield Chunk(self.setting, SEED, first, count, self.looks)


def stage(name: str, mode: str, weight: float, sample: float, hours: float = 2.0) -> Stage:
    """Write one stage."""
    return Stage.model_validate(
        {
            "name": name, "mode": mode, "weight": weight, "shadow_sample": sample,
            "min_duration_s": hours * HOUR, "max_duration_s": 2 * hours * HOUR,
            "min_requests": 500, "min_pairs": 100 if sample or mode == "shadow" else 0,
        }
    )  # fmt: skip


def plan(base: float) -> Plan:
    """Write the plan: its tolerances of errors are those of the default plan, or fit 1 %."""
    usual = base == BASES[0]
    return Plan(
        name="bench",
        candidate="phase2",
        stages=(
            stage("shadow-50", "shadow", 50, 0),
            stage("ab-25", "ab", 25, 20),
            stage("ab-50", "ab", 50, 50),
            stage("full", "ab", 100, 20, hours=0.5),
        ),
        max_error_rate=0.5 if usual else 4.0,
        error_margin=0.5 if usual else 1.0,
        latency_quantile="p95",
        label_window_s=900,
    )


def lean_plan(weight: float, sample: float) -> Plan:
    """Write a plan that begins with clients, and compares in one stage."""
    first = stage(f"ab-{weight:g}", "ab", weight, sample)
    full = stage("full", "ab", 100, sample, hours=0.5)
    return plan(BASES[0]).model_copy(update={"stages": (first, full)})


def grid(replicates: int, *, dense: int) -> list[Cell]:
    """List the cells, the first base first; `dense` looks in a stage are one every minute.

    Two cells are for questions of their own: equal arms under a look every minute, and how soon
    5 % of errors are found at one request a second where 25 % of the traffic are the candidate's.
    """
    dense_plan, detection = lean_plan(50, 50), lean_plan(25, 0)
    every = setting(dense_plan, SCENARIOS["aa"], Levels(rps=20.0, error=BASES[0]))
    levels = Levels(rps=1.0, error=BASES[0], candidate_error=0.05)
    found = setting(detection, SCENARIOS["regression-errors"], levels)
    first, second = BASES
    return [
        Cell("detect", first, found, replicates, looks=40, detection=True),
        *(_cell(name, rps, first, replicates) for name in ABOUT_ERRORS for rps in RATES),
        *(_cell(name, rps, first, replicates) for name in OTHERS for rps in RATES),
        Cell("aa, every minute", first, every, replicates, looks=dense),
        *(_cell(name, rps, second, replicates) for name in ABOUT_ERRORS for rps in RATES),
    ]


def _cell(name: str, rps: float, base: float, replicates: int) -> Cell:
    levels = Levels(rps=rps, error=base)
    return Cell(name, base, setting(plan(base), SCENARIOS[name], levels), replicates)
