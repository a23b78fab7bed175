"""The bank: the vectors that a prediction's neighbours are chosen from, and their ids.

Scores are inner products with the bank's vectors brought to length 1, in float32 whichever index
found them. Whether two vectors are the same is another question, answered by the bits of their
float32 values as the file has them: that is how a context's own vectors are left out of its
neighbours, and how the truth of a feedback finds its id. Rows are looked up by a hash of their
bits, and compared bit by bit where the hash is the same.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from backends import bankfile, bankindex
from backends.bankfile import Vectors, anew, blocks
from backends.bankindex import Index, Kind, Rows
from backends.idruns import IdRuns
from backends.protocol import DIMENSION, Floats, Ids

_MULTIPLIERS: Final = np.random.default_rng(0).integers(
    0, 2**64, DIMENSION // 2, dtype=np.uint64
) | np.uint64(1)


@dataclass(frozen=True, slots=True)
class Lookup:
    """The rows of a bank by their bits: hashes in order, the rows that they are of, the rows."""

    hashes: NDArray[np.uint64]
    rows: Rows
    vectors: Vectors

    @classmethod
    def of(cls, vectors: Vectors) -> Self:
        """Hash every row."""
        hashes = np.concatenate([_hashes(block) for block in blocks(vectors)])
        order = np.argsort(hashes, kind="stable")
        return cls(hashes[order], order, vectors)

    def find(self, wanted: Floats) -> Rows:
        """Return the rows that equal one of `wanted` [n, 768], bit by bit, in ascending order."""
        hashes = _hashes(wanted)
        first = np.searchsorted(self.hashes, hashes, "left")
        counts = np.searchsorted(self.hashes, hashes, "right") - first
        asked = np.repeat(np.arange(len(hashes)), counts)
        nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = self.rows[np.repeat(first, counts) + nth]
        same = (_bits(self.vectors[rows]) == _bits(wanted[asked])).all(axis=1)
        return np.unique(rows[same])


@dataclass(frozen=True, slots=True)
class Bank:
    """An index of unit vectors, the ids of its rows, and the rows by their bits."""

    index: Index
    ids: Ids
    lookup: Lookup
    by_id: Rows
    identity: str

    @property
    def size(self) -> int:
        """Vectors in the bank."""
        return int(self.ids.size)

    def search(self, vector: Floats, k: int, exclude: Floats | None = None) -> tuple[Ids, Floats]:
        """Find the `k` nearest to `vector` [768], best first: ids int64 and scores float32.

        Leaves out the rows that equal one of `exclude` [n, 768] exactly. Where fewer than `k` rows
        remain, there are fewer answers.
        """
        left_out = np.empty(0, np.int64) if exclude is None else self.lookup.find(exclude)
        k = min(k, self.size - len(left_out))
        if k == 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        rows, scores = self.index.search(vector, k, left_out)
        if self.index.lists:  # its own scores are of float16 values
            scores = bankindex.unit(self.lookup.vectors[rows]) @ vector
            order = np.argsort(-scores, kind="stable")
            rows, scores = rows[order], scores[order]
        return self.ids[rows], scores

    def find(self, vector: Floats) -> int | None:
        """Return the id of the row that equals `vector` [768] exactly; of several, the first."""
        rows = self.lookup.find(vector[np.newaxis])
        return int(self.ids[rows[0]]) if rows.size else None

    def runs(self) -> IdRuns:
        """List the ids, as runs of neighbouring numbers."""
        return IdRuns.of(self.ids[self.by_id])

    def has(self, id_: int) -> bool:
        """Whether a vector of the bank has this id."""
        if not np.iinfo(np.int64).min <= id_ <= np.iinfo(np.int64).max:
            return False
        place = int(np.searchsorted(self.ids, id_, sorter=self.by_id))
        return place < self.size and int(self.ids[self.by_id[place]]) == id_


def load(path: Path, kind: Kind = "exact", *, threads: int = 1) -> Bank:
    """Load a bank's files and index them. Raises BankError, saying what is wrong."""
    file = bankfile.read(path)
    return build(file.vectors, file.ids, file.identity, kind, threads=threads)


def build(
    vectors: Vectors, ids: Ids, identity: str, kind: Kind = "exact", *, threads: int = 1
) -> Bank:
    """Make a bank of `vectors` [N, 768] and `ids` [N], both checked already."""
    lookup = Lookup.of(vectors)
    return Bank(
        index=bankindex.build(vectors, kind, threads=threads),
        ids=ids,
        lookup=replace(lookup, vectors=anew(vectors)),
        by_id=np.argsort(ids, kind="stable"),
        identity=identity,
    )


def _hashes(vectors: NDArray[Any]) -> NDArray[np.uint64]:
    """Hash rows by the bits of their float32 values: a sum of products, modulo 2**64."""
    hashes: NDArray[np.uint64] = np.einsum("ij,j->i", _bits(vectors), _MULTIPLIERS)
    return hashes


def _bits(vectors: NDArray[Any]) -> NDArray[np.uint64]:
    """Return rows of float32 values, or of what widens to it, two to a word: [n, 384]."""
    return np.ascontiguousarray(vectors, np.float32).view(np.uint64)
