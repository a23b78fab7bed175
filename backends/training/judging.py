"""An evaluation from files to files: weights and chains in; table, JSON, plot and cards out.

Two sets of held-out chains. The one that ships (the demo's chains and heldout.npz) needs nothing
else and gives the figures that anyone can check. With a corpus, the whole bank besides: every
vector of the corpus and the demo, and all test chains.
"""

import itertools
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from backends import checkpoint
from backends.training.archive import read_archive
from backends.training.card import Card, write_card
from backends.training.corpus import open_corpus
from backends.training.evaluation import Arm, Evaluation, Half, evaluate
from backends.training.heldout import read_held_out
from backends.training.questions import choose_questions, thin
from backends.training.sides import Span, divide
from backends.training.tables import (
    Row,
    length_table,
    main_table,
    plot,
    pool_table,
    say_difference,
)
from backends.training.trained import SeedError, Trained, read_trained

SHORT, LONG = 100, 500


@dataclass(frozen=True, slots=True)
class Job:
    """What to evaluate, on what, and where the results go. `queries` bounds each set's."""

    phase1: Path
    phase2: Path
    out: Path
    corpus: Path | None
    queries: int | None
    per_bucket: int
    seed: int
    threads: int
    sample: Path
    held_out: Path


@dataclass(frozen=True, slots=True)
class Chains:
    """A bank [N, 768] and the held-out chains in it, as rows [from, to). `name` names files."""

    name: str
    title: str
    bank: Half
    spans: Sequence[Span]


def judge(job: Job, console: Console, progress: Progress) -> dict[str, Evaluation]:
    """Evaluate and write everything; return each set's evaluation, by its name.

    Raises CheckpointError, ArchiveError, split.LeakError, and SeedError when an arm was trained on
    another split, so that nothing here would be held out from it.
    """
    torch.set_num_threads(job.threads)
    files = {"phase1": job.phase1, "phase2": job.phase2}
    loaded = {arm: checkpoint.load(path) for arm, path in files.items()}
    trained = {arm: read_trained(path) for arm, path in files.items()}
    for arm, known in trained.items():
        _check_seed(arm, known, job.seed)
    second = loaded["phase2"].model
    arms = (
        Arm("phase1", loaded["phase1"].model, SHORT),
        Arm("phase2", second, LONG),
        Arm(f"phase2 fed the last {SHORT}", second, SHORT),
    )
    found: dict[str, Evaluation] = {}
    for chains in _chains(job, console):
        questions = choose_questions(chains.spans, job.per_bucket, job.seed)
        if job.queries is not None:
            questions = thin(questions, job.queries, job.seed)
        found[chains.name] = evaluate(arms, chains.bank, questions, chains.title, progress)
        _show(found[chains.name], console)
    identities = {arm: part.identity for arm, part in loaded.items()}
    _write(job, identities, trained, found)
    return found


def _check_seed(arm: str, trained: Trained | None, seed: int) -> None:
    if trained and trained.recipe.seed != seed:
        raise SeedError(
            f"{arm} was trained with seed {trained.recipe.seed}, which holds other chains out than "
            f"seed {seed}: give --seed {trained.recipe.seed}, and a held-out set made with it"
        )


def _chains(job: Job, console: Console) -> list[Chains]:
    """Return the set that ships and, with a corpus, the whole bank with all test chains."""
    sample, held_out = read_archive(job.sample), read_held_out(job.held_out)
    if held_out.about.seed != job.seed:
        raise SeedError(
            f"{job.held_out} holds the test chains of seed {held_out.about.seed}, not of "
            f"{job.seed}: make one with `turnout corpus holdout --seed {job.seed}`"
        )
    ours = _spans(sample.chain)
    after = len(sample.vectors)
    shipped = Chains(
        "shipped",
        "the held-out set that ships",
        np.concatenate([sample.vectors, held_out.vectors]),
        [*ours, *_spans(held_out.chain, after)],
    )
    if job.corpus is None:
        return [shipped]
    corpus = open_corpus(job.corpus)
    sides = divide(corpus, sample.ids, seed=job.seed)
    console.print(f"split by chains: {sides.proof}", highlight=False)
    whole = Chains(
        "whole-bank",
        "the whole bank",
        np.concatenate([sample.vectors, corpus.vectors]),
        [*ours, *((begin + after, end + after) for begin, end in sides.test)],
    )
    return [shipped, whole]


def _spans(chain: NDArray[np.int16], after: int = 0) -> list[Span]:
    edges = np.searchsorted(chain, np.arange(int(chain[-1]) + 2)) + after
    return [(int(begin), int(end)) for begin, end in itertools.pairwise(edges)]


def _show(evaluation: Evaluation, console: Console) -> None:
    console.print(f"\n{evaluation.title}", style="bold")
    for table in (main_table, length_table, pool_table):
        console.print(_rich(*table(evaluation)))
    for difference in evaluation.differences:
        console.print(say_difference(difference), highlight=False)


def _rich(heading: Row, rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(heading):
        table.add_column(name, header_style="dim", no_wrap=place > 0)
    for row in rows:
        table.add_row(*row)
    return table


def _write(
    job: Job,
    identities: dict[str, str],
    trained: dict[str, Trained | None],
    found: dict[str, Evaluation],
) -> None:
    job.out.mkdir(parents=True, exist_ok=True)
    document = {**identities, **{name: each.model_dump() for name, each in found.items()}}
    rounded = json.loads(json.dumps(document), parse_float=lambda digits: round(float(digits), 4))
    (job.out / "evaluation.json").write_text(json.dumps(rounded, indent=1) + "\n")
    for name, evaluation in found.items():
        plot(evaluation, job.out / f"{name}.svg")
    command = shlex.join(["turnout", *sys.argv[1:]])
    for arm, identity in identities.items():
        card = Card(arm, identity, trained[arm], tuple(found.values()), command)
        (job.out / f"{arm}.md").write_text(write_card(card))
