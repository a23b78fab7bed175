"""The report as one page: the JSON document, written down. Pure.

The page computes nothing. A figure gets on it only through `Figures.show`, by its path in the JSON
document, and carries that path, the raw value and the unit with it (`data-path`, `data-value`,
`data-unit`), so a reader or a test can check each number against the JSON. The words around the
figures are in templates/report.html. There is no script in the page and nothing to fetch: its
content security policy forbids both.
"""

import json
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rollout import wording
from rollout.reporting import charts
from rollout.reporting.document import Report
from rollout.snapshot import HITS, KEPT_VECTORS
from rollout.tally import AGREEMENTS

_TEMPLATES: Final = Path(__file__).parent / "templates"
_ENVIRONMENT: Final = Environment(
    loader=FileSystemLoader(_TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(report: Report) -> str:
    """Write the document as HTML, its charts included."""
    figures = Figures(report.model_dump(mode="json"))
    return _ENVIRONMENT.get_template("report.html").render(
        report=figures.document,
        show=figures.show,
        value=figures.value,
        charts=charts.draw(report),
        colours=charts.COLOURS,
        hits=HITS,
        agreements=AGREEMENTS,
        kept_vectors=KEPT_VECTORS,
        dropped=wording.DROPPED,
        reached=[index for index, stage in enumerate(report.stages) if stage.reached],
        last_looks=last_looks(report),
    )


def last_looks(report: Report) -> list[int]:
    """Find the last look at each stage among the moments of the timeline."""
    last = {moment.stage: place for place, moment in enumerate(report.timeline.moments)}
    return sorted(last.values())


class Figures:
    """The figures of a document, by path. `document` is the report's JSON as plain values."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def value(self, path: str) -> Any:
        """Give the raw value at a dot path. Raises LookupError or ValueError on a wrong path."""
        found: Any = self.document
        steps = path.split(".")
        while steps:
            step = steps.pop(0)
            if isinstance(found, list):
                found = found[int(step)]
                continue
            while step not in found and steps:  # a name may hold dots itself
                step = f"{step}.{steps.pop(0)}"
            found = found[step]
        return found

    def show(self, path: str, unit: str) -> Markup:
        """Write the value at `path` in its unit (rollout.wording), checkable."""
        value = self.value(path)
        return Markup(
            '<span class="{}" data-path="{}" data-value="{}" data-unit="{}">{}</span>'
        ).format(
            "figure none" if value is None else f"figure {unit}",
            path,
            json.dumps(value, ensure_ascii=False),
            unit,
            wording.write(value, unit),
        )
