"""The real input of a demo: documents as chains of vectors, in reading order.

A context is a stretch of a chain, `chain.vectors[:n]`; its truth is the id of the chunk that came
next in the document, `chain.ids[n]`. The backends' bank is the same file, so every truth is among
the candidates.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backends.training.archive import Archive, Source, read_archive

SHIPPED: Final = Path(__file__).parent / "data" / "chains.npz"


@dataclass(frozen=True, slots=True)
class Chain:
    """One document in reading order: `vectors` float32 `[n, 768]`, `ids` int64 `[n]`, n texts.

    The vectors are the shipped float16 values, widened and nothing else: a bank that reads the
    same file finds a context's vectors by exact match.
    """

    source: Source
    vectors: NDArray[np.float32]
    ids: NDArray[np.int64]
    texts: tuple[str, ...]

    @property
    def title(self) -> str:
        """The document's title."""
        return self.source.title

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"<Chain {self.title!r}: {len(self)} chunks, {self.source.licence}>"


@dataclass(frozen=True, slots=True)
class Chains:
    """All documents of a file, and how their text became vectors; `mean` is float32 `[768]`."""

    chains: tuple[Chain, ...]
    encoder: str
    pooling: str
    mean: NDArray[np.float32]


def load_chains(path: Path = SHIPPED) -> Chains:
    """Read a file of chains.

    Raises `backends.training.archive.ArchiveError` in one sentence when it cannot be read.
    """
    archive = read_archive(path)
    return Chains(
        chains=tuple(_chain(archive, index) for index in range(len(archive.about.chains))),
        encoder=archive.about.encoder,
        pooling=archive.about.pooling,
        mean=archive.mean,
    )


def _chain(archive: Archive, index: int) -> Chain:
    rows = np.flatnonzero(archive.chain == index)
    return Chain(
        source=archive.about.chains[index],
        vectors=archive.vectors[rows].astype(np.float32),
        ids=archive.ids[rows],
        texts=tuple(archive.texts[row] for row in rows),
    )
