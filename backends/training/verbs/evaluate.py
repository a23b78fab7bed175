"""`turnout evaluate`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from backends.training.verbs.common import DATA, HELD_OUT, SAMPLE, Sample, Threads, bar, fail

Option = typer.Option


def evaluate(
    phase1: Annotated[Path, Option(help="The weights of Phase 1.")] = DATA / "phase1.safetensors",
    phase2: Annotated[Path, Option(help="The weights of Phase 2.")] = DATA / "phase2.safetensors",
    out: Annotated[
        Path, Option(help="Where table, JSON, plots and cards go.", file_okay=False)
    ] = Path("evaluation"),
    corpus_dir: Annotated[
        Path | None,
        Option(
            "--corpus",
            help="A corpus of `turnout corpus build`: ask over its whole bank too.",
        ),
    ] = None,
    queries: Annotated[
        int, Option(help="At most so many queries of each set, at random.", min=1)
    ] = 1000,
    per_bucket: Annotated[
        int, Option(help="Queries per chain and bucket of context length.", min=1)
    ] = 16,
    seed: Annotated[int, Option(help="The training's: its test chains are held out.", min=0)] = 0,
    threads: Threads = 2,
    sample: Sample = SAMPLE,
    held_out: Annotated[
        Path, Option(help="The held-out chains that ship; see `turnout corpus holdout`.")
    ] = HELD_OUT,
) -> None:
    """Ask both arms the same held-out queries over the same bank, beside baselines.

    Asks the shipped weights about the shipped held-out chains unless told otherwise. Candidates
    are the bank less the query's own context, as in serving. Writes evaluation.json, a plot per
    bank and a model card per arm. The same files give the same figures.

    Example: turnout evaluate --corpus corpus --out evaluation
    """
    from backends.errors import CheckpointError  # noqa: PLC0415 - the verb's help loads none
    from backends.training.archive import ArchiveError  # noqa: PLC0415 - as above
    from backends.training.judging import Job, judge  # noqa: PLC0415 - as above
    from backends.training.split import LeakError  # noqa: PLC0415 - as above
    from backends.training.trained import SeedError  # noqa: PLC0415 - as above

    for path in (phase1, phase2):
        if path.parent == DATA and not path.exists():
            fail(
                f"no trained weights ship with this version ({path} does not exist): train both "
                "arms with `turnout train`, and name them with --phase1 and --phase2"
            )
    job = Job(phase1, phase2, out, corpus_dir, queries, per_bucket, seed, threads, sample, held_out)
    console = Console()
    try:
        with bar(console) as progress:
            judge(job, console, progress)
    except (ArchiveError, CheckpointError, LeakError, SeedError, OSError) as error:
        fail(error)
    console.print(f"\nwritten to {out}", highlight=False)
