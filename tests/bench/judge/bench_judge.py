"""`make bench-judge`: how often the judge is wrong, and how often others are, on the same traffic.

A grid of simulated rollouts (bench_grid), each with the real controller, machine, judge and store
under a fake clock. It takes hours on two cores, keeps what is finished in a file, and goes
on from there when it is started again. A promise that was not kept says so; the exit status is 0
all the same, and 130 after an interrupt.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench_checkpoint import Checkpoint, digest, key_of
from bench_cost import costs
from bench_figures import Asked, Figure, Section
from bench_grid import DETECT_S, LOOKS, SEED, Cell, grid
from bench_output import show
from bench_report import TABLE_WIDTH, machine
from bench_statistics import Spread
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from rollout.simulate import pool
from rollout.simulate.picture import draw
from rollout.simulate.replicate import WE, Outcome
from rollout.simulate.rivals import RIVALS, Rival
from rollout.simulate.summary import Share, Summary, limit

FULL: Final = 2000
QUICK: Final = 50
ROUND: Final = 500
"""Replicates of every cell that are run before the next ones: so a bench that was stopped has a
figure for every cell, with fewer replicates."""
DENSE: Final = 2000
"""Looks on a geometric grid that come to one every minute."""
QUICK_DENSE: Final = 30
TICK_MS: Final = 5.0
DETECTED: Final = 95.0
SHOWN: Final = (
    "aa", "regression-errors", "margin-errors", "regression-hits", "non-inferior", "ramp-drift",
    "ar1-drift", "sticky-keys",
)  # fmt: skip
"""The scenarios of the picture, at 20 requests/s and 0.1 % of errors."""
SHORT: Final[dict[Rival, str]] = {
    "failure-count": "3 of 5", "failure-limit-0": "limit 0", "z-test": "z", "mann-whitney": "M-W",
}  # fmt: skip
MISTAKES: Final = (("false rollbacks", False), ("false promotions", True))
Summaries = list[tuple[Cell, Summary]]


def main() -> int:
    """Run the bench."""
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    cells = grid(
        options.replicates or (QUICK if options.quick else FULL),
        dense=QUICK_DENSE if options.quick else DENSE,
    )
    if options.only:
        cells = [cell for cell in cells if options.only in key_of(cell)]
    facts = {**machine(), "seed": SEED, "looks per stage": LOOKS}
    console.print(" · ".join(f"{name} {value}" for name, value in facts.items()))
    kept = Checkpoint(options.checkpoint, digest(cells), fresh=options.fresh)
    if options.show:
        cells = [cell for cell in cells if any(kept.outcomes(cell))]
    elif not _run(cells, kept, options.processes or pool.cores(), console):
        console.print("stopped: what is finished is kept, and the next run goes on from there")
        return 130
    summaries = [(cell, Summary.of(cell.setting, kept.outcomes(cell))) for cell in cells]
    for table in _tables(summaries):
        console.print(table)
    sections = [*_promises(summaries), *_detection(cells, kept), *_cost(options)]
    for section in sections:
        show(console, section)
    if options.json:
        found = {
            **facts,
            "cells": [
                {"cell": key_of(cell), "base_error": cell.base, **summary.as_json()}
                for cell, summary in summaries
            ],
            "sections": [section.as_json() for section in sections],
        }
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.picture:
        draw(options.picture, _shown(summaries))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a sanity run: too few to believe")
    parser.add_argument("--replicates", type=int, help=f"of each cell (usual: {FULL})")
    parser.add_argument("--processes", type=int, help="by default one for each processor")
    parser.add_argument(
        "--checkpoint", type=Path, default=Path("bench-judge/chunks.jsonl"),
        help="where finished chunks are kept",
    )  # fmt: skip
    parser.add_argument("--fresh", action="store_true", help="forget what is kept")
    parser.add_argument("--show", action="store_true", help="only show what is finished")
    parser.add_argument("--only", help="only the cells whose name holds this, such as aa@20/0.001")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--picture", type=Path, help="draw some of the cells: .svg or .png")
    return parser.parse_args()


def _run(cells: list[Cell], kept: Checkpoint, processes: int, console: Console) -> bool:
    """Run what is missing; False when it was interrupted."""
    todo = [(cell, chunk) for cell in cells for chunk in kept.missing(cell)]
    todo.sort(key=lambda one: one[1].first // ROUND)
    total = sum(cell.replicates for cell in cells)
    done = total - sum(chunk.count for _, chunk in todo)
    if done:
        console.print(f"{done:,} of {total:,} rollouts are kept from a former run")
    owner = {id(chunk): cell for cell, chunk in todo}
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rollouts"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )  # fmt: skip
    running = pool.run([chunk for _, chunk in todo], processes)
    with Progress(*columns, console=console) as bar, contextlib.closing(running):
        task = bar.add_task("", total=total, completed=done)
        try:
            for chunk, outcomes in running:
                cell = owner[id(chunk)]
                kept.add(cell, chunk, outcomes)
                bar.update(task, advance=chunk.count, description=key_of(cell))
        except KeyboardInterrupt:
            return False
    return True


# --- what was found ------------------------------------------------------------------------------


def _tables(summaries: Summaries) -> Iterator[Table]:
    """One table for either mistake, one row for each cell: all shares, and how ours ended."""
    for mistake, harmful in MISTAKES:
        found = [one for one in summaries if bool(one[1].setting.harms) == harmful]
        if not found:
            continue
        most = 100 * limit(alpha(found[0][1]), found[0][1].replicates)
        table = Table(title=f"{mistake}, % of the replicates (ours: at most {most:.2f})")
        table.title_justify = "left"
        right = "rolled back" if harmful else "promoted"
        for name in ("scenario", "rps", "errors"):
            table.add_column(name, no_wrap=True)
        for name in (WE, "", right, "undecided", "requests", *SHORT.values()):
            table.add_column(name, justify="right", no_wrap=True)
        for cell, summary in found:
            table.add_row(*_cells(cell, summary))
        yield table


def _cells(cell: Cell, summary: Summary) -> Iterator[str]:
    ours = summary.row(WE)
    yield cell.name
    yield f"{cell.rps:g}"
    yield f"{100 * cell.base:g} %"
    yield _share(ours.false)
    yield "" if _kept(summary) else "BROKEN"
    yield _share(ours.right)
    yield _share(ours.inconclusive)
    yield "undecided" if ours.requests.median is None else f"{ours.requests.median:,}"
    for rival in SHORT:
        yield f"{100 * summary.row(rival).false.value:.1f}"


def _share(share: Share) -> str:
    return f"{100 * share.value:.1f}±{100 * share.error:.1f}"


def alpha(summary: Summary) -> float:
    """Give what the plan promises of a cell's mistake."""
    plan = summary.setting.plan
    return plan.alpha_promote if summary.setting.harms else plan.alpha_rollback


