"""An evaluation from files to files: weights and chains in; table, JSON, plot and cards out."""

import itertools
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from backends import checkpoint
from backends.training.archive import Archive, read_archive
from backends.training.card import (
    Row,
    length_table,
    main_table,
    plot,
    pool_table,
    say_difference,
    write_card,
)
from backends.training.corpus import open_corpus
from backends.training.evaluation import Arm, Evaluation, Half, evaluate
from backends.training.questions import choose_questions
from backends.training.recipe import Recipe
from backends.training.sides import Span, divide

_SHORT, _LONG = 100, 500


@dataclass(frozen=True, slots=True)
class Job:
    """What to evaluate, on what, and where the results go."""

    phase1: Path
    phase2: Path
    out: Path
    corpus: Path | None
    per_bucket: int
    seed: int
    threads: int
    sample: Path


def judge(job: Job, console: Console) -> Evaluation:
    """Evaluate and write everything. Raises CheckpointError, ArchiveError or LeakError."""
    torch.set_num_threads(job.threads)
    first, second = checkpoint.load(job.phase1), checkpoint.load(job.phase2)
    bank, spans = _held_out(job, console)
    arms = (
        Arm("phase1", first.model, _SHORT),
        Arm("phase2", second.model, _LONG),
        Arm(f"phase2 fed the last {_SHORT}", second.model, _SHORT),
    )
    questions = choose_questions(spans, job.per_bucket, job.seed)
    evaluation = evaluate(
        arms, bank, questions, lambda words: console.print(words, style="dim", highlight=False)
    )
    for table in (main_table, length_table, pool_table):
        console.print(_rich(*table(evaluation)))
    for found in evaluation.differences:
        console.print(say_difference(found), highlight=False)
    job.out.mkdir(parents=True, exist_ok=True)
    document = {
        "phase1": first.identity,
        "phase2": second.identity,
        **evaluation.model_dump(),
    }
    (job.out / "evaluation.json").write_text(json.dumps(document, indent=1) + "\n")
    plot(evaluation, job.out / "evaluation.svg")
    command = shlex.join(["turnout", *sys.argv[1:]])
    for arm, path, found_in in (("phase1", job.phase1, first), ("phase2", job.phase2, second)):
        card = write_card(arm, found_in.identity, _recipe_beside(path), evaluation, command)
        (job.out / f"{arm}.md").write_text(card)
    return evaluation


def _held_out(job: Job, console: Console) -> tuple[Half, list[Span]]:
    """Return the bank and the held-out chains in it: the sample's, and the corpus' test chains."""
    sample = read_archive(job.sample)
    spans = _spans(sample)
    if job.corpus is None:
        return sample.vectors, spans
    corpus = open_corpus(job.corpus)
    sides = divide(corpus, sample.ids, seed=job.seed)
    console.print(f"split by chains: {sides.proof}", highlight=False)
    after = len(corpus.vectors)
    bank = np.concatenate([corpus.vectors, sample.vectors])
    return bank, [*sides.test, *((begin + after, end + after) for begin, end in spans)]


def _spans(sample: Archive) -> list[Span]:
    edges = np.searchsorted(sample.chain, np.arange(len(sample.about.chains) + 1))
    return [(int(begin), int(end)) for begin, end in itertools.pairwise(edges)]


def _recipe_beside(weights: Path) -> Recipe | None:
    try:
        return Recipe.model_validate_json((weights.parent / "config.json").read_bytes())
    except (OSError, ValidationError):
        return None


def _rich(heading: Row, rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in heading:
        table.add_column(name, header_style="dim")
    for row in rows:
        table.add_row(*row)
    return table
