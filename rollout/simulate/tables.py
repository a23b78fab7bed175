"""How a simulation looks on a terminal, as rich renderables."""

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rollout.simulate.replicate import WE
from rollout.simulate.scenario import SCENARIOS, Setting
from rollout.simulate.summary import Share, Summary, limit
from rollout.snapshot import HITS
from rollout.wording import count


def catalogue() -> Table:
    """List the scenarios."""
    table = Table(box=None, pad_edge=False)
    table.add_column("scenario", header_style="dim")
    table.add_column("what it is", header_style="dim")
    for scenario in SCENARIOS.values():
        table.add_row(Text(scenario.name), Text(scenario.told))
    return table


def summary_view(summary: Summary) -> RenderableType:
    """Show one scenario: what every party made of it, and our way through the stages."""
    setting = summary.setting
    return Group(
        Text(f"\n{setting.scenario.name}: {setting.scenario.told}", "bold"),
        *(Text(line, "dim") for line in _conditions(setting)),
        _parties(summary),
        _stages(summary),
    )


def _conditions(setting: Setting) -> Iterator[str]:
    world, plan = setting.world, setting.plan
    k = plan.gate_hit
    place = HITS.index(k)
    arms = [
        f"errors {_percent(arm.error)}, Hit@{k} {_percent(arm.hits[place])}, "
        f"median latency {arm.median_s:.3g} s"
        for arm in (world.incumbent, world.candidate)
    ]
    yield f"{world.rps:g} requests/s in scope; incumbent: {arms[0]}"
    yield f"candidate: {arms[1]}"
    if setting.barrier is None:
        yield "the plan tolerates this candidate: to roll it back is false"
    else:
        stage = plan.stages[setting.barrier].name
        yield (
            f"the plan does not tolerate this candidate ({', '.join(setting.harms)}): to let it "
            f"past {stage} is false"
        )


def _parties(summary: Summary) -> Table:
    setting = summary.setting
    harmful, plan = setting.barrier is not None, setting.plan
    alpha = plan.alpha_promote if harmful else plan.alpha_rollback
    wrong, right = ("let\nthrough", "rolled\nback") if harmful else ("false\nrollback", "promoted")
    table = _table(
        "", f"{wrong} %", f"{right} %", "undecided %", "requests\n(median)", "90th\npercentile"
    )
    for row in summary.rows:
        shares = (_share(one) for one in (row.false, row.right, row.inconclusive))
        needed = (_requests(row.requests.median), _requests(row.requests.p90))
        table.add_row(row.party, *shares, *needed, style="bold" if row.party == WE else "")
    most = f"{_percent(alpha)} ({_percent(limit(alpha, summary.replicates))} with three errors)"
    table.caption = (
        f"± one Monte Carlo standard error. turnout promises at most {most} in the first column. "
        f"Each rival watches {setting.scenario.metric} alone, and promotes after the minimum "
        "durations."
    )
    return table


def _stages(summary: Summary) -> Table:
    table = _table(
        "turnout in", "entered %", "then passed %", "requests\n(median)", "90th\npercentile"
    )
    for stretch in summary.stretches:
        table.add_row(
            stretch.stage,
            _share(stretch.entered),
            _share(stretch.passed) if stretch.entered.count else "",
            _requests(stretch.requests.median) if stretch.passed.count else "",
            _requests(stretch.requests.p90) if stretch.passed.count else "",
        )
    return table


def _table(first: str, *others: str) -> Table:
    """Begin a table that fits a terminal of 80 columns; a space in a heading may break it."""
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption_justify="left"
    )
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _share(share: Share) -> str:
    return f"{100 * share.value:.1f} ± {100 * share.error:.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _requests(value: int | None) -> str:
    return "undecided" if value is None else count(value)
