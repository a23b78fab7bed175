"""Which rows of a bank have the greatest inner product with a vector: two indexes of faiss.

**Exact** compares with every row, as float32. **Approximate** is an inverted file: the rows, as
float16, lie in lists around centroids, and a search looks into some of them. Both leave out
the rows that they are told to leave out, whichever list these are in; where the lists that were
looked into hold too few others, the approximate one looks into all.

Rows are brought to length 1. Measured in `docs/adr/0003-the-banks-index-is-faiss.md`.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from backends.bankfile import Vectors, blocks
from backends.protocol import DIMENSION, Floats

Kind = Literal["exact", "approximate"]
Rows = NDArray[np.int64]

PROBED: Final = 12
"""One list in so many is looked into."""
TRAINING_ROWS: Final = 64
"""Rows per centroid that the centroids are found from; faiss asks for 39 at least."""
TRAINING_ROUNDS: Final = 6


@dataclass(frozen=True, slots=True)
class Index:
    """A faiss index over unit rows; `lists` is 0 for the exact one."""

    faiss: Any
    lists: int = 0
    coarse: Any = None
    """What finds the nearest lists; `faiss` only points at it."""

    def search(self, vector: Floats, k: int, left_out: Rows) -> tuple[Rows, Floats]:
        """Find the `k` best rows, best first, and their inner products; none of `left_out`.

        There must be as many: `k` is at most the rows without `left_out`.
        """
        scores, rows = self._search(vector, k, left_out, max(1, self.lists // PROBED))
        if self.lists and rows[-1] < 0:  # too few in the lists that were looked into
            scores, rows = self._search(vector, k, left_out, self.lists)
        return rows, scores

    def _search(self, vector: Floats, k: int, left_out: Rows, probed: int) -> tuple[Floats, Rows]:
        chosen: dict[str, Any] = {"nprobe": probed} if self.lists else {}
        if left_out.size:
            batch = faiss.IDSelectorBatch(left_out)
            chosen["sel"] = faiss.IDSelectorNot(batch)
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
    index = faiss.IndexFlatIP(DIMENSION)
    for block in blocks(vectors):
        index.add(unit(block))
    return Index(index)


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
    return Index(index, lists, coarse)
