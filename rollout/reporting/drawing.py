"""One drawing, from matplotlib's figure to an element of a page; the same bytes every time.

matplotlib keeps its settings in one global dictionary: inside `canvas` they are the report's, and a
lock keeps two reports from being drawn at once. Text stays text, so a reader can search it and a
page can set its typeface. Ids inside an SVG are global to the page that holds it: each drawing's
get a prefix of their own.
"""

import html
import io
import math
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK: Final = "#20262E"
MUTED: Final = "#67707C"
FAINT: Final = "#E3E7EC"

_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "turnout",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "hatch.linewidth": 0.6,
}
_ANONYMOUS: Final = {"Date": None, "Creator": None, "Format": None, "Type": None}
_LOCK: Final = threading.Lock()


class Panel(NamedTuple):
    """One drawing: its heading on the page, and the SVG that a browser shows."""

    heading: str
    svg: str


@contextmanager
def canvas() -> Iterator[None]:
    """Draw with the report's settings, alone. Every `panel` and `svg` belongs inside."""
    with _LOCK, mpl.rc_context(_STYLE):
        yield


def panel(width: float, height: float) -> tuple[Figure, Axes]:
    """Give a figure of this size in inches, with one set of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def row_of_panels(
    width: float, height: float, shares: Sequence[float]
) -> tuple[Figure, list[Axes]]:
    """Give a figure with axes side by side, as wide as their `shares`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.add_gridspec(1, len(shares), width_ratios=list(shares))
    return figure, [figure.add_subplot(grid[0, place]) for place in range(len(shares))]


def log_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Choose round numbers from `low` to `high` for a logarithmic axis, at most `most` of them.

    The densest of some ladders of 1, 2, 5 and the like that fits; on an axis so short that none has
    two rungs on it, evenly spaced numbers.
    """
    ladders = ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for every in (1, 2, 3, 4, 6, 10):
        for ladder in ladders if every == 1 else ladders[-1:]:
            rungs = [
                rung * 10.0**power for power in decades if not power % every for rung in ladder
            ]
            found = [rung for rung in rungs if low <= rung <= high]
            if 1 < len(found) <= most:
                return found
    return [
        float(tick) for tick in MaxNLocator(most - 1).tick_values(low, high) if low <= tick <= high
    ]


def svg(figure: Figure, name: str, label: str) -> str:
    """Give the figure as an element of a page: labelled, scalable, its ids prefixed by `name`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata=_ANONYMOUS)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", text)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None  # noqa: S101 - matplotlib always writes one
    opening = f'<svg class="drawing" role="img" aria-label="{html.escape(label)}" {box[0]}>'
    return re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1)
