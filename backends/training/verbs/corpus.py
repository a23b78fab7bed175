"""`turnout corpus build` and `turnout corpus holdout`."""

import hashlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from backends.training.verbs.common import HELD_OUT, SAMPLE, CorpusFolder, Sample, bar, fail

corpus = typer.Typer(no_args_is_help=True, help="The text that the arms learn from, as vectors.")


@corpus.command("build")
def build(
    out: Annotated[Path, typer.Option(help="The corpus' folder; it needs 3 GB.", file_okay=False)],
    packages: Annotated[
        Path | None,
        typer.Option(help="Where the .deb files lie or are put; by default OUT/packages."),
    ] = None,
    shard: Annotated[
        int, typer.Option(help="Chunks whose embedding a kill may cost: saved as often.", min=1)
    ] = 16_384,
    sample: Sample = SAMPLE,
) -> None:
    r"""Build the training corpus: documentation of Debian 12 as chains of 768-d vectors.

    Needs Debian 12 (for apt-get download; run apt-get update first) and the sentence encoder:
    pip install '.\[training]' in a checkout. Takes 15 to 40 minutes on two cores; one
    that was stopped goes on where it was. Nothing is installed.
    """
    from backends.training.archive import ArchiveError, read_archive  # noqa: PLC0415 - loads slowly
    from backends.training.build import build_corpus  # noqa: PLC0415 - as above
    from backends.training.documents import DocumentError  # noqa: PLC0415 - as above
    from backends.training.encoder import EncoderMissingError  # noqa: PLC0415 - as above

    try:
        mean = read_archive(sample).mean
        with bar(Console(stderr=True)) as progress:
            build_corpus(out, (packages or out / "packages").resolve(), mean, progress, shard)
    except (ArchiveError, DocumentError, EncoderMissingError, OSError) as error:
        fail(error)


@corpus.command("holdout")
def holdout(
    corpus_dir: CorpusFolder,
    out: Annotated[Path, typer.Option(help="The file to write.")] = HELD_OUT,
    seed: Annotated[int, typer.Option(help="The split's, and so the training's.", min=0)] = 0,
    sample: Sample = SAMPLE,
) -> None:
    """Write the held-out chains that ship, so that `turnout evaluate` needs no corpus.

    They are the split's test chains whose licence lets their vectors travel, each up to 1,001
    vectors in steps of 8 bits. The same corpus and seed give the same bytes.

    Example: turnout corpus holdout --corpus corpus --out deploy/data/heldout.npz
    """
    from backends.training.archive import ArchiveError, read_archive  # noqa: PLC0415 - loads slowly
    from backends.training.corpus import open_corpus  # noqa: PLC0415 - as above
    from backends.training.heldout import choose_held_out, write_held_out  # noqa: PLC0415 - as above
    from backends.training.split import LeakError  # noqa: PLC0415 - as above

    try:
        held_out = choose_held_out(open_corpus(corpus_dir), read_archive(sample).ids, seed)
        write_held_out(out, held_out)
    except (ArchiveError, LeakError, OSError) as error:
        fail(error)
    content = out.read_bytes()
    Console().print(
        f"{out}: {len(held_out.about.chains)} chains of {held_out.ids.size} vectors, "
        f"{len(content) / 1e6:.2f} MB, sha256 {hashlib.sha256(content).hexdigest()}",
        soft_wrap=True,
        highlight=False,
    )
