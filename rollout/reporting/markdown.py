"""The report as Markdown, for a pull request: the JSON document, written down. Pure.

Headings, sentences and tables of GitHub's flavour; no HTML and no charts. As on the page, a figure
comes only through `show`, by its path in the JSON document and in the same wording, and nothing is
computed. What people and model servers wrote is escaped, so it cannot become markup.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rollout import wording
from rollout.reporting.document import Report
from rollout.reporting.page import Figures, last_looks
from rollout.snapshot import HITS, KEPT_VECTORS
from rollout.tally import AGREEMENTS

_ENVIRONMENT: Final = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=False,  # noqa: S701 - Markdown comes out of it, and `escaped` guards that
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_SPECIAL: Final = re.compile(r"([\\`*_\[\]<>|~#])")
Show = Callable[[str, str], str]


def render(report: Report, wrap: Callable[[str, str, str], str] | None = None) -> str:
    """Write the document as Markdown.

    `wrap(path, unit, words)` gives what stands for a figure, by default its words.
    """
    figures = Figures(report.model_dump(mode="json"))

    def show(path: str, unit: str) -> str:
        words = escaped(wording.write(figures.value(path), unit))
        return wrap(path, unit, words) if wrap else words

    text = _ENVIRONMENT.get_template("report.md").render(
        report=figures.document,
        show=show,
        value=figures.value,
        said=escaped,
        hits=HITS,
        agreements=AGREEMENTS,
        kept_vectors=KEPT_VECTORS,
        dropped=wording.DROPPED,
        reached=[index for index, stage in enumerate(report.stages) if stage.reached],
        last_looks=last_looks(report),
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def escaped(text: str) -> str:
    """Write text so that Markdown shows it as it is, in one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
