"""What an evaluation says: the table, the plot, and a model card per arm."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from backends.training.evaluation import Difference, Evaluation, System
from backends.training.questions import BUCKETS, name_bucket
from backends.training.ranks import KS
from backends.training.recipe import Recipe

Row = Sequence[str]


def hits(figures: dict[str, float]) -> str:
    """Write Hit@1/5/10 as `10.5 / 25.5 / 33.2`."""
    return " / ".join(f"{figures[f'hit@{k}']:.1f}" for k in KS)


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
    return (
        f"{difference.of} is {verdict} {difference.less} on {difference.where}: Hit@5 "
        f"{difference.mean:+.1f} points, 95 % sequence {difference.low:+.1f} to "
        f"{difference.high:+.1f} ({difference.chains} chains, {difference.queries} queries)"
    )


def plot(evaluation: Evaluation, path: Path) -> None:
    """Draw Hit@5 by length and by pool size."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
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
    by_pool.legend(frameon=False, fontsize=7)
    for axes in (by_length, by_pool):
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def write_card(
    arm: str, identity: str, recipe: Recipe | None, evaluation: Evaluation, command: str
) -> str:
    """Write an arm's model card in Markdown: training, figures, where it fails, how to repeat."""
    system = next(system for system in evaluation.systems if system.name == arm)
    parts = [
        f"# {arm}",
        (
            "Memory-Augmented GRU, 11,292,160 trainable parameters, bfloat16. "
            f"sha256 `{identity}`. It predicts the next vector of a chain from the newest vectors; "
            "pooling and mean of its input are those of `deploy/data/README.md`."
        ),
        "## How it was trained",
        _say_recipe(recipe),
        "## What it reaches",
        (
            f"{evaluation.queries} queries of {evaluation.chains} held-out chains; candidates are "
            f"{evaluation.bank:,} vectors less the query's own context. Hit@k in percent."
        ),
        *(_markdown(*table(evaluation)) for table in (main_table, length_table, pool_table)),
        "\n".join(f"- {say_difference(d)}" for d in evaluation.differences),
        "## Where it fails",
        _say_failures(system, evaluation),
        "## Again",
        f"    {command}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _say_recipe(recipe: Recipe | None) -> str:
    if recipe is None:
        return "No `config.json` lies beside the weights, so nothing is known of it."
    settings = ", ".join(f"{name} {value}" for name, value in recipe.model_dump().items())
    return (
        "On the corpus of `turnout corpus build` (its `about.json` names every source and its "
        f"licence), with `turnout train`: {settings}."
    )


def _say_failures(system: System, evaluation: Evaluation) -> str:
    worst = min(system.by_length, key=lambda label: system.by_length[label]["hit@5"])
    better = [
        other.name
        for other in evaluation.systems
        if other.name != system.name and other.whole["hit@5"] > system.whole["hit@5"]
    ]
    return (
        f"The truth is not among the first ten for {100 - system.whole['hit@10']:.0f} % of the "
        f"queries. It is weakest on contexts of {worst} vectors (Hit@5 "
        f"{system.by_length[worst]['hit@5']:.1f} %). Better on Hit@5 over this bank: "
        f"{', '.join(better) or 'none of the systems above'}. It has read English technical "
        "documentation only, through one sentence encoder; other text and other vectors are "
        "outside what was measured."
    )


def _markdown(heading: Row, rows: list[Row]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
