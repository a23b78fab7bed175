"""The table at the end of a demo shows the report's own figures."""

import io

from example_rollout import example
from rich.console import Console

from deploy.summary import NOTHING, decimal, hits, percent, quantiles, stage_table
from rollout.latencies import Quantiles
from rollout.reporting.document import Rate
from rollout.reporting.report import Report, build


def shown(report: Report) -> dict[str, list[str]]:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(stage_table(report))
    rows = [line.split("  ") for line in console.export_text().splitlines()]
    return {
        cells[0].strip(): [c.strip() for c in cells[1:] if c.strip()] for cells in rows if cells
    }


def test_each_stage_is_a_column_with_the_figures_of_the_report() -> None:
    report = build(example(requests=400))
    table = shown(report)
    arm = report.headline.candidate
    assert table[f"requests, {arm}"] == [str(s.candidate.assigned) for s in report.stages]
    assert table["share actual"] == [percent(stage.actual_share) for stage in report.stages]
    assert table["pairs compared"] == [str(stage.pairs) for stage in report.stages]
    assert table["gate"] == [s.verdict.kind if s.verdict else "-" for s in report.stages]


def test_what_was_not_measured_is_no_data_and_never_0() -> None:
    nobody = Rate(count=0, n=0, percent=None, low=None, high=None)
    assert percent(None) == decimal(None) == NOTHING
    assert quantiles(Quantiles(n=0, p50=None, p95=None, p99=None)) == NOTHING
    assert hits(dict.fromkeys((1, 5, 10), nobody)) == NOTHING
