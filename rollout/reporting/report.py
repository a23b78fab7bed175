"""The shadow comparison report: what model owners read. Pure: values in, one document out.

`build` turns a rollout's record, its integer counts, its samples, its trace and its audit trail
into a `Report` (`document`), which is the JSON form. `render_html` writes the same document as one
self-contained page (`page`, `charts`), `render_markdown` as text for a pull request (`markdown`).
No figure is computed after `build`.

The report describes. What decided is in it as it was decided: verdicts with the evidence of each
check, from the same values that `explain` and the audit use.
"""

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import Field

from rollout.machine import AuditEntry, Record
from rollout.plan import Stage
from rollout.reporting import markdown, narrative, page
from rollout.reporting.document import (
    Difference,
    Guard,
    Headline,
    Model,
    Report,
    StageReport,
    Totals,
)
from rollout.reporting.stagereport import Judged, Spent, stage_report, wilson
from rollout.reporting.timeline import timeline
from rollout.snapshot import Arm, Frozen, Role, Sample
from rollout.stakes import guard_of, rows
from rollout.tally import percent, read
from rollout.trace import Point
from rollout.verdict import Judgement, Verdict

__all__ = ["Model", "Report", "ReportInput", "build", "render_html", "render_markdown", "wilson"]

DIFFERENCES: Final = 12
"""How many of the requests on which the arms differed most are shown."""


class ReportInput(Frozen):
    """Everything a report is made of. `counts`, `warm_up` and `verdicts` are by stage name."""

    record: Record
    counts: dict[str, dict[str, int]]
    warm_up: dict[str, dict[str, int]] = Field(default_factory=dict)
    """What was counted before every gateway had applied the stage."""
    audit: tuple[AuditEntry, ...] = ()
    samples: tuple[Sample, ...] = ()
    """Of each stage those on which the arms differed most (`Keys.samples`)."""
    truths: dict[str, int] = Field(default_factory=dict)
    """By request, of those of the samples whose truth has come: its id."""
    verdicts: dict[str, Verdict] = Field(default_factory=dict)
    """What stages were left on."""
    judged: Judgement | None = None
    """What the judge says now of the stage that the rollout is in, or was in last."""
    trace: tuple[Point, ...] = ()
    models: dict[Arm, Model] = Field(default_factory=dict)
    made_at: float


def build(input: ReportInput) -> Report:  # noqa: A002 - the name that its callers agreed on
    """Compute every figure. Raises CountsError on counts outside the closed set."""
    record = input.record
    stages = tuple(_stage(input, stage) for stage in record.plan.stages)
    headline, totals = _headline(input), _totals(stages)
    seen = timeline(record, input.trace)
    return Report(
        made_at=input.made_at,
        headline=headline,
        notice=narrative.notice(headline, input.models),
        summary=tuple(narrative.summary(headline, totals, stages, input.models, input.audit)),
        totals=totals,
        targets=record.plan.targets,
        stages=stages,
        timeline=seen,
        guard=_guard(input),
        differences=_differences(input.samples, input.truths),
        sampled=sum(stage.sampled for stage in stages),
        audit=input.audit,
        models=input.models,
        notes=narrative.NOTES,
    )


def render_html(report: Report) -> str:
    """Write the document as one self-contained page: no script, nothing to fetch."""
    return page.render(report)


def render_markdown(report: Report) -> str:
    """Write the document as Markdown: headings, sentences and tables, no HTML and no charts."""
    return markdown.render(report)


def _stage(input: ReportInput, stage: Stage) -> StageReport:  # noqa: A002 - as in build
    record = input.record
    visit = next((one for one in reversed(record.visits) if one.stage == stage.name), None)
    spent = Spent()
    if visit:
        until = visit.left_at or record.ended_at or input.made_at
        spent = Spent(
            entered_at=visit.entered_at,
            left_at=visit.left_at,
            duration_s=until - visit.entered_at,
        )
    verdict, left = input.verdicts.get(stage.name), True
    if verdict is None and input.judged and visit and stage == record.stage:
        verdict, left = input.judged.gate, False
    return stage_report(
        stage,
        read(input.counts.get(stage.name, {})),
        {"incumbent": record.incumbent, "candidate": record.plan.candidate},
        spent=spent,
        judged=Judged(verdict=verdict, left=left),
        warm_up=read(input.warm_up.get(stage.name, {})),
        by_key=record.plan.unit == "key",
        strata=record.plan.stratum_names,
    )


def _guard(input: ReportInput) -> Guard | None:  # noqa: A002 - as in build
    found = guard_of(input.record, input.judged)
    if found is None:
        return None
    verdict, high = found
    judged: Literal["on ending", "at the report"] = (
        "on ending" if input.record.guard else "at the report"
    )
    return Guard(verdict=verdict, judged=judged, high=high, rows=rows(verdict.stakes))


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
        pair_errors_incumbent=_on_pairs(stages, "10"),
        pair_errors_candidate=_on_pairs(stages, "01"),
        mirrored=sum(stage.mirror_intended for stage in stages),
        compared=sum(stage.mirror_compared for stage in stages),
        labels=sum(stage.incumbent.labels + stage.candidate.labels for stage in stages),
        labelled_pairs=sum(stage.labelled_pairs for stage in stages),
    )


def _on_pairs(stages: tuple[StageReport, ...], alone: str) -> int:
    """Count the pairs on which an arm failed: `alone`, or both."""
    return sum(stage.pair_errors[alone] + stage.pair_errors["11"] for stage in stages)


def _differences(samples: tuple[Sample, ...], truths: Mapping[str, int]) -> tuple[Difference, ...]:
    """The sampled requests of which the arms named the fewest ids in common, then by cosine."""
    worst = sorted(samples, key=lambda sample: (sample.agreement, sample.request_id))
    return tuple(
        Difference(
            **sample.model_dump(include=set(Difference.model_fields)),
            shared=len(_named(sample, "incumbent") & _named(sample, "candidate")),
            truth=truths.get(sample.request_id),
            truth_place=_truth_place(sample, truths.get(sample.request_id)),
        )
        for sample in worst[:DIFFERENCES]
    )


def _truth_place(sample: Sample, truth: int | None) -> dict[Role, int | None] | None:
    if truth is None:
        return None
    return {
        role: ids.index(truth) + 1 if truth in ids else None for role, ids in sample.top.items()
    }


def _named(sample: Sample, role: Role) -> set[int]:
    return set(sample.top.get(role, ()))
