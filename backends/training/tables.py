"""What an evaluation says, in tables, sentences and a plot."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from backends.training.evaluation import Difference, Evaluation
from backends.training.questions import BUCKETS, name_bucket
from backends.training.ranks import KS

Row = Sequence[str]


def hits(figures: dict[str, float]) -> str:
    """Write Hit@1/5/10 as `10.5/25.5/33.2`."""
    return "/".join(f"{figures[f'hit@{k}']:.1f}" for k in KS)


def main_table(evaluation: Evaluation) -> tuple[Row, list[Row]]:
    """Return heading and rows: each system over the whole bank, and the published way."""
    bank, targets = f"{evaluation.bank:,}", f"{evaluation.queries:,}"
    heading = ("system", f"Hit@1/5/10, bank of {bank}", "MRR", "cosine", f"{targets} targets alone")
    rows: list[Row] = [
        (
            system.name,
            hits(system.whole),
            f"{system.whole['mrr']:.3f}",
            f"{system.whole['cosine']:.3f}",
            hits(system.targets_alone),
        )
        for system in evaluation.systems
    ]
    return heading, rows


def length_table(evaluation: Evaluation) -> tuple[Row, list[Row]]:
    """Return heading and rows: Hit@5 over the whole bank by the context's length."""
    labels = [name for bucket in BUCKETS if evaluation.lengths[name := name_bucket(*bucket)]]
    heading = ("Hit@5 by length", *(f"{label} ({evaluation.lengths[label]})" for label in labels))
    return heading, [
        (system.name, *(f"{system.by_length[label]['hit@5']:.1f}" for label in labels))
        for system in evaluation.systems
    ]


def pool_table(evaluation: Evaluation) -> tuple[Row, list[Row]]:
    """Return heading and rows: Hit@1/5/10 by the number of candidates."""
    pools = list(evaluation.systems[0].by_pool)
    heading = ("Hit@1/5/10 by pool", *(f"{int(pool):,}" for pool in pools), "whole bank")
    return heading, [
        (system.name, *(hits(system.by_pool[pool]) for pool in pools), hits(system.whole))
        for system in evaluation.systems
    ]


def say_difference(difference: Difference) -> str:
    """Write one difference as a sentence."""
    verdict = (
        "above" if difference.low > 0 else "below" if difference.high < 0 else "not told apart from"
    )
    cut = f", {difference.clipped} of the chains cut to 20 points" if difference.clipped else ""
    return (
        f"{difference.of} is {verdict} {difference.less} on {difference.where}: Hit@5 "
        f"{difference.mean:+.1f} points, 95 % sequence {difference.low:+.1f} to "
        f"{difference.high:+.1f} ({difference.chains} chains, {difference.queries} queries{cut})"
    )


def plot(evaluation: Evaluation, path: Path) -> None:
    """Draw Hit@5 by length and by pool size."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    by_length, by_pool = figure.subplots(1, 2, sharey=False)
    for system in evaluation.systems:
        style = "-" if system.name.startswith("phase") else ":"
        labels = list(system.by_length)
        values = [system.by_length[label]["hit@5"] for label in labels]
        by_length.plot(labels, values, style, marker=".", label=system.name)
        pools = [*map(int, system.by_pool), evaluation.bank]
        at_pool = [*(f["hit@5"] for f in system.by_pool.values()), system.whole["hit@5"]]
        by_pool.plot(pools, at_pool, style, marker=".", label=system.name)
    by_length.set(title="Hit@5 over the whole bank, %", xlabel="vectors in the context")
    by_pool.set(title="Hit@5 by pool size, %", xlabel="candidates", xscale="log")
    figure.suptitle(evaluation.title, fontsize=9)
    by_pool.legend(frameon=False, fontsize=7)
    for axes in (by_length, by_pool):
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    with rc_context({"svg.hashsalt": path.name}):  # the same figures give the same bytes
        figure.savefig(path, metadata={"Date": None})
