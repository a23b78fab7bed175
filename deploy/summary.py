"""A finished rollout as a table for a terminal: one column a stage, figures from its report."""

from collections.abc import Callable, Iterator
from typing import Final

from rich.table import Table

from rollout.latencies import Quantiles
from rollout.reporting.document import ArmReport, Rate, Report, StageReport
from rollout.snapshot import HITS, Role

NOTHING: Final = "no data"
ROLES: Final[tuple[Role, ...]] = ("incumbent", "candidate")
Row = tuple[str, Callable[[StageReport], str]]


def stage_table(report: Report) -> Table:
    """Lay out what happened in each stage: requests, shares, errors, latency, agreement, hits."""
    table = Table(title=f"Rollout {report.headline.rollout}", title_justify="left", box=None)
    table.add_column("", style="dim", no_wrap=True)
    for stage in report.stages:
        table.add_column(f"{stage.intended_share:g} % {stage.mode}", justify="right", no_wrap=True)
    arms = {"incumbent": report.headline.incumbent, "candidate": report.headline.candidate}
    for rows in (_traffic(arms), _latency(arms), _agreement(), _hits(arms)):
        for name, cell in rows:
            table.add_row(name, *(cell(stage) for stage in report.stages))
        table.add_section()
    table.add_row(
        "gate", *(stage.verdict.kind if stage.verdict else "-" for stage in report.stages)
    )
    return table


def _traffic(arms: dict[str, str]) -> Iterator[Row]:
    for role in ROLES:
        yield f"requests, {arms[role]}", _arm(role, lambda arm: str(arm.assigned))
    yield "share intended", lambda stage: f"{stage.intended_share:g} %"
    yield "share actual", lambda stage: percent(stage.actual_share)
    for role in ROLES:
        yield f"errors, {arms[role]}", _arm(role, lambda arm: str(arm.error_count))


def _latency(arms: dict[str, str]) -> Iterator[Row]:
    for role in ROLES:
        yield f"ms p50 / p95, {arms[role]}", _arm(role, lambda arm: quantiles(arm.latency_ms))
    for role in ROLES:
        own = _arm(role, lambda arm: quantiles(arm.arm_latency_ms))
        yield f"  own on pairs, {arms[role]}", own


def _agreement() -> Iterator[Row]:
    yield "pairs compared", lambda stage: str(stage.pairs)
    yield "cosine of the arms, mean", lambda stage: decimal(stage.agreement["cosine"].mean)
    yield "overlap@10, mean", lambda stage: decimal(stage.agreement["overlap10"].mean)


def _hits(arms: dict[str, str]) -> Iterator[Row]:
    for role in ROLES:
        yield f"labels, {arms[role]}", _arm(role, lambda arm: str(arm.labels))
        yield f"Hit@1/5/10 %, {arms[role]}", _arm(role, lambda arm: hits(arm.hit_rates))
    for role in ROLES:
        yield f"  on pairs, {arms[role]}", _on_pairs(role)


def _arm(role: Role, cell: Callable[[ArmReport], str]) -> Callable[[StageReport], str]:
    return lambda stage: cell(stage.role(role))


def _on_pairs(role: Role) -> Callable[[StageReport], str]:
    return lambda stage: hits(stage.pair_hit_rates[role])


def percent(value: float | None) -> str:
    """Write a percentage, or that there is none."""
    return NOTHING if value is None else f"{value:.1f} %"


def decimal(value: float | None) -> str:
    """Write a figure between -1 and 1, or that there is none."""
    return NOTHING if value is None else f"{value:.2f}"


def quantiles(latency: Quantiles) -> str:
    """Write median and 95th percentile in milliseconds, or that there are none."""
    if latency.p50 is None or latency.p95 is None:
        return NOTHING
    return f"{latency.p50:.0f} / {latency.p95:.0f}"


def hits(rates: dict[int, Rate]) -> str:
    """Write Hit@1/5/10 in percent, or that no label arrived."""
    shares = [rates[k].percent for k in HITS]
    return (
        NOTHING
        if None in shares
        else "/".join(f"{share:.0f}" for share in shares if share is not None)
    )
