"""`turnout train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from backends.training.verbs.common import SAMPLE, CorpusFolder, Sample, Threads, fail

if TYPE_CHECKING:
    from backends.training.recipe import Recipe

Option = typer.Option


def train(
    arm: Annotated[str, Option(help="phase1, phase2, or a name of your own.")],
    corpus_dir: CorpusFolder,
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
    threads: Threads = 2,
    save_every: Annotated[
        float, Option(help="Seconds of work that a kill may cost: the state is saved as often.")
    ] = 60.0,
    sample: Sample = SAMPLE,
) -> None:
    """Train an arm on a corpus; one that was stopped goes on where it was.

    Prints how the corpus is divided, and that nothing leaks. After each epoch the weights with the
    best validation Hit@5 so far are OUT/ARM.safetensors, ready for BACKEND_CHECKPOINT, with
    config.json, history.json and history.svg beside them.

    Example: turnout train --arm phase1 --corpus corpus --out runs/phase1 --set learning_rate=1e-3
    """
    chosen: dict[str, object] = dict(part.partition("=")[::2] for part in setting or ())
    options = {
        "context_length": context_length,
        "overlap": overlap,
        "soft_negatives": 0.05 if soft_negatives else None,
        "hard_negatives": 0.07 if hard_negatives else None,
    }
    given = {name: value for name, value in options.items() if value is not None}
    recipe = _recipe(arm, given | chosen)
    if show:
        _show(recipe)
    else:
        _train(recipe, corpus_dir, out, sample, threads, save_every)


def _recipe(arm: str, settings: dict[str, object]) -> "Recipe":
    from pydantic import ValidationError  # noqa: PLC0415 - the verb's help loads none of these

    from backends.training.recipe import recipe_for  # noqa: PLC0415 - as above

    try:
        return recipe_for(arm, **settings)
    except ValidationError as error:
        fail("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()))


def _show(recipe: "Recipe") -> None:
    console = Console()
    for name, field in type(recipe).model_fields.items():
        value = getattr(recipe, name)
        console.print(f"{name:<20}{value!s:<12}{field.description}", highlight=False)


def _train(
    recipe: "Recipe", folder: Path, out: Path, sample: Path, threads: int, save_every: float
) -> None:
    import torch  # noqa: PLC0415 - takes a second

    from backends.training.archive import ArchiveError, read_archive  # noqa: PLC0415 - as above
    from backends.training.corpus import open_corpus  # noqa: PLC0415 - as above
    from backends.training.sides import divide  # noqa: PLC0415 - as above
    from backends.training.split import LeakError  # noqa: PLC0415 - as above
    from backends.training.state import ResumeError  # noqa: PLC0415 - as above
    from backends.training.train import train as run  # noqa: PLC0415 - as above

    torch.set_num_threads(threads)
    console = Console()
    columns = (
        TextColumn("{task.description:<44}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    try:
        corpus = open_corpus(folder)
        sides = divide(
            corpus,
            read_archive(sample).ids,
            seed=recipe.seed,
            min_chain=recipe.min_chain,
            coherence=recipe.coherence,
        )
        console.print(f"split by chains: {sides.proof}", highlight=False)
        with Progress(*columns, console=console) as progress:
            end = run(corpus, sides, recipe, out, progress, save_every)
    except (ArchiveError, LeakError, ResumeError, OSError) as error:
        fail(error)
    console.print(f"best validation Hit@5 {end.best:.2f} % after {end.epoch} epochs: {out}")
