"""The shadow comparison report: what model owners read. Pure: values in, one document out.

`build` turns a rollout's record, its integer counts, its sampled requests and its audit trail into
a `Report` (rollout.document), which is the JSON form. `render_html` writes the same document as
one self-contained page (rollout.page, rollout.charts). No figure is computed after `build`.

The report describes. Its intervals are for one look at a sample of fixed size; the decisions of the
rollout come from the judge, whose tests may be looked at any number of times.
"""

import math
from typing import Final

from pydantic import Field

from rollout import narrative, page, wording
from rollout.document import (
    ArmReport,
    Difference,
    Headline,
    Model,
    Rate,
    Ratio,
    Report,
    StageReport,
    Totals,
)
from rollout.evidence import ln_e_ratio
from rollout.judge import Verdict
from rollout.machine import AuditEntry, Record
from rollout.plan import Stage
from rollout.snapshot import HITS, Arm, Frozen, Role, Sample
from rollout.tally import RoleTally, StageTally, percent, tally

__all__ = ["Model", "Report", "ReportInput", "build", "render_html", "wilson"]

MISMATCH: Final = math.log(1000)
"""An e-value of 1000 against the intended share is an alarm."""
DIFFERENCES: Final = 12
"""How many of the requests on which the arms differed most are shown."""
_Z95: Final = 1.959963984540054
_ALL: Final = 100.0


class ReportInput(Frozen):
    """Everything a report is made of. `counts` and `verdicts` are by stage name."""

    record: Record
    counts: dict[str, dict[str, int]]
    audit: tuple[AuditEntry, ...] = ()
    samples: tuple[Sample, ...] = ()
    verdicts: dict[str, Verdict] = Field(default_factory=dict)
    models: dict[Arm, Model] = Field(default_factory=dict)
    made_at: float


def build(input: ReportInput) -> Report:  # noqa: A002 - the name that its callers agreed on
    """Compute every figure. Raises CountsError on counts outside the closed set."""
    stages = tuple(_stage(input, stage) for stage in input.record.plan.stages)
    headline, totals = _headline(input), _totals(stages)
    return Report(
        made_at=input.made_at,
        headline=headline,
        notice=narrative.notice(headline, input.models),
        summary=tuple(narrative.summary(headline, totals, stages, input.models)),
        totals=totals,
        targets=input.record.plan.targets,
        stages=stages,
        differences=_differences(input.samples),
        samples=len(input.samples),
        audit=input.audit,
        models=input.models,
        notes=narrative.NOTES,
    )


def render_html(report: Report) -> str:
    """Write the document as one self-contained page: no script, nothing to fetch."""
    return page.render(report)


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


# --- one stage -----------------------------------------------------------------------------------


def _stage(input: ReportInput, stage: Stage) -> StageReport:  # noqa: A002 - as in build
    record = input.record
    figures = tally(stage, input.counts.get(stage.name, {}))
    visit = next((visit for visit in record.visits if visit.stage == stage.name), None)
    until = (visit.left_at or record.ended_at or input.made_at) if visit else None
    arms = {"incumbent": record.incumbent, "candidate": record.plan.candidate}
    known = dict(figures) | {
        role: _arm(figures.role(role), arms[role]) for role in ("incumbent", "candidate")
    }
    return StageReport(
        **known,
        reached=visit is not None,
        entered_at=visit.entered_at if visit else None,
        left_at=visit.left_at if visit else None,
        duration_s=until - visit.entered_at if visit and until is not None else None,
        split=_split(stage, figures, by_key=record.plan.unit == "key"),
        sampling=_sampling(stage, figures, by_key=record.plan.unit == "key"),
        labelled_pairs=sum(figures.pair_hits[HITS[0]].values()),
        pair_hit_rates={
            "incumbent": _pair_hit_rates(figures, ("10", "11")),
            "candidate": _pair_hit_rates(figures, ("01", "11")),
        },
        verdict=input.verdicts.get(stage.name),
    )


def _arm(figures: RoleTally, arm: Arm) -> ArmReport:
    return ArmReport(
        **dict(figures),
        arm=arm,
        error_rate=_rate(figures.error_count, figures.assigned),
        hit_rates={k: _rate(figures.hits[k], figures.labels) for k in HITS},
    )


def _pair_hit_rates(figures: StageTally, hit: tuple[str, str]) -> dict[int, Rate]:
    return {
        k: _rate(sum(outcomes[outcome] for outcome in hit), sum(outcomes.values()))
        for k, outcomes in figures.pair_hits.items()
    }


def _rate(count: int, n: int) -> Rate:
    low, high = wilson(count, n) or (None, None)
    return Rate(count=count, n=n, percent=percent(count, n), low=low, high=high)


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


# --- the whole -----------------------------------------------------------------------------------


def _headline(input: ReportInput) -> Headline:  # noqa: A002 - as in build
    record = input.record
    own = [entry for entry in input.audit if entry.rollout == record.id]
    return Headline(
        rollout=record.id,
        plan=record.plan.name,
        state=record.state,
        candidate=record.plan.candidate,
        incumbent=record.incumbent,
        scope=record.plan.scope,
        unit=record.plan.unit,
        evidence_epoch=record.evidence_epoch,
        stage=record.stage.name,
        started_at=record.started_at,
        started_by=own[0].actor if own else None,
        ended_at=record.ended_at,
        ended_by=own[-1].actor if own and record.ended else None,
        duration_s=(record.ended_at or input.made_at) - record.started_at,
    )


def _totals(stages: tuple[StageReport, ...]) -> Totals:
    candidate = sum(stage.candidate.assigned for stage in stages)
    requests = sum(stage.requests for stage in stages)
    return Totals(
        requests=requests,
        incumbent=requests - candidate,
        candidate=candidate,
        candidate_percent=percent(candidate, requests),
        errors_incumbent=sum(stage.incumbent.error_count for stage in stages),
        errors_candidate=sum(stage.candidate.error_count for stage in stages),
        mirrored=sum(stage.mirror_intended for stage in stages),
        compared=sum(stage.mirror_compared for stage in stages),
        labels=sum(stage.incumbent.labels + stage.candidate.labels for stage in stages),
    )


def _differences(samples: tuple[Sample, ...]) -> tuple[Difference, ...]:
    """The sampled requests with the lowest cosine, then the lowest overlap."""
    worst = sorted(samples, key=lambda sample: (sample.cosine, sample.overlap10, sample.request_id))
    return tuple(
        Difference(
            **sample.model_dump(include=set(Difference.model_fields)),
            nearest={role: _first(sample, role) for role in ("incumbent", "candidate")},
        )
        for sample in worst[:DIFFERENCES]
    )


def _first(sample: Sample, role: Role) -> int | None:
    return next(iter(sample.top.get(role, ())), None)