def _promises(summaries: Summaries) -> list[Section]:
    """The worst cell of either promise."""
    sections = []
    for number, (title, harmful) in enumerate(MISTAKES, start=1):
        found = [one for one in summaries if bool(one[1].setting.harms) == harmful]
        if not found:
            continue
        worst, summary = max(found, key=lambda one: one[1].row(WE).false.value)
        share = summary.row(WE).false
        most = 100 * limit(alpha(summary), summary.replicates)
        broken = [key_of(cell) for cell, one in found if not _kept(one)]
        figures = [
            Figure(
                "turnout", f"worst of {len(found)} cells: {key_of(worst)}", spread(share), "%",
                Asked(at_most=round(most, 2)),
            )
        ]  # fmt: skip
        figures += [
            Figure(rival, "its worst cell", spread(_worst(found, rival)), "%") for rival in RIVALS
        ]
        told = (f"not kept in: {', '.join(broken)}",) if broken else ()
        sections.append(Section(number, f"{title} (alpha and three errors)", tuple(figures), told))
    return sections


def _kept(summary: Summary) -> bool:
    return summary.row(WE).false.keeps(alpha(summary))


def _worst(found: Summaries, rival: Rival) -> Share:
    return max((one.row(rival).false for _, one in found), key=lambda share: share.value)


def spread(share: Share) -> Spread:
    """Give a share in percent, with 1.645 Monte Carlo errors on either side."""
    reach = 164.5 * share.error
    value = 100 * share.value
    return Spread(value, max(value - reach, 0.0), min(value + reach, 100.0), share.of)


def _detection(cells: list[Cell], kept: Checkpoint) -> list[Section]:
    sections = []
    for cell in cells:
        if not cell.detection:
            continue
        found = detected(list(kept.outcomes(cell)))
        asked = Asked(at_least=DETECTED)
        figure = Figure("turnout", "rolled back within two hours", spread(found), "%", asked)
        title = "errors .1 % -> 5 %, 1 request/s, 25 % of the traffic"
        sections.append(Section(3, title, (figure,)))
    return sections


def detected(outcomes: list[Outcome]) -> Share:
    """Count our rollbacks within the time that is asked."""
    ours = [one for one in outcomes if one.party == WE]
    return Share(
        sum(one.end == "rolled_back" and one.seconds <= DETECT_S for one in ours), len(ours)
    )


def _cost(options: argparse.Namespace) -> list[Section]:
    figures = []
    for name, (middle, high) in costs(2 if options.quick else 8).items():
        asked = Asked(at_most=TICK_MS)
        figures.append(Figure(name, "processor time, median", middle.scaled(1e3), "ms", asked))
        figures.append(Figure(name, "95th percentile", high.scaled(1e3), "ms"))
    return [Section(4, "a tick in the last stage of a full plan", tuple(figures))]


def _shown(summaries: Summaries) -> list[Summary]:
    return [
        summary
        for cell, summary in summaries
        if cell.name in SHOWN and (cell.rps, cell.base) == (20.0, 0.001)
    ]


if __name__ == "__main__":
    sys.exit(main())
