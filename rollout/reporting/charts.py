"""The report's charts: what each one shows. How one is drawn is in `drawing`.

Each panel is drawn near the size of a phone's column and set side by side by the page, so its
words stay readable on any screen. Colours are of the Okabe-Ito palette (Nature Methods 8, 441,
2011), one per arm everywhere, and every mark also differs in place or shape. A chart never draws
what was not measured: an arm without data has no mark, a chart without data has no panel.
"""

from collections.abc import Callable, Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from rollout import wording
from rollout.latencies import Quantiles
from rollout.reporting import timecharts
from rollout.reporting.document import ArmReport, LengthArm, LengthReport, Report, StageReport
from rollout.reporting.drawing import (
    FAINT,
    INK,
    Panel,
    canvas,
    log_ticks,
    panel,
    row_of_panels,
    svg,
)
from rollout.snapshot import HITS, Role
from rollout.tally import Agreement

COLOURS: Final[dict[Role, str]] = {"incumbent": "#0072B2", "candidate": "#D55E00"}
BOTH: Final = "#4B7F6B"
"""Figures of a pair belong to neither arm."""
_ROOM: Final = 70.0
"""Percent: a bar that is longer leaves no room for words to its right."""
_ROLES: Final[tuple[Role, ...]] = ("incumbent", "candidate")
_LANES: Final[dict[Role, float]] = {"incumbent": -0.18, "candidate": 0.18}


def draw(report: Report) -> dict[str, list[Panel]]:
    """Draw every chart of the page, by name. A chart without any data has no panels."""
    reached = [stage for stage in report.stages if stage.reached]
    with canvas():
        return {
            "traffic": _traffic(reached),
            "latency": _latency(
                reached, "latency", "What clients waited for", lambda arm: arm.latency_ms
            ),
            "arm-latency": _latency(
                reached,
                "arm-latency",
                "The arms' own time, on mirrored pairs",
                lambda arm: arm.arm_latency_ms,
            ),
            "cosine": _agreements(reached, "cosine", "cosine of the two predictions"),
            "overlaps": _overlaps(reached),
            "rbo": _agreements(reached, "rbo", "rank-biased overlap (p = 0.9)"),
            "hits": _hits(reached, report.targets),
            "lengths": _lengths(reached),
            "evidence": timecharts.evidence(report),
            "paired": timecharts.paired(report),
        }


# --- traffic -------------------------------------------------------------------------------------


def _traffic(stages: Sequence[StageReport]) -> list[Panel]:
    """Bars: the candidate's actual share of each stage; a black tick: the intended one."""
    if not any(stage.requests for stage in stages):
        return []
    figure, axes = panel(4.6, 0.75 + 0.42 * len(stages))
    for row, stage in enumerate(stages):
        actual = stage.split.actual
        if actual is not None:
            shadow = stage.mode == "shadow"
            axes.barh(
                row, actual, height=0.52, linewidth=0.8, edgecolor=COLOURS["candidate"],
                facecolor="white" if shadow else COLOURS["candidate"],
                hatch="/////" if shadow else None,
            )  # fmt: skip
        axes.plot([stage.split.intended] * 2, [row - 0.38, row + 0.38], color=INK, linewidth=1.6)
        _share_label(axes, row, stage)
    _rows(axes, stages)
    axes.set_xlim(0, 104)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("share of the requests in scope (%)")
    told = "; ".join(
        f"{stage.stage}: intended {wording.percent(stage.split.intended)}, "
        f"actual {wording.write(stage.split.actual, 'percent')}"
        for stage in stages
    )
    label = f"The candidate's share of traffic by stage, intended and actual. {told}."
    return [Panel("The candidate's share of traffic", svg(figure, "traffic", label))]


def _share_label(axes: Axes, row: int, stage: StageReport) -> None:
    """Write the share inside a long bar, else to the right of the bar and of a near tick."""
    actual, intended, shadow = stage.split.actual, stage.split.intended, stage.mode == "shadow"
    words = wording.write(actual, "percent") + " mirrored" * (shadow and actual is not None)
    end = actual or 0.0
    inside = end > _ROOM
    place = end if inside or intended > _ROOM else max(end, intended)
    axes.annotate(
        words, (place, row), xytext=(-7 if inside else 7, 0), textcoords="offset points",
        ha="right" if inside else "left", va="center",
        color="white" if inside and not shadow else INK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5} if shadow else None,
    )  # fmt: skip


# --- latency -------------------------------------------------------------------------------------


