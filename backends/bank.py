"""The bank: the vectors that a prediction's neighbours are chosen from, and their ids.

Scores are inner products with the bank's vectors brought to length 1, in float32 whichever index
found them. Whether two vectors are the same is another question, answered by the bits of their
float32 values as the file has them: that is how a context's own vectors are left out of its
neighbours, and how the truth of a feedback finds its id. Rows are looked up by the fingerprints of
these bits (`backends/fingerprint.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from backends import bankfile, bankindex
from backends.bankfile import Vectors, anew, blocks
from backends.bankindex import Index, Kind, LeftOut, Rows, Search
from backends.fingerprint import Prints, prints_of
from backends.idruns import IdRuns
from backends.protocol import Floats, Ids


@dataclass(frozen=True, slots=True)
class Lookup:
    """The rows of a bank by their bits: fingerprints [N, 4] in order, and the rows they are of.

    `firsts` [N] are the fingerprints' first words, which they are in the order of.
    """

    firsts: NDArray[np.uint64]
    prints: Prints
    rows: Rows
    repeated: bool
    """Whether several rows have the same first word."""

    @classmethod
    def of(cls, vectors: Vectors) -> Self:
        """Take every row's fingerprint."""
        prints = np.concatenate([prints_of(block) for block in blocks(vectors)])
        order = np.argsort(prints[:, 0], kind="stable")
        prints = prints[order]
        firsts = prints[:, 0].copy()
        return cls(firsts, prints, order, bool((firsts[1:] == firsts[:-1]).any()))

    def find(self, wanted: Prints) -> Rows:
        """Return the rows that have one of the fingerprints `wanted` [n, 4], in no order.

        A row is named once for each time that its fingerprint is among the wanted.
        """
        first = np.searchsorted(self.firsts, wanted[:, 0])
        asked = np.flatnonzero(self.firsts.take(first, mode="clip") == wanted[:, 0])
        places = first[asked]
        if self.repeated:
            counts = np.searchsorted(self.firsts, wanted[asked, 0], "right") - places
            asked = np.repeat(asked, counts)
            nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            places = np.repeat(places, counts) + nth
        same = self.prints[places] == wanted[asked]
        found: Rows = self.rows[places if same.all() else places[same.all(axis=1)]]
        return found


class Asked(NamedTuple):
    """What one of a batch asks for: see `Bank.search`."""

    vector: Floats
    k: int
    exclude: Prints | None = None


Neighbours = tuple[Ids, Floats]
"""Ids int64 [k] and scores float32 [k], best first."""


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

    def search(self, vector: Floats, k: int, exclude: Prints | None = None) -> Neighbours:
        """Find the `k` nearest to `vector` [768], best first: ids int64 and scores float32.

        Leaves out the rows whose fingerprints are among `exclude` [n, 4]. Where fewer than `k` rows
        remain, there are fewer answers.
        """
        rows, scores = self.index.search(vector, k, self._left_out(exclude))
        return self.ids[rows], scores

    def search_all(self, asked: Sequence[Asked]) -> list[Neighbours | Exception]:
        """Find for each what `search` finds, all at once; what one's search raises is its own."""
        try:
            searches = [Search(one.vector, one.k, self._left_out(one.exclude)) for one in asked]
            found = self.index.search_all(searches)
        except Exception as error:  # noqa: BLE001 - it belongs to one of these
            if len(asked) == 1:
                return [error]
            return [self.search_all([one])[0] for one in asked]
        return [(self.ids[rows], scores) for rows, scores in found]

    def _left_out(self, exclude: Prints | None) -> LeftOut | None:
        return None if exclude is None else LeftOut.of(self.lookup.find(exclude), self.size)

    def find(self, vector: Floats) -> int | None:
        """Return the id of the row that equals `vector` [768] exactly; of several, the first."""
        rows = self.lookup.find(prints_of(vector[np.newaxis]))
        return int(self.ids[rows.min()]) if rows.size else None

    def vector(self, id_: int) -> Floats | None:
        """Return the row [768] of an id, as the file has it; None where there is none."""
        if not self.has(id_):
            return None
        place = int(np.searchsorted(self.ids, id_, sorter=self.by_id))
        row: Floats = self.index.vectors[self.by_id[place]].astype(np.float32)
        return row

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
    index = bankindex.build(vectors, kind, threads=threads)
    return Bank(
        index=replace(index, vectors=anew(vectors)),
        ids=ids,
        lookup=lookup,
        by_id=np.argsort(ids, kind="stable"),
        identity=identity,
    )
