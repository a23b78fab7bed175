"""The figures of one stage, for the report: shares, rates, coverage, lengths. Pure.

Rates come with Wilson's interval, which is right for one look at a sample of fixed size; the
difference between the arms on the same requests comes with a confidence sequence, which is right
at every look, because that is what the judge decides by.
"""

import math
from collections.abc import Mapping
from typing import Final

from rollout import wording
from rollout.judging.bounded import mean_interval
from rollout.judging.evidence import ln_e_ratio
from rollout.judging.nearness import nearness
from rollout.plan import Stage
from rollout.reporting.document import (
    ArmReport,
    Coverage,
    LengthArm,
    LengthReport,
    PairDifference,
    Rate,
    Ratio,
    StageReport,
    Whose,
)
from rollout.snapshot import HITS, Arm, Counter, Frozen, Role
from rollout.tally import STRATA, Counts, RoleTally, StageTally, percent, summarise
from rollout.verdict import Verdict

MISMATCH: Final = math.log(1000)
"""An e-value of 1000 against the intended share is an alarm."""
_Z95: Final = 1.959963984540054
_ALL: Final = 100.0


class Spent(Frozen):
    """When a stage was entered and left, as far as it was."""

    entered_at: float | None = None
    left_at: float | None = None
    duration_s: float | None = None


class Judged(Frozen):
    """A stage's verdict, and whether it was left on it."""

    verdict: Verdict | None = None
    left: bool = True


def stage_report(
    stage: Stage,
    counts: Counts,
    arms: Mapping[Role, Arm],
    *,
    spent: Spent,
    judged: Judged,
    warm_up: Counts,
    by_key: bool,
    strata: tuple[str, ...] = STRATA,
) -> StageReport:
    """Compute every figure of a stage from its checked counts."""
    figures, total, early = summarise(stage, counts, strata), counts.total, warm_up.total
    known = dict(figures) | {role: _arm(figures.role(role), arm) for role, arm in arms.items()}
    when = "on leaving" if judged.left else "at the report"
    return StageReport(
        **known,
        reached=spent.entered_at is not None,
        **dict(spent),
        split=_split(stage, figures, by_key=by_key),
        sampling=_sampling(stage, figures, by_key=by_key),
        labelled_pairs=sum(figures.pair_hits[HITS[0]].values()),
        pair_hit_rates=pair_hit_rates(figures.pair_hits),
        pair_differences=pair_differences(figures.pair_hits),
        nearness=nearness(total, by_key=by_key),
        label_coverage=_label_coverage(figures, total),
        lengths=tuple(_length(stage, name, counts, figures.requests) for name in strata),
        warm_up=sum(early.get(Counter.assigned(role), 0) for role in arms),
        sampled=total.get(Counter.SAMPLED, 0),
        verdict=judged.verdict,
        judged=when if judged.verdict else None,
    )


def wilson(successes: int, n: int, z: float = _Z95) -> tuple[float, float] | None:
    """The score interval of a share, in percent; None without observations.

    Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    if n == 0:
        return None
    share, weight = successes / n, z * z / n
    centre = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / n + weight / (4 * n)) / (1 + weight)
    # at the ends the interval is exact: rounding must not leave 1e-16 where 0 is meant
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return 100 * low, 100 * high


def rate(count: int, n: int) -> Rate:
    """Give a share of `n` with its interval."""
    low, high = wilson(count, n) or (None, None)
    return Rate(count=count, n=n, percent=percent(count, n), low=low, high=high)


def pair_hit_rates(
    pair_hits: Mapping[int, Mapping[str, int]],
) -> dict[Role, dict[int, Rate]]:
    """Give each arm's own Hit@k on labelled pairs."""
    hit: dict[Role, tuple[str, str]] = {"incumbent": ("10", "11"), "candidate": ("01", "11")}
    return {
        role: {
            k: rate(sum(outcomes[one] for one in won), sum(outcomes.values()))
            for k, outcomes in pair_hits.items()
        }
        for role, won in hit.items()
    }


def pair_differences(pair_hits: Mapping[int, Mapping[str, int]]) -> dict[int, PairDifference]:
    """Give the candidate's Hit@k minus the incumbent's on labelled pairs, for each k."""
    return {k: pair_difference(outcomes) for k, outcomes in pair_hits.items()}