def _latency(
    stages: Sequence[StageReport], name: str, heading: str, of: Callable[[ArmReport], Quantiles]
) -> list[Panel]:
    """A line from p50 (filled) to p95 (open) per arm and stage, p99 a tick, on a log axis."""
    found = {
        (row, role): quantiles
        for row, stage in enumerate(stages)
        for role in _ROLES
        if (quantiles := of(stage.role(role))).n
    }
    if not found:
        return []
    figure, axes = panel(4.6, 0.75 + 0.5 * len(stages))
    for (row, role), quantiles in found.items():
        _range(axes, row + _LANES[role], quantiles, COLOURS[role])
    _rows(axes, stages)
    _milliseconds(axes)
    axes.set_xlabel("milliseconds, logarithmic: ● p50   ○ p95   | p99")
    told = "; ".join(
        f"{stages[row].stage}, {role}: p50 {wording.write(quantiles.p50, 'ms')}, "
        f"p95 {wording.write(quantiles.p95, 'ms')}"
        for (row, role), quantiles in found.items()
    )
    label = f"{heading}, by stage and arm. {told}."
    return [Panel(heading, svg(figure, name, label))]


def _range(axes: Axes, y: float, quantiles: Quantiles, colour: str) -> None:
    p50, p95, p99 = quantiles.p50 or 0, quantiles.p95 or 0, quantiles.p99 or 0
    axes.plot([p50, p99], [y, y], color=colour, linewidth=0.8, alpha=0.6)
    axes.plot([p50, p95], [y, y], color=colour, linewidth=2.6, alpha=0.55, solid_capstyle="butt")
    axes.plot([p99, p99], [y - 0.09, y + 0.09], color=colour, linewidth=1.2)
    axes.plot(p50, y, "o", color=colour, markersize=5)
    axes.plot(p95, y, "o", markeredgecolor=colour, markerfacecolor="white", markersize=5)


# --- agreement -----------------------------------------------------------------------------------


