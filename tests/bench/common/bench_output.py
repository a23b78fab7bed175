"""What the bench prints and writes: tables, a JSON file, a picture of the ratios."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from bench_figures import Figure, Section
from matplotlib.figure import Figure as Picture
from rich.console import Console
from rich.table import Table

BUSY_PERCENT: Final = 10.0
COLOURS: Final = {"met": "#1b7f5c", "not met": "#b3452c", "": "#5b6b7a"}
BAR_INCHES: Final = 0.34


def show(console: Console, section: Section) -> None:
    """Print a section as a table, and its notes."""
    title = f"{section.number}. {section.title}"
    table = Table(title=title, title_justify="left")
    for name in ("who", "what"):
        table.add_column(name)
    for name in ("figure", "90 % interval", "n"):
        table.add_column(name, justify="right")
    for name in ("asked", ""):
        table.add_column(name)
    for figure in section.figures:
        table.add_row(*_row(figure), style="bold" if figure.unit == "x" else "")
    console.print(table if section.figures else title)
    for note in section.notes:
        console.print(f"   {note}")
    if section.others_cpu > BUSY_PERCENT:
        console.print(
            f"   others used {section.others_cpu:.0f} % of this machine just before: "
            "trust these figures less",
            style="yellow",
        )


def _row(figure: Figure) -> tuple[str, ...]:
    spread = figure.spread
    interval = (
        f"{_number(spread.low)} .. {_number(spread.high)}" if spread.low < spread.high else ""
    )
    value = f"{_number(spread.value)} {figure.unit}".strip()
    return (
        figure.who, figure.what, value, interval, str(spread.count), str(figure.asked),
        figure.verdict,
    )  # fmt: skip


def _number(value: float) -> str:
    if value and abs(value) < 0.01:
        return f"{value:.1e}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def write_json(path: Path, facts: dict[str, Any], sections: Sequence[Section]) -> None:
    """Write everything that was measured."""
    document = {**facts, "sections": [section.as_json() for section in sections]}
    path.write_text(json.dumps(document, indent=1) + "\n")


def draw(path: Path, sections: Sequence[Section], times: str) -> None:
    """Draw every ratio as a bar with its interval, on a log scale; marks are what was asked."""
    bars = [
        (section, figure)
        for section in sections
        for figure in section.figures
        if figure.unit == "x"
    ]
    if not bars:
        return
    with mpl.rc_context({"svg.hashsalt": "turnout", "font.size": 9}):
        picture = Picture(figsize=(8, 1.4 + BAR_INCHES * len(bars)), layout="constrained")
        axes = picture.subplots()
        for place, (_, figure) in enumerate(bars):
            spread = figure.spread
            reach = [[spread.value - spread.low], [spread.high - spread.value]]
            colour = COLOURS[figure.verdict]
            axes.barh(place, spread.value - 1, left=1, xerr=reach, color=colour, ecolor="#222")
            for mark in (figure.asked.at_least, figure.asked.at_most, figure.asked.aim):
                if mark is not None:
                    axes.plot([mark, mark], [place - 0.45, place + 0.45], color="black", lw=1)
            axes.annotate(f" {spread.value:.2f}", (max(spread.high, 1), place), va="center")
        axes.axvline(1, color="black", lw=0.8)
        axes.set_xscale("log")
        axes.margins(x=0.15)
        axes.set_yticks(
            range(len(bars)), [f"{one.number}. {two.who}: {two.what}" for one, two in bars]
        )
        axes.invert_yaxis()
        axes.set_xlabel(f"{times} (marks: what was asked, and the aim)")
        picture.savefig(path)
