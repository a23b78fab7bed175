"""Counts and a plan in, a verdict with its reasons out. Pure.

A failure is an e-value of 100 or more (wrong at most once in a hundred rollouts, at any look); a
pass is, for now, a threshold on the observed share, and its reason says so.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from rollout.evidence import ln_e_plus, ln_e_ratio
from rollout.plan import Plan, Stage
from rollout.tally import Counts, StageTally, percent, summarise
from rollout.verdict import Check, Evidence, Judgement, Kind, Verdict, combine, unreadable
from rollout.wording import span

__all__ = [
    "Check", "Evidence", "Judgement", "Kind", "Seen", "Verdict", "combine", "judge", "unreadable",
]  # fmt: skip

LN_E_BREACH: Final = math.log(100)
"""Evidence that fails a rollout (alpha = 0.01)."""
LN_E_RATIO: Final = math.log(1000)
"""Evidence that the split is not the one intended."""


class Attempts(NamedTuple):
    """The candidate's own attempts, and how many of them failed."""

    total: int
    failed: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What one visited stage has shown under the present evidence epoch."""

    stage: Stage
    counts: Counts
    """The totals without the minutes newer than the plan's watermark."""
    labels: Counts
    """The totals without the minutes whose label window is open (`Plan.labels`)."""


def judge(
    plan: Plan,
    seen: Sequence[Seen],
    elapsed_s: float,
    *,
    marks: Collection[str] = ("budget",),
    guard_high: float = 0.0,
) -> Judgement:
    """Say whether the gate of the last stage of `seen` is open, and whether the guard fires.

    `seen` holds the stages visited under the present evidence epoch, in order; the last one is the
    present one and was entered `elapsed_s` seconds ago. `marks` names the latency marks that were
    frozen at `start`; `guard_high` is the `Judgement.guard_high` of the last look.
    """
    del marks
    stage, tally = seen[-1].stage, summarise(seen[-1].stage, seen[-1].counts)
    checks = [
        _duration(stage, elapsed_s),
        _requests(stage, tally),
        _errors(stage, tally, plan),
    ]
    if stage.mirrors:
        checks += [_pairs(stage, tally), _coverage(tally, plan)]
    if stage.splits and plan.unit == "request":
        checks.append(_ratio(stage, tally))
    found = Judgement.of(combine(tuple(checks)))
    return replace(found, guard_high=guard_high)


def attempts(stage: Stage, tally: StageTally) -> Attempts:
    """Count the candidate's own attempts: the mirrored pairs in shadow, else those assigned."""
    if stage.mode == "shadow":
        failed = tally.pair_errors["01"] + tally.pair_errors["11"]
        return Attempts(tally.pairs, failed)
    return Attempts(tally.candidate.assigned, tally.candidate.error_count)


# --- the checks ----------------------------------------------------------------------------------


def _duration(stage: Stage, elapsed_s: float) -> Check:
    need = span(stage.min_duration_s)
    enough = elapsed_s >= stage.min_duration_s
    spent = span(elapsed_s)
    return Check(
        name="minimum duration",
        kind="PASS" if enough else "INCONCLUSIVE",
        observed=spent,
        required=f"at least {need}",
        reason=_progress(spent, need, f"in the stage {stage.name}", enough=enough),
    )


def _requests(stage: Stage, tally: StageTally) -> Check:
    need = max(1, stage.min_requests)  # no data never passes, whatever the plan asks for
    enough = tally.requests >= need
    return Check(
        name="minimum requests",
        kind="PASS" if enough else "INCONCLUSIVE",
        observed=f"{tally.requests}",
        required=f"at least {need}",
        reason=_progress(tally.requests, need, "requests in scope", enough=enough),
    )


def _pairs(stage: Stage, tally: StageTally) -> Check:
    enough = tally.pairs >= stage.min_pairs
    return Check(
        name="minimum pairs",
        kind="PASS" if enough else "INCONCLUSIVE",
        observed=f"{tally.pairs}",
        required=f"at least {stage.min_pairs}",
        reason=_progress(
            tally.pairs, stage.min_pairs, "requests that both arms answered", enough=enough
        ),
    )


