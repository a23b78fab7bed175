"""The plot of a simulation: who is wrong, who is right how often, and after how many requests.

Drawn as the report's charts are: every figure also stands in the table and in the JSON. A party has
one colour and one mark everywhere; bars are one standard error.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from rollout.reporting.drawing import FAINT, INK, MUTED, canvas, log_ticks
from rollout.simulate.replicate import WE, Party
from rollout.simulate.summary import PARTIES, Row, Share, Summary

LONG_NAMES: Final[dict[Party, str]] = {
    "turnout": "turnout",
    "failure-count": "threshold, 3 of the last 5 windows",
    "failure-limit-0": "threshold, failure limit 0",
    "z-test": "one-sided z-test at 5 %, every window",
    "mann-whitney": "Mann-Whitney at 98 % (Kayenta)",
}
_COLOURS: Final = ("#0072B2", "#E69F00", "#D55E00", "#CC79A7", "#009E73")
_MARKS: Final = ("D", "o", "s", "^", "v")
_WIDTH: Final = 10.5
_HEAD: Final = 0.75
_FOOT: Final = 0.5
_ROW: Final = 0.2
"""Inches, like the others: of a row."""
_GAP: Final = 1.3
"""Rows between scenarios."""


def draw(path: Path, summaries: Sequence[Summary]) -> None:
    """Draw `summaries` into a file, whose suffix says which format. Raises ValueError, OSError."""
    with canvas():
        rows = sum(len(summary.rows) + _GAP for summary in summaries)
        height = _HEAD + _FOOT + _ROW * rows
        figure = Figure(figsize=(_WIDTH, height))
        # Set by hand: what a solver lays out differs in its last digit from run to run.
        figure.subplots_adjust(
            left=1.45 / _WIDTH, right=1 - 0.15 / _WIDTH, bottom=_FOOT / height,
            top=1 - _HEAD / height, wspace=0.12,
        )  # fmt: skip
        wrong, right, needed = figure.subplots(1, 3, sharey=True, width_ratios=(1.2, 1, 1))
        places = _places(summaries)
        _shares(wrong, places, lambda row: row.false, "wrong decisions, % of the replicates")
        _promises(wrong, summaries, places)
        _shares(right, places, lambda row: row.right, "right decisions, % of the replicates")
        _requests(needed, places)
        _names(wrong, summaries, places)
        for axes in (wrong, right, needed):
            axes.grid(axis="x", color=FAINT, linewidth=0.7)
            axes.tick_params(axis="y", length=0, labelcolor=INK)
        _legend(figure, wrong)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=160)


_Places = list[tuple[float, Row]]


def _places(summaries: Sequence[Summary]) -> _Places:
    """Give each row its height, from the top down."""
    places: _Places = []
    y = 0.0
    for summary in summaries:
        y += _GAP
        for row in summary.rows:
            places.append((y, row))
            y += 1
    return places


def _shares(axes: Axes, places: _Places, of: Callable[[Row], Share], label: str) -> None:
    for y, row in places:
        share = of(row)
        index = PARTIES.index(row.party)
        axes.errorbar(
            100 * share.value, y, xerr=100 * share.error, fmt=_MARKS[index], markersize=4.5,
            color=_COLOURS[index], linewidth=1,
        )  # fmt: skip
    axes.set_xlim(-3, 103)
    axes.set_xlabel(label)


def _promises(axes: Axes, summaries: Sequence[Summary], places: _Places) -> None:
    """Mark what is promised of our row: the alpha of the plan."""
    tops = [y for y, row in places if row.party == WE]
    for y, summary in zip(tops, summaries, strict=True):
        plan = summary.setting.plan
        alpha = plan.alpha_promote if summary.setting.harms else plan.alpha_rollback
        axes.plot([100 * alpha] * 2, [y - 0.6, y + 0.6], color=INK, linewidth=1.4)


def _requests(axes: Axes, places: _Places) -> None:
    for y, row in places:
        index = PARTIES.index(row.party)
        if row.requests.median is None:
            continue
        colour = _COLOURS[index]
        axes.plot(row.requests.median, y, _MARKS[index], color=colour, markersize=4.5)
        if row.requests.p90 is not None:
            ends = [row.requests.median, row.requests.p90]
            axes.plot(ends, [y, y], color=colour, linewidth=1.2, alpha=0.7)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(log_ticks(*axes.get_xlim())))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("requests to the decision: median to 90 %")


def _names(axes: Axes, summaries: Sequence[Summary], places: _Places) -> None:
    """Write each scenario above its rows, which the legend names by colour and mark."""
    tops = [y for y, row in places if row.party == WE]
    labels = [
        f"{summary.setting.scenario.name}\n{summary.setting.world.rps:g} requests/s"
        for summary in summaries
    ]
    axes.set_yticks([top + 1.5 for top in tops], labels)
    for top in tops[1:]:
        axes.axhline(top - 1.15, color=FAINT, linewidth=0.8, clip_on=False)
    axes.set_ylim(max(y for y, _ in places) + 0.8, -0.1)


def _legend(figure: Figure, axes: Axes) -> None:
    handles = [
        axes.plot([], [], mark, color=colour, label=LONG_NAMES[party], markersize=4.5)[0]
        for party, mark, colour in zip(PARTIES, _MARKS, _COLOURS, strict=True)
    ]
    figure.legend(
        handles=handles, loc="upper center", ncols=3, frameon=False, labelcolor=INK,
        title="bar beside a mark: one standard error; black: the alpha that turnout promises",
        title_fontproperties={"size": 7.5}, alignment="left",
    ).get_title().set_color(MUTED)  # fmt: skip