def _agreements(stages: Sequence[StageReport], name: str, axis: str) -> list[Panel]:
    """One histogram per stage that compared pairs, all on the same axes."""
    found = [(stage.stage, stage.agreement[name]) for stage in stages if stage.agreement[name].n]
    if not found:
        return []
    low = min(agreement.histogram[0][0] for _, agreement in found)
    width = 0.05 if low < 0.4 else 0.02  # noqa: PLR2004 - about 20 to 40 bars
    low = min(0.8, width * (low // width))
    shown = [_rebinned(agreement, width) for _, agreement in found]
    top = max(max(bars.values()) for bars in shown)
    return [
        _histogram(f"{name}-{index}", stage, agreement, bars, axis=axis, width=width,
                   limits=(low, top))
        for index, ((stage, agreement), bars) in enumerate(zip(found, shown, strict=True))
    ]  # fmt: skip


def _rebinned(agreement: Agreement, width: float) -> dict[float, float]:
    """Percent of the pairs by the lower edge of bins of `width`."""
    bars: dict[float, float] = {}
    for value, count in agreement.histogram:
        edge = round((value + 1e-9) // width * width, 2)
        bars[edge] = bars.get(edge, 0) + 100 * count / agreement.n
    return bars


def _histogram(
    name: str,
    stage: str,
    agreement: Agreement,
    bars: dict[float, float],
    *,
    axis: str,
    width: float,
    limits: tuple[float, float],
) -> Panel:
    figure, axes = panel(2.9, 1.75)
    edges = list(bars)
    axes.bar(
        edges, [bars[edge] for edge in edges], width=width * 0.92, align="edge", color=BOTH,
        linewidth=0,
    )  # fmt: skip
    low, top = limits
    axes.set_xlim(low, 1 + width)
    axes.set_ylim(0, top * 1.22)
    median = agreement.p50 or 0.0
    axes.plot([median, median], [0, top * 1.06], color=INK, linewidth=1, linestyle=(0, (3, 2)))
    right = median > (low + 1) / 2
    axes.annotate(
        f"median {median:.2f}", (median, top * 1.06), xytext=(3 if not right else -3, 0),
        textcoords="offset points", ha="right" if right else "left", va="center",
    )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.set_ylabel("% of pairs")
    axes.set_xlabel(axis)
    label = (
        f"Distribution of the {axis} in {stage}: {wording.count(agreement.n)} pairs, mean "
        f"{wording.write(agreement.mean, 'score')}, median {median:.2f}, 10th percentile "
        f"{wording.write(agreement.p10, 'score')}."
    )
    return Panel(f"{stage}, {wording.count(agreement.n)} pairs", svg(figure, name, label))


def _overlaps(stages: Sequence[StageReport]) -> list[Panel]:
    """One panel per stage: how many of the first 1, 5 and 10 neighbours both arms named."""
    found = [stage for stage in stages if stage.agreement["overlap10"].n]
    return [_overlap_panel(f"overlaps-{index}", stage) for index, stage in enumerate(found)]


def _overlap_panel(name: str, stage: StageReport) -> Panel:
    figure, places = row_of_panels(2.9, 1.75, [2.0, 3.4, 5.6])
    for axes, k in zip(places, HITS, strict=True):
        agreement = stage.agreement[f"overlap{k}"]
        bars = _rebinned(agreement, 0.01)
        axes.bar(list(bars), list(bars.values()), width=0.72 / k if k > 1 else 0.6, color=BOTH,
                 linewidth=0)  # fmt: skip
        axes.set_xlim(-0.6 / k - 0.02, 1 + 0.6 / k + 0.02)
        axes.set_ylim(0, 100)
        axes.set_xticks([0, 1])
        axes.set_xlabel(f"of {k}")
        axes.yaxis.set_major_locator(MaxNLocator(4))
        if k > HITS[0]:
            axes.tick_params(axis="y", labelleft=False)
    places[0].set_ylabel("% of pairs")
    told = "; ".join(
        f"overlap@{k} mean {wording.write(stage.agreement[f'overlap{k}'].mean, 'score')}"
        for k in HITS
    )
    n = wording.count(stage.agreement["overlap10"].n)
    label = f"Distribution of the overlap of the first neighbours in {stage.stage}: {n} pairs. "
    return Panel(f"{stage.stage}, {n} pairs", svg(figure, name, f"{label}{told}."))


# --- lengths -------------------------------------------------------------------------------------


def _lengths(stages: Sequence[StageReport]) -> list[Panel]:
    """Per stage: what clients of each arm waited for, by length of the context."""
    drawn = []
    for index, stage in enumerate(stages):
        rows = [row for row in stage.lengths if row.incumbent.latency_ms.n + _of(row).latency_ms.n]
        if rows:
            drawn.append(_length_panel(f"lengths-{index}", stage.stage, rows))
    return drawn


def _of(row: LengthReport, role: Role = "candidate") -> LengthArm:
    return row.candidate if role == "candidate" else row.incumbent


def _length_panel(name: str, stage: str, rows: Sequence[LengthReport]) -> Panel:
    figure, axes = panel(2.9, 0.75 + 0.36 * len(rows))
    for place, row in enumerate(rows):
        for role in _ROLES:
            if _of(row, role).latency_ms.n:
                quantiles = _of(row, role).latency_ms
                _range(axes, place + _LANES[role], quantiles, COLOURS[role])
    axes.set_yticks(range(len(rows)), [row.stratum for row in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    _milliseconds(axes)
    axes.set_xlabel("milliseconds")
    told = "; ".join(
        f"{row.stratum} vectors, {role}: p50 {wording.write(_of(row, role).latency_ms.p50, 'ms')} "
        f"of {wording.count(_of(row, role).latency_ms.n)}"
        for row in rows
        for role in _ROLES
        if _of(row, role).latency_ms.n
    )
    return Panel(stage, svg(figure, name, f"Latency by context length in {stage}. {told}."))


def _milliseconds(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(log_ticks(*axes.get_xlim())))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="x", color=FAINT, linewidth=0.7)


# --- hits ----------------------------------------------------------------------------------------


def _hits(stages: Sequence[StageReport], targets: dict[int, float]) -> list[Panel]:
    """Per stage: Hit@1/5/10 of each arm with its interval; a dash marks the target."""
    found = [stage for stage in stages if stage.incumbent.labels or stage.candidate.labels]
    return [_hit_panel(f"hits-{index}", stage, targets) for index, stage in enumerate(found)]


def _hit_panel(name: str, stage: StageReport, targets: dict[int, float]) -> Panel:
    figure, axes = panel(2.9, 2.1)
    for place, k in enumerate(HITS):
        if k in targets:
            axes.plot([place - 0.36, place + 0.36], [targets[k]] * 2, color=INK, linewidth=1.3)
        for role in _ROLES:
            _rate(axes, place + _LANES[role], stage.role(role), role, k)
    axes.set_xticks(range(len(HITS)), [f"Hit@{k}" for k in HITS])
    axes.tick_params(axis="x", length=0, labelcolor=INK)
    axes.set_xlim(-0.6, len(HITS) - 0.4)
    axes.set_ylim(0, 100)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.set_ylabel("% of labelled requests")
    told = "; ".join(
        f"{role} Hit@{k} {wording.write(rate.percent, 'percent')} of {wording.count(rate.n)}"
        for k in HITS
        for role in _ROLES
        for rate in [stage.role(role).hit_rates[k]]
    )
    label = f"Hit@1, Hit@5 and Hit@10 of both arms in {stage.stage}, with targets. {told}."
    return Panel(stage.stage, svg(figure, name, label))


def _rate(axes: Axes, x: float, arm: ArmReport, role: Role, k: int) -> None:
    rate = arm.hit_rates[k]
    if rate.percent is None or rate.low is None or rate.high is None:
        return
    axes.plot([x, x], [rate.low, rate.high], color=COLOURS[role], linewidth=1.6, alpha=0.7)
    axes.plot(x, rate.percent, "o" if role == "incumbent" else "D", color=COLOURS[role],
              markersize=5 if role == "incumbent" else 4.5)  # fmt: skip


def _rows(axes: Axes, stages: Sequence[StageReport]) -> None:
    """One row per stage, the first on top."""
    axes.set_yticks(range(len(stages)), [stage.stage for stage in stages])
    axes.set_ylim(len(stages) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
