"""Which rows of a bank have the greatest inner product with a vector: two indexes of faiss.

Both hold the rows as float16, half of what a search has to read, and score what they find again in
float32. **Exact** compares with every row; how far a float16 score may lie from a float32 one is
known, so it asks for more rows until no other can be among the best: its answer is that of float32.
**Approximate** is an inverted file: the rows lie in lists around centroids, and a search looks into
some of them. Both leave out the rows that they are told to leave out, whichever list these are in;
where the lists that were looked into hold too few others, the approximate one looks into all.

A batch's searches of the exact index are one (`Index.search_all`): the rows are read and widened
once for all of them, where the compiled function for that is there. The answers are bit for bit
those of lone searches: a row's float32 score does not depend on the rows that are scored with it,
every row that could be among the best is scored, and of equal scores the lower row is the better.

Rows are brought to length 1. Measured in `docs/adr/0003-the-banks-index-is-faiss.md`.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from backends.bankfile import Vectors, blocks
from backends.engine import halves
from backends.engine.halves import Halves
from backends.protocol import DIMENSION, Floats

Kind = Literal["exact", "approximate"]
Rows = NDArray[np.int64]

MORE: Final = 16
"""Rows that the exact index is asked for beside the best: mostly enough to be sure of these."""
SUMS: Final = 2 * DIMENSION * 2.0**-24
"""How far two float32 sums of products of unit vectors may lie apart: twice n times half an ulp
(Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1)."""
ROUGH_BYTES: Final = 16 << 20
"""Of rough scores that are held at once, at most: 16 searches of 262,144 rows."""
PROBED: Final = 12
"""One list in so many is looked into."""
TRAINING_ROWS: Final = 64
"""Rows per centroid that the centroids are found from; faiss asks for 39 at least."""
TRAINING_ROUNDS: Final = 6


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What a search leaves out: `rows`, and `bits` with a 0 for each of them; `others` remain."""

    rows: Rows
    bits: NDArray[np.uint8]
    others: int

    @classmethod
    def of(cls, rows: Rows, size: int) -> Self:
        """Leave these rows of `size` out."""
        others = np.ones(size, np.bool_)
        others[rows] = False
        return cls(rows, np.packbits(others, bitorder="little"), int(np.count_nonzero(others)))


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """One of a batch's: the `k` best rows for `vector` [768], none of `left_out` among them."""

    vector: Floats
    k: int
    left_out: LeftOut | None = None


