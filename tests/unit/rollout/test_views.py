"""How verdicts look on a terminal: whole names, and what decides."""

import io

import pytest
from judged import AB50, healthy, look
from rich.console import Console, RenderableType

from rollout.terminal.tables import gate_view
from rollout.terminal.views import checks_view
from rollout.verdict import Verdict


def printed(view: RenderableType, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(view)
    return console.export_text()


@pytest.fixture(scope="module")
def verdict() -> Verdict:
    """Give what the gate of an A/B stage says of a candidate that hits no target."""
    found = look(healthy(AB50).seen()).gate
    assert {check.decides for check in found.checks} == {True, False}
    return found


@pytest.mark.parametrize("width", [110, 130, 200])
def test_no_name_of_a_count_is_broken(verdict: Verdict, width: int) -> None:
    told = printed(checks_view(verdict, "a gate"), width)
    for check in verdict.checks:
        for name, number in check.evidence.counts.items() if check.evidence else ():
            assert f"{name} {number}" in told


def test_the_table_of_a_gate_says_which_checks_decide_nothing(verdict: Verdict) -> None:
    rows = {
        cells[1]: cells[2]
        for line in printed(gate_view(verdict), 300).splitlines()
        for cells in [[cell.strip() for cell in line.split("│")]]
        if len(cells) > 3
    }
    for check in verdict.checks:
        said = check.kind if check.decides else f"{check.kind}, reported only"
        assert rows[check.name] == said
