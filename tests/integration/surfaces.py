"""What the surfaces of a controller show about one rollout, taken apart into figures.

`agrees` compares what is written with a raw value, at the precision that is written: it reads the
text by itself, and knows nothing of the module that wrote it.
"""

import html
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Final, NamedTuple

NUMBER: Final = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
NOTHING: Final = {"", "-", "none", "no data", "nothing"}
_HUGE: Final = 600.0


def numbers(text: str) -> list[tuple[float, float]]:
    """Read every number in a text: (value, what its last digit is worth)."""
    return [_number(found.group()) for found in NUMBER.finditer(text)]


def _number(text: str) -> tuple[float, float]:
    mantissa, _, exponent = text.replace(",", "").partition("e")
    scale = 10.0 ** int(exponent or 0)
    digits = len(mantissa.partition(".")[2])
    return float(mantissa) * scale, 10.0**-digits * scale


def agrees(text: str, value: float | None) -> bool:
    """Whether `text` writes `value`, to the digits that it has."""
    if value is None:
        return text in NOTHING
    if text.startswith("<"):
        ((limit, _),) = numbers(text)
        return value < limit
    found = numbers(text)
    if len(found) != 1:
        return False
    written, last = found[0]
    return math.isclose(written, value, rel_tol=1e-9, abs_tol=last)


def e_value_agrees(text: str, ln_e: float | None) -> bool:
    """Whether `text` writes the e-value whose natural logarithm is `ln_e`: it may overflow."""
    if ln_e is None or ln_e < _HUGE:
        return agrees(text, None if ln_e is None else math.exp(ln_e))
    mantissa, _, power = text.partition("e+")
    low, high = (
        math.log(float(mantissa) + more) + int(power) * math.log(10) for more in (0.0, 0.1)
    )
    return low - 1e-9 <= ln_e <= high + 1e-9


class Table(NamedTuple):
    """A table, as text. `about` is the title or the heading above it."""

    about: str
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]


def terminal_tables(text: str) -> list[Table]:
    """Find the tables that rich drew, each with the line above it."""
    tables: list[Table] = []
    about, columns, rows = "", tuple[str, ...](), list[dict[str, str]]()
    for line in text.splitlines():
        if line.startswith("┃"):
            columns = tuple(cell.strip() for cell in line.strip("┃").split("┃"))
        elif line.startswith("│"):
            cells = [cell.strip() for cell in line.strip("│").split("│")]
            row = dict(zip(columns, cells, strict=True))
            if cells[0]:
                rows.append(row)
            else:  # a cell of several lines: no row of ours begins with an empty cell
                before = rows[-1]
                rows[-1] = {
                    name: "\n".join(filter(None, (before[name], row[name]))) for name in row
                }
        elif line.startswith("└"):
            tables.append(Table(about, columns, tuple(rows)))
            rows = []
        elif line[:1] not in {"┏", "┡"}:
            about = line.strip()
    return tables


def markdown_tables(text: str) -> list[Table]:
    """Find the tables of a Markdown text, each with the heading above it."""
    tables: list[Table] = []
    about, block = "", list[str]()
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            block.append(line)
            continue
        if block:
            head, _, *rest = (_cells(row) for row in block)
            rows = tuple(dict(zip(head, row, strict=True)) for row in rest)
            tables.append(Table(about, tuple(head), rows))
            block = []
        if line.startswith("#"):
            about = line.strip("# ")
    return tables


def _cells(row: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", row)[1:-1]
    return [re.sub(r"\\(.)", r"\1", cell).strip() for cell in cells]


class Figure(NamedTuple):
    """One figure of the page: its path in the JSON document, its unit and its text."""

    path: str
    unit: str
    text: str


class Page(HTMLParser):
    """Collects the figures of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.figures: list[Figure] = []
        self._open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - the parser's own signature
        found = dict(attrs)
        path = found.get("data-path")
        self._open = path is not None
        if path is not None:
            self.figures.append(Figure(path, found.get("data-unit") or "", ""))

    def handle_data(self, data: str) -> None:
        if self._open:
            last = self.figures[-1]
            self.figures[-1] = last._replace(text=last.text + data)

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 - the parser's own signature
        self._open = False


def page_figures(text: str) -> Iterator[Figure]:
    """Yield the figures of a page."""
    for figure in Page(text).figures:
        yield figure._replace(text=html.unescape(figure.text))
