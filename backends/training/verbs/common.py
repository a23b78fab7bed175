"""What the verbs of training share: files that ship, and how a verb fails."""

from pathlib import Path
from typing import Annotated, Final, NoReturn

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

DATA: Final = Path(__file__).parents[3] / "deploy" / "data"
SAMPLE: Final = DATA / "chains.npz"
HELD_OUT: Final = DATA / "heldout.npz"

Sample = Annotated[
    Path, typer.Option(help="The sample that ships: its mean is taken, its texts are held out.")
]
CorpusFolder = Annotated[
    Path,
    typer.Option("--corpus", help="The folder that `turnout corpus build` filled."),
]
Threads = Annotated[int, typer.Option(help="Threads to compute with.", min=1)]


def bar(console: Console) -> Progress:
    """Make the progress bar of a verb."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)


def fail(error: Exception | str) -> NoReturn:
    """Tell an error on stderr and end with status 1."""
    Console(stderr=True).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
    raise typer.Exit(1) from None