@dataclass(frozen=True, slots=True)
class Index:
    """A faiss index over unit rows; `lists` is 0 for the exact one.

    `vectors` [N, 768] are the rows as the file has them. A row's score by the index lies within
    `slack`, times the vector's length, of its score in float32. So does one by `codes` [N, 768],
    the exact index's own rows.
    """

    faiss: Any
    vectors: Vectors
    slack: float = 0.0
    lists: int = 0
    coarse: Any = None
    """What finds the nearest lists; `faiss` only points at it."""
    codes: Halves | None = None

    def search(
        self, vector: Floats, k: int, left_out: LeftOut | None = None
    ) -> tuple[Rows, Floats]:
        """Find the `k` best rows, best first, and their inner products; none of `left_out`.

        Where fewer than `k` remain, there are fewer.
        """
        remaining = len(self.vectors) if left_out is None else left_out.others
        k = min(k, remaining)
        if k == 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        if self.lists:
            _, rows = self._search(vector, k, left_out, max(1, self.lists // PROBED))
            if rows[-1] < 0:  # too few in the lists that were looked into
                _, rows = self._search(vector, k, left_out, self.lists)
            return self._scored(vector, rows)
        return self._surely(
            vector, k, remaining, lambda asked: self._search(vector, asked, left_out)
        )

    def search_all(self, searches: Sequence[Search]) -> list[tuple[Rows, Floats]]:
        """Make several searches: each finds, bit for bit, what it would find alone."""
        together = ROUGH_BYTES // (4 * len(self.vectors))
        if self.codes is None or min(together, len(searches)) <= 1 or not halves.can_multiply():
            return [self.search(one.vector, one.k, one.left_out) for one in searches]
        found: list[tuple[Rows, Floats]] = []
        for start in range(0, len(searches), together):
            some = searches[start : start + together]
            rough = halves.products(self.codes, np.stack([one.vector for one in some]))
            found += map(self._best, some, rough)
        return found

    def _best(self, search: Search, rough: Floats) -> tuple[Rows, Floats]:
        """Choose the best rows by all rows' rough scores [N], which are spoiled."""
        remaining = len(rough)
        if search.left_out is not None:
            remaining = search.left_out.others
            rough[search.left_out.rows] = -np.inf
        k = min(search.k, remaining)
        if k == 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)

        def first(asked: int) -> tuple[Floats, Rows]:
            rows = np.argpartition(rough, -asked)[-asked:]
            return rough[rows], rows

        return self._surely(search.vector, k, remaining, first)

    def _surely(
        self, vector: Floats, k: int, remaining: int, first: Callable[[int], tuple[Floats, Rows]]
    ) -> tuple[Rows, Floats]:
        """Find the `k` best in float32; `first` gives so many rows that are the best roughly."""
        slack = self.slack * math.sqrt(vector @ vector)
        asked = k + MORE
        while True:
            asked = min(asked, remaining)
            rough, rows = first(asked)
            rows, scores = self._scored(vector, rows)
            # No row that was not found has a greater rough score than the least of these.
            if asked == remaining or scores[k - 1] > rough.min() + slack:
                return rows[:k], scores[:k]
            asked *= 4

    def _scored(self, vector: Floats, rows: Rows) -> tuple[Rows, Floats]:
        """Score rows in float32, and put the best first, of equal ones the lower row.

        Each row by itself: a product of BLAS would depend on how many rows there are.
        """
        parts = (self.vectors[part] for part in blocks(rows))
        scores = np.concatenate([np.einsum("ij,j->i", unit(part), vector) for part in parts])
        order = np.lexsort((rows, -scores))
        return rows[order], scores[order]

    def _search(
        self, vector: Floats, k: int, left_out: LeftOut | None, probed: int = 0
    ) -> tuple[Floats, Rows]:
        chosen: dict[str, Any] = {"nprobe": probed} if self.lists else {}
        if left_out is not None:
            chosen["sel"] = faiss.IDSelectorBitmap(left_out.bits)  # type: ignore[arg-type,call-arg]  # faiss/class_wrappers.py: an array
        kind = faiss.SearchParametersIVF if self.lists else faiss.SearchParameters
        scores, rows = self.faiss.search(vector[np.newaxis], k, params=kind(**chosen))
        return scores[0], rows[0]


def build(vectors: Vectors, kind: Kind, *, threads: int = 1) -> Index:
    """Index the rows of `vectors` [N, 768], brought to length 1, with so many threads."""
    faiss.omp_set_num_threads(threads)
    index = _inverted_file(vectors) if kind == "approximate" else _flat(vectors)
    faiss.omp_set_num_threads(1)  # the engine has the cores
    return index


def list_count(rows: int) -> int:
    """Choose how many lists: the power of two next to 1.5 times the root of the rows."""
    wanted = 1 << round(math.log2(1.5 * math.sqrt(rows)))
    return max(1, min(wanted, rows // TRAINING_ROWS))


def unit(vectors: NDArray[Any]) -> Floats:
    """Widen rows to float32 and bring them to length 1; what is 0 stays 0."""
    wide = vectors.astype(np.float32)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    wide /= np.maximum(lengths, np.finfo(np.float32).tiny)
    return wide


def _flat(vectors: Vectors) -> Index:
    index = faiss.IndexScalarQuantizer(
        DIMENSION, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    farthest = 0.0
    for block in blocks(vectors):
        exact = unit(block)
        index.add(exact)
        kept = index.reconstruct_n(index.ntotal - len(exact), len(exact))
        farthest = max(farthest, float(np.linalg.norm(exact - kept, axis=1).max()))
    codes = faiss.rev_swig_ptr(index.codes.data(), index.codes.size())
    return Index(
        index, vectors, farthest + SUMS, codes=codes.view(np.float16).reshape(-1, DIMENSION)
    )


def _inverted_file(vectors: Vectors) -> Index:
    lists = list_count(len(vectors))
    coarse = faiss.IndexFlatIP(DIMENSION)
    index = faiss.IndexIVFScalarQuantizer(
        coarse, DIMENSION, lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    index.by_residual = False
    index.cp.niter = TRAINING_ROUNDS
    index.cp.max_points_per_centroid = TRAINING_ROWS
    sample = min(len(vectors), lists * TRAINING_ROWS)
    index.train(unit(vectors[np.linspace(0, len(vectors) - 1, sample, dtype=np.int64)]))
    nearest = np.concatenate([coarse.assign(unit(block), 1)[:, 0] for block in blocks(vectors)])
    order = np.argsort(nearest, kind="stable")
    borders = np.searchsorted(nearest[order], np.arange(lists + 1))
    for number, (start, end) in enumerate(itertools.pairwise(borders)):
        # A list at once: index.add() grows lists row by row, to half as much memory again.
        rows = order[start:end]
        codes = np.ascontiguousarray(unit(vectors[rows]), np.float16)
        if rows.size:
            index.invlists.add_entries(  # type: ignore[union-attr]  # it has lists: it is trained
                number, rows.size, faiss.swig_ptr(rows), faiss.swig_ptr(codes.view(np.uint8))
            )
    index.ntotal = len(vectors)
    return Index(index, vectors, lists=lists, coarse=coarse)