def _coverage(tally: StageTally, plan: Plan) -> Check:
    """Look for mirrors that were lost; one that ended in an arm's error was seen, and is judged."""
    seen, intended = tally.pairs, tally.mirror_intended
    share = percent(seen, intended)
    kind: Kind = "PASS"
    if share is None:
        kind = "INCONCLUSIVE"
    elif share < plan.min_mirror_coverage:
        kind = "ERROR"
    why = ", ".join(f"{count} {name}" for name, count in tally.mirror_dropped.items())
    dropped = f" (dropped: {why})" if why and kind == "ERROR" else ""
    return Check(
        name="mirror coverage",
        kind=kind,
        observed=_share(share),
        required=f"at least {_share(plan.min_mirror_coverage)}",
        reason=f"{seen} of {intended} intended mirrors were seen to their end{dropped}",
    )


def _errors(stage: Stage, tally: StageTally, plan: Plan) -> Check:
    total, failed = attempts(stage, tally)
    limit = plan.max_error_rate
    observed = percent(failed, total)
    found = f"the candidate failed {failed} of {total} attempts"
    ln_e = _ln_e_breach(failed, max(0, total - failed), limit / 100)
    kind: Kind
    if failed > total:
        kind, reason = "ERROR", f"{found}, which cannot be: the counts contradict each other"
    elif observed is None:
        kind, reason = "INCONCLUSIVE", "the candidate has not been tried yet"
    elif ln_e >= LN_E_BREACH:
        kind = "FAIL"
        proof = f"an e-value of {_e_value(ln_e)} (100 or more is a FAIL)"
        reason = f"{found}, more than {_share(limit)} with {proof}"
    elif observed > limit:
        kind = "INCONCLUSIVE"
        reason = (
            f"{found}: {_share(observed)} is above {_share(limit)}, "
            f"but an e-value of {_e_value(ln_e)} is no proof (100 or more would be)"
        )
    else:
        kind = "PASS"
        reason = (
            f"{found}: {_share(observed)} is at or below {_share(limit)} "
            "(a threshold on the observed share, not a test yet)"
        )
    return Check(
        name="candidate errors",
        kind=kind,
        observed=_share(observed),
        required=f"at most {_share(limit)}",
        reason=reason,
    )


def _ratio(stage: Stage, tally: StageTally) -> Check:
    counts = (tally.incumbent.assigned, tally.candidate.assigned)
    weight = stage.weight / 100
    ln_e = ln_e_ratio(counts, (1 - weight, weight))
    found = f"{counts[1]} of {sum(counts)} requests were assigned to the candidate"
    return Check(
        name="sample ratio",
        kind="ERROR" if ln_e >= LN_E_RATIO else "PASS" if sum(counts) else "INCONCLUSIVE",
        observed=_share(percent(counts[1], sum(counts))),
        required=f"{_share(stage.weight)}, e-value below 1000",
        reason=f"{found}, {_share(stage.weight)} intended: e-value {_e_value(ln_e)}",
    )


def _progress(found: object, need: object, what: str, *, enough: bool) -> str:
    """Say how far it is, or that it is far enough: `12 of 40 pairs`, `56 pairs (20 needed)`."""
    return f"{found} {what} ({need} needed)" if enough else f"{found} of {need} {what}"


def _ln_e_breach(failed: int, fine: int, limit: float) -> float:
    """Weigh the evidence that more than `limit` fail; the ends of the range need no statistics."""
    if limit >= 1:
        return -math.inf
    if limit <= 0:
        return math.inf if failed else -math.inf
    return ln_e_plus(failed, fine, limit)


def _share(value: float | None) -> str:
    return "none yet" if value is None else f"{value:.4g} %"


def _e_value(ln_e: float) -> str:
    """Write an e-value so that a person can compare it with 100."""
    if math.log(0.01) < ln_e < math.log(1e6):
        return f"{math.exp(ln_e):.3g}"
    return f"1e{ln_e / math.log(10):+.0f}" if math.isfinite(ln_e) else "infinity"
