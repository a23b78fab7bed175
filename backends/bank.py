"""The bank: the vectors that a prediction's neighbours are chosen from, and their ids.

Scores are inner products with the bank's vectors brought to length 1, computed exactly (faiss, a
flat index). Whether two vectors are the same is another question, answered by the bytes of their
float32 values as the file has them: that is how a context's own vectors are left out of its
neighbours, and how the truth of a feedback finds its id.
"""

import hashlib
import zipfile
import zlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from backends.errors import BankError
from backends.protocol import DIMENSION, Floats, Ids

Key = bytes
"""A vector's identity: 16 bytes of blake2b over its float32 values, so that rows need no copy."""


@dataclass(frozen=True, slots=True)
class Bank:
    """An index of unit vectors, the ids of its rows, and the rows of each distinct vector."""

    index: Any
    ids: Ids
    rows: dict[Key, list[int]]
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
        left_out = [] if exclude is None else self._rows_of(exclude)
        k = min(k, self.size - len(left_out))
        if k == 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        parameters = None
        if left_out:
            batch = faiss.IDSelectorBatch(np.array(left_out, np.int64))
            selector = faiss.IDSelectorNot(batch)
            parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]  # SWIG sets attributes from keywords
        scores, found = self.index.search(vector[np.newaxis], k, params=parameters)
        return self.ids[found[0]], scores[0]

    def find(self, vector: Floats) -> int | None:
        """Return the id of the row that equals `vector` [768] exactly; of several, the first."""
        rows = self.rows.get(_key(vector))
        return int(self.ids[rows[0]]) if rows else None

    def _rows_of(self, context: Floats) -> list[int]:
        keys = {_key(vector) for vector in context}
        return [row for key in keys for row in self.rows.get(key, ())]


def load(path: Path) -> Bank:
    """Load an .npz with `vectors` [N, 768] and `ids` [N]. Raises BankError, saying what is wrong.

    The bank's identity is the sha256 of the file.
    """
    try:
        with path.open("rb") as file:
            identity = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                missing = {"vectors", "ids"} - set(arrays)
                if missing:
                    raise BankError(f"the bank {path} lacks {' and '.join(sorted(missing))}")
                vectors, ids = arrays["vectors"], arrays["ids"]
    except OSError as error:
        raise BankError(f"cannot read the bank {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BankError(f"the bank {path} is no .npz file of plain arrays: {error}") from error
    _check(vectors, ids, path)
    return build(vectors.astype(np.float32), ids.astype(np.int64), identity)


def build(vectors: Floats, ids: Ids, identity: str) -> Bank:
    """Make a bank of `vectors` [N, 768] and `ids` [N], both checked already."""
    rows: dict[Key, list[int]] = defaultdict(list)
    for row, vector in enumerate(vectors):
        rows[_key(vector)].append(row)
    faiss.omp_set_num_threads(1)  # the engine has the cores; 7,200 vectors take 1 ms on one
    index = faiss.IndexFlatIP(DIMENSION)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    index.add(vectors / np.maximum(lengths, np.finfo(np.float32).tiny))
    return Bank(index=index, ids=ids, rows=dict(rows), identity=identity)


def _key(vector: Floats) -> Key:
    return hashlib.blake2b(np.ascontiguousarray(vector, "<f4").tobytes(), digest_size=16).digest()


def _check(vectors: NDArray[Any], ids: NDArray[Any], path: Path) -> None:
    if vectors.ndim != 2 or vectors.shape[1] != DIMENSION or not len(vectors):  # noqa: PLR2004 - rows and columns
        raise BankError(
            f"the bank {path} has vectors of shape {list(vectors.shape)}: the model's are "
            f"[N, {DIMENSION}], N >= 1"
        )
    if vectors.dtype not in (np.float16, np.float32):
        raise BankError(f"the bank {path} has vectors of {vectors.dtype}, not float16 or float32")
    if ids.shape != vectors.shape[:1] or ids.dtype.kind not in "iu":
        raise BankError(
            f"the bank {path} has ids of shape {list(ids.shape)} and {ids.dtype}: one integer per "
            f"vector makes [{len(vectors)}]"
        )
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise BankError(f"row {int(np.argmin(finite))} of the bank {path} is not finite")
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) != len(ids):
        raise BankError(f"the id {int(unique[counts.argmax()])} stands twice in the bank {path}")
