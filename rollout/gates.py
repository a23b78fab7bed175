"""The words of a plan about evidence: what a gate may require, what the guard weighs. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from rollout.snapshot import Mode

Required = Literal[
    "paired_errors",
    "errors",
    "latency_budget",
    "latency_relative",
    "mirror_coverage",
    "label_coverage",
    "hits",
    "targets",
    "agreement",
]
"""A check that a gate may require; the others of these are reported."""
MEANING: Final[Mapping[Required, str]] = {
    "paired_errors": "on pairs, the candidate fails at most error_margin points more often",
    "errors": "the candidate fails at most error_ratio times as often, or at most max_error_rate",
    "latency_budget": "the latency_quantile of the candidate is at most latency_budget_s",
    "latency_relative": "its quantiles are at most latency_margins above the incumbent's",
    "mirror_coverage": "min_mirror_coverage of the intended comparisons were made",
    "label_coverage": "min_label_coverage of the awaited truths arrived",
    "hits": "Hit@gate_hit is at most hit_margin points lower, and at most hit_stratum_margin "
    "points lower in every stratum with major_stratum percent of the traffic",
    "targets": "every Hit@k of the candidate is at or above its target",
    "agreement": "the arms agree at least as much as agreement_floor asks",
}
NEEDS_PAIRS: Final[frozenset[Required]] = frozenset(
    {"paired_errors", "mirror_coverage", "agreement"}
)
HALF: Final = 50.0
ALL: Final = 100.0

GuardMetric = Literal["error_rate", "paired_errors", "errors", "latency_budget", "hits"]
"""What the rollback guard weighs."""
DEFAULT_GUARD: Final[Mapping[GuardMetric, float]] = {
    "error_rate": 1,
    "paired_errors": 1,
    "errors": 1,
    "latency_budget": 1,
    "hits": 1,
}
LatencyQuantile = Literal["p50", "p95", "p99"]
QUANTILES: Final[Mapping[LatencyQuantile, float]] = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
Agreement = Literal["cosine", "overlap1", "overlap5", "overlap10", "rbo"]


def default_requirements(mode: Mode, weight: float, *, mirrors: bool) -> tuple[Required, ...]:
    """Say what a stage requires that does not say it itself.

    Each stage asks for more than the one before it: in the shadow nobody is served, so errors, the
    latency budget and coverage; with clients also the errors that they get; from half of the
    traffic on also the quality of the answers. At 100 % there is no split left to compare in.
    """
    paired: tuple[Required, ...] = ("paired_errors",) if mirrors else ()
    coverage: tuple[Required, ...] = ("mirror_coverage",) if mirrors else ()
    if mode == "shadow":
        return (*paired, "latency_budget", *coverage)
    quality: tuple[Required, ...] = ("hits",) if HALF <= weight < ALL else ()
    return (*paired, "errors", "latency_budget", *coverage, *quality)


def requirement_faults(path: str, stage: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Find what a stage requires and cannot measure: (path, what is wrong)."""
    required = stage.get("require")
    if required is None or "mode" not in stage or "shadow_sample" not in stage:
        return
    mode, weight = stage["mode"], stage.get("weight", 0)
    mirrors = mode == "shadow" or stage["shadow_sample"] > 0
    seen: set[str] = set()
    for index, name in enumerate(required):
        where = f"{path}.require[{index}]"
        if name in seen:
            yield where, f"{name} stands twice"
        seen.add(name)
        if not mirrors and (name in NEEDS_PAIRS or (weight == ALL and name == "hits")):
            yield where, f"{name} needs pairs: set shadow_sample, or require something else"
        if not mirrors and weight == ALL and name == "latency_relative":
            yield where, f"{name} needs pairs at 100 %: set shadow_sample, or require another"
        if mode == "shadow" and name == "errors":
            yield where, "errors are those of answers, and a shadow answers nobody: paired_errors"