def pair_difference(outcomes: Mapping[str, int]) -> PairDifference:
    """Give the difference in points, with its 95 % confidence sequence."""
    better, worse = outcomes["01"], outcomes["10"]
    n = sum(outcomes.values())
    if not n:
        return PairDifference(n=0, points=None, low=None, high=None)
    counts = (better, worse, n - better - worse)
    low, high = mean_interval((1.0, -1.0, 0.0), counts, -1.0, 1.0, 0.05)
    points = 100 * (better - worse) / n
    return PairDifference(n=n, points=points, low=100 * low, high=100 * high)


# --- the parts -----------------------------------------------------------------------------------


def _arm(figures: RoleTally, arm: Arm) -> ArmReport:
    return ArmReport(
        **dict(figures),
        arm=arm,
        error_rate=rate(figures.error_count, figures.assigned),
        hit_rates={k: rate(figures.hits[k], figures.labels) for k in HITS},
    )


def _label_coverage(figures: StageTally, total: Mapping[str, int]) -> dict[Whose, Coverage]:
    came: dict[Whose, int] = {
        "incumbent": figures.incumbent.labels,
        "candidate": figures.candidate.labels,
        "pairs": sum(figures.pair_hits[HITS[0]].values()),
    }
    due: dict[Whose, int] = {
        "incumbent": total.get(Counter.due("incumbent"), 0),
        "candidate": total.get(Counter.due("candidate"), 0),
        "pairs": total.get(Counter.PAIR_DUE, 0),
    }
    return {
        whose: Coverage(due=due[whose], came=came[whose], percent=percent(came[whose], due[whose]))
        for whose in came
    }


def _length(stage: Stage, name: str, counts: Counts, requests: int) -> LengthReport:
    figures = summarise(stage, Counts({name: counts.by_stratum.get(name, {})}))
    return LengthReport(
        stratum=name,
        requests=figures.requests,
        percent=percent(figures.requests, requests),
        incumbent=_length_arm(figures.incumbent),
        candidate=_length_arm(figures.candidate),
        compared=figures.mirror_compared,
        cosine=figures.agreement["cosine"].mean,
        labelled_pairs=sum(figures.pair_hits[HITS[0]].values()),
        pair_hit_rates=pair_hit_rates(figures.pair_hits),
        pair_differences=pair_differences(figures.pair_hits),
    )


def _length_arm(figures: RoleTally) -> LengthArm:
    return LengthArm(
        assigned=figures.assigned,
        error_count=figures.error_count,
        error_percent=figures.error_percent,
        latency_ms=figures.latency_ms,
        arm_latency_ms=figures.arm_latency_ms,
    )


# --- the split -----------------------------------------------------------------------------------


def _split(stage: Stage, figures: StageTally, *, by_key: bool) -> Ratio:
    shadow = stage.mode == "shadow"
    counted = figures.mirror_intended if shadow else figures.candidate.assigned
    return _ratio(stage.weight, counted, figures.requests, by_key=by_key)


def _sampling(stage: Stage, figures: StageTally, *, by_key: bool) -> Ratio | None:
    if stage.mode == "shadow":
        return None
    return _ratio(stage.shadow_sample, figures.mirror_intended, figures.requests, by_key=by_key)


def _ratio(intended: float, counted: int, of: int, *, by_key: bool) -> Ratio:
    """Check that `counted` of `of` requests fit the intended share (percent)."""
    found = Ratio(
        intended=intended, counted=counted, of=of, actual=percent(counted, of), ln_e=None,
        kind="no data", reason="no request was counted",
    )  # fmt: skip
    if of == 0:
        return found
    if intended in (0, _ALL):
        exact = counted == round(of * intended / 100)
        reason = "at 0 % and at 100 % every single request must go one way"
        return found.model_copy(
            update={"kind": "consistent" if exact else "mismatch", "reason": reason}
        )
    if counted > of:
        reason = "more requests were counted on one way than in all: the counts are incomplete"
        return found.model_copy(update={"kind": "mismatch", "reason": reason})
    if by_key:
        reason = "assignment is by key, so requests are no independent draws"
        return found.model_copy(update={"kind": "not tested", "reason": reason})
    share = intended / 100
    ln_e = ln_e_ratio((counted, of - counted), (share, 1 - share))
    kind = "mismatch" if ln_e >= MISMATCH else "consistent"
    reason = f"the e-value against the intended share is {wording.evidence(ln_e)}; alarm at 1,000"
    return found.model_copy(update={"ln_e": ln_e, "kind": kind, "reason": reason})
