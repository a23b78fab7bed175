"""A model card: how an arm was trained, on what, what it reaches, where it fails. Pure."""

from dataclasses import dataclass
from typing import Final

from backends.training.evaluation import Evaluation, System
from backends.training.tables import (
    Row,
    hits,
    length_table,
    main_table,
    pool_table,
    say_difference,
)
from backends.training.trained import Trained

PUBLISHED: Final = {"phase1": (1_149, 59.32), "phase2": (230, 66.52)}
"""What was claimed for the arms before: the pool's size, and Hit@5 in percent."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a card is about. The first evaluation is of the set that ships."""

    arm: str
    identity: str
    trained: Trained | None
    evaluations: tuple[Evaluation, ...]
    command: str


def write_card(card: Card) -> str:
    """Write the card in Markdown."""
    parts = [
        f"# {card.arm}",
        (
            "Memory-Augmented GRU, 11,292,160 trainable parameters. "
            f"sha256 `{card.identity}`. It predicts the next vector of a chain from the newest "
            "vectors; pooling and mean of its input are those of `deploy/data/README.md`."
        ),
        "## How it was trained",
        _say_training(card.trained),
    ]
    for evaluation in card.evaluations:
        parts += ["## What it reaches over " + evaluation.title, *_say_figures(evaluation)]
    parts += [
        "## Beside the published figures",
        _say_published(card.evaluations[-1]),
        "## Where it fails",
        _say_failures(card.arm, card.evaluations[-1]),
        "## Again",
        _say_again(card),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _say_training(trained: Trained | None) -> str:
    if trained is None:
        return "No `config.json` lies beside the weights, so nothing is known of it."
    settings = ", ".join(f"{name} {value}" for name, value in trained.recipe.model_dump().items())
    words = (
        "On the training chains of the corpus that `turnout corpus build` makes, documentation of "
        "Debian 12 (the corpus' `about.json` names every source and its licence), with `turnout "
        f"train`: {settings}."
    )
    best = trained.best
    if best:
        last = trained.history[-1]["epoch"]
        words += (
            f" Of {last:.0f} epochs number {best['epoch']:.0f} was kept, for "
            f"its Hit@5 of {best['hit@5']:.2f} % on the validation chains (a smaller bank than "
            f"those below), where repeating the last vector has {best['repeat_hit@5']:.2f} %; it "
            f"was reached after {best['seconds'] / 60:.0f} minutes."
        )
    if best and (start := trained.start):
        words += (
            f" Before the first step the weights had a Hit@5 of {start['hit@5']:.2f} %, a mean "
            f"reciprocal rank of {start['mrr']:.4f} and a loss of {start['loss']:.3f}; the kept "
            f"epoch has {best['hit@5']:.2f} %, {best['mrr']:.4f} and {best['loss']:.3f}."
        )
        if trained.recipe.integrate:
            words += (
                " The start is fitted to the training chains, not random: a whitened leaky mean "
                "(`integrate` in `backends/training/begin.py`)."
            )
    return words


def _say_figures(evaluation: Evaluation) -> list[str]:
    return [
        (
            f"{evaluation.queries} queries of {evaluation.chains} held-out chains, none of which "
            f"trained or chose anything. Candidates are {evaluation.bank:,} vectors less the "
            'query\'s own context, the same for every row. Hit@k in percent; "targets alone" is '
            "the published way: the queries' truths are the only candidates."
        ),
        *(_markdown(*table(evaluation)) for table in (main_table, length_table, pool_table)),
        (
            "The leaky mean's decay of 0.6 is the best of 0.4 to 0.9 on the validation chains; no "
            'baseline was chosen on a query that is asked here. "phase2 fed the last 100" has '
            "Phase 2's weights and Phase 1's window: what it lacks to phase2 is what length gives."
        ),
        "\n".join(f"- {say_difference(d)}" for d in evaluation.differences),
        (
            "Each difference is the mean over chains, because the queries of one chain are not "
            "independent, with a confidence sequence of its own (betting on the chains' means, "
            "which are cut to 20 points either way)."
        ),
    ]


def _say_published(evaluation: Evaluation) -> str:
    claims = " and ".join(
        f"{hit5} % for {arm} among {pool:,} targets" for arm, (pool, hit5) in PUBLISHED.items()
    )
    pools = [pool for pool, _ in PUBLISHED.values() if str(pool) in evaluation.systems[0].by_pool]
    found = "; ".join(
        f"among {pool:,} candidates "
        + " and ".join(
            f"{arm} {_system(evaluation, arm).by_pool[str(pool)]['hit@5']:.1f} %"
            for arm in PUBLISHED
        )
        for pool in pools
    )
    return (
        f"The Hit@5 claimed before was {claims}: pools of different sizes, and windows that "
        "overlapped across the split. With the same queries and pools for both arms, and no "
        f"overlap, Hit@5 here is: {found or 'not known, for this bank is smaller than those'}."
    )


def _say_failures(arm: str, evaluation: Evaluation) -> str:
    system = _system(evaluation, arm)
    worst = min(system.by_length, key=lambda label: system.by_length[label]["hit@5"])
    better = [
        other.name
        for other in evaluation.systems
        if other.name != arm and other.whole["hit@5"] > system.whole["hit@5"]
    ]
    return (
        f"Over {evaluation.title}, the truth is not among the first ten for "
        f"{100 - system.whole['hit@10']:.0f} % of the queries (Hit@1/5/10 {hits(system.whole)} %). "
        f"It is weakest on contexts of {worst} vectors (Hit@5 "
        f"{system.by_length[worst]['hit@5']:.1f} %). Better on Hit@5 there: "
        f"{', '.join(better) or 'none of the systems above'}. It has read English technical "
        "documentation only, through one sentence encoder; other text and other vectors are "
        "outside what was measured. No text stands on two sides of the split, but documents of one "
        "project resemble each other."
    )


def _say_again(card: Card) -> str:
    return (
        f"This card is of\n\n    {card.command}\n\nFrom a fresh clone, `turnout evaluate` gives "
        "the figures over the set that ships, within one query. The whole bank needs the corpus: "
        "`turnout corpus build --out corpus`, then `turnout evaluate --corpus corpus`."
    )


def _system(evaluation: Evaluation, name: str) -> System:
    return next(system for system in evaluation.systems if system.name == name)


def _markdown(heading: Row, rows: list[Row]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
