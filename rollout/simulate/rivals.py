"""What other canary tools would have decided on the same traffic. Pure.

Each rule sees one metric in windows, arm by arm, looks after every window, and rolls back at its
first alarm; without one it promotes when the stage's minimum duration is over, as those tools do.
It watches only the metric that the scenario is about. That is kind to the rules: with more metrics,
each looked at for itself, their false alarms add up.

- `failure-count`: a threshold that 3 of the last 5 windows were beyond.
- `failure-limit-0`: the same threshold, and one window is enough (a failure limit of 0).
- `z-test`: a one-sided z-test of two proportions at 5 %, on all of the stage, at every window.
- `mann-whitney`: the rank test of the windows' values, as Kayenta judges: the 98 % interval of the
  Hodges-Lehmann shift lies beyond a quarter of that shift; twelve looks in a stage.

The threshold is the plan's own: `max_error_rate`, the share over the latency budget that the
quantile allows, or Hit@k lower than the incumbent's by more than the margin in the same window.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rollout.gates import QUANTILES
from rollout.plan import Plan, Stage
from rollout.simulate.scenario import Metric
from rollout.simulate.traffic import LABEL_NAMES, Block, Ints, label_counts
from rollout.simulate.world import Floats
from rollout.snapshot import Counter, Role

Flags = NDArray[np.bool_]
Rival = Literal["failure-count", "failure-limit-0", "z-test", "mann-whitney"]
ALPHA: Final = 0.05
LAST_WINDOWS: Final = 5
TOO_MANY: Final = 3
MANN_WHITNEY_LOOKS: Final = 12
FRACTION: Final = 0.25
"""Of the Hodges-Lehmann shift, that the interval must lie beyond (Kayenta's tolerance)."""
_Z: Final = float(special.ndtri(1 - ALPHA))
_Z_98: Final = float(special.ndtri(0.99))


@dataclass(frozen=True, slots=True)
class Series:
    """One metric of both arms by window: bad outcomes and trials, each int64 `[windows]`."""

    bad: dict[Role, Ints]
    trials: dict[Role, Ints]
    beyond: float
    """The threshold: the share of bad outcomes that is too much."""
    relative: bool = False
    """Whether the threshold is above the incumbent's share of the same window."""

    def share(self, role: Role) -> Floats:
        """Give the shares of bad outcomes; 0 in a window without trials."""
        shares: Floats = self.bad[role] / np.maximum(self.trials[role], 1)
        return shares


def series(metric: Metric, plan: Plan, stage: Stage, block: Block) -> Series:
    """Read the metric of a stage from its traffic: in the shadow from the pairs."""
    if metric == "hits":
        return _hits(plan, stage, block)
    if metric == "latency":
        beyond = 1 - QUANTILES[plan.latency_quantile]
        if stage.mode == "shadow":
            return _pairs(block, "pair.over.budget", beyond)
        return _served(block, {role: Counter.over(role, "budget") for role in _ROLES}, beyond)
    beyond = plan.max_error_rate / 100
    if stage.mode == "shadow":
        return _pairs(block, "pair.error", beyond)
    return _served(block, {role: f"error.{role}.status" for role in _ROLES}, beyond)


_ROLES: Final[tuple[Role, Role]] = ("incumbent", "candidate")


def _served(block: Block, bad: dict[Role, str], beyond: float) -> Series:
    return Series(
        {role: block.counts[name].sum(1) for role, name in bad.items()},
        {role: block.counts[Counter.assigned(role)].sum(1) for role in _ROLES},
        beyond,
    )


def _pairs(block: Block, prefix: str, beyond: float) -> Series:
    pairs = {ab: block.counts[f"{prefix}.{ab}"].sum(1) for ab in ("00", "01", "10", "11")}
    every = sum(pairs.values(), start=np.zeros(1, np.int64))
    return Series(
        {"incumbent": pairs["10"] + pairs["11"], "candidate": pairs["01"] + pairs["11"]},
        {"incumbent": every, "candidate": every},
        beyond,
    )


def _hits(plan: Plan, stage: Stage, block: Block) -> Series:
    """Misses are the bad outcomes. Truths are taken as if they came at once."""
    counts = label_counts(block.truths[""].sum(2))
    found = dict(zip(LABEL_NAMES, counts, strict=True))
    k, beyond = plan.gate_hit, plan.hit_margin / 100
    if stage.mode == "shadow":
        pairs = {ab: found[f"pair.hit{k}.{ab}"] for ab in ("00", "01", "10", "11")}
        every = sum(pairs.values(), start=np.zeros(1, np.int64))
        return Series(
            {"incumbent": pairs["00"] + pairs["01"], "candidate": pairs["00"] + pairs["10"]},
            {"incumbent": every, "candidate": every},
            beyond,
            relative=True,
        )
    labels = {role: found[Counter.labels(role)] for role in _ROLES}
    missed = {role: labels[role] - found[Counter.hit(role, k)] for role in _ROLES}
    return Series(missed, labels, beyond, relative=True)


# --- the rules: after how many windows each alarms, or None ---------------------------------------


def beyond_threshold(seen: Series) -> Flags:
    """Say in which windows the candidate was beyond the threshold: bool `[windows]`."""
    limit = seen.beyond + (seen.share("incumbent") if seen.relative else 0)
    measured = (seen.trials["candidate"] > 0) & (
        (seen.trials["incumbent"] > 0) | (not seen.relative)
    )
    beyond: Flags = measured & (seen.share("candidate") > limit)
    return beyond


def failure_limit(seen: Series) -> int | None:
    """Alarm at the first window beyond the threshold."""
    return _first(beyond_threshold(seen))


def failure_count(seen: Series) -> int | None:
    """Alarm when `TOO_MANY` of the last `LAST_WINDOWS` windows were beyond the threshold."""
    total = np.cumsum(beyond_threshold(seen))
    before = np.concatenate([np.zeros(LAST_WINDOWS, np.int64), total[:-LAST_WINDOWS]])
    return _first(total - before[: len(total)] >= TOO_MANY)


def z_test(seen: Series) -> int | None:
    """Alarm when the pooled z of all windows so far is above the one-sided 5 % point."""
    bad = {role: np.cumsum(seen.bad[role]) for role in _ROLES}
    so_far = {role: np.cumsum(seen.trials[role]) for role in _ROLES}
    trials = {role: np.maximum(so_far[role], 1) for role in _ROLES}
    pooled = (bad["incumbent"] + bad["candidate"]) / (trials["incumbent"] + trials["candidate"])
    spread = pooled * (1 - pooled) * (1 / trials["incumbent"] + 1 / trials["candidate"])
    apart = bad["candidate"] / trials["candidate"] - bad["incumbent"] / trials["incumbent"]
    both = (so_far["incumbent"] > 0) & (so_far["candidate"] > 0)
    return _first(both & (spread > 0) & (apart > _Z * np.sqrt(spread)))


def mann_whitney(seen: Series) -> int | None:
    """Alarm when Kayenta's judge would call the candidate's values `High`.

    A minute without trials has no value. Source: MannWhitneyClassifier of spinnaker/kayenta, with
    the interval of R's wilcox.test (normal approximation, ties and continuity corrected).
    """
    values = {role: seen.share(role) for role in _ROLES}
    windows = len(values["candidate"])
    step = max(1, windows // MANN_WHITNEY_LOOKS)
    for until in range(step, windows + 1, step):
        some = {role: values[role][:until][seen.trials[role][:until] > 0] for role in _ROLES}
        if kayenta_high(some["candidate"], some["incumbent"]):
            return until
    return None


def kayenta_high(candidate: Floats, incumbent: Floats) -> bool:
    """Whether the lower end of the 98 % interval is above a quarter of the estimated shift."""
    if not len(candidate) or not len(incumbent):
        return False
    apart = np.subtract.outer(candidate, incumbent).ravel()
    shift = float(np.median(apart))
    if shift <= 0:
        return False  # the lower end of the interval is below the estimate
    bound = FRACTION * shift
    m, n = len(candidate), len(incumbent)
    wins = float((apart > bound).sum() + 0.5 * (apart == bound).sum())
    ahead = wins - m * n / 2
    _, ties = np.unique(np.concatenate([candidate - bound, incumbent]), return_counts=True)
    correction = (ties**3.0 - ties).sum() / max((m + n) * (m + n - 1), 1)
    variance = m * n / 12 * (m + n + 1 - correction)
    return bool(variance > 0 and ahead - 0.5 > _Z_98 * np.sqrt(variance))


def _first(alarms: Flags) -> int | None:
    return int(alarms.argmax()) + 1 if alarms.any() else None


RIVALS: Final[dict[Rival, Callable[[Series], int | None]]] = {
    "failure-count": failure_count,
    "failure-limit-0": failure_limit,
    "z-test": z_test,
    "mann-whitney": mann_whitney,
}
