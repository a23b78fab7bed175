"""The files of a bank: vectors, and an id for each.

- `bank.npz` holds `vectors` [N, 768] and `ids` [N]; it is read into memory, as float32.
- `bank.npy` holds the vectors alone and is mapped into memory, not read. The ids are in
  `bank.ids.npy` beside it; without that file they are the row numbers, from 0.

Vectors are float16 or float32, ids are whole numbers and no two are alike. The bank's identity is
the sha256 of the file, or of both one after the other: `cat bank.npy bank.ids.npy | sha256sum`.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from backends.errors import BankError
from backends.protocol import DIMENSION, Ids

BLOCK: Final = 16_384
"""Rows that are widened to float32 at a time: 48 MiB."""

Vectors = NDArray[np.float16] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class BankFile:
    """What a bank's files hold, checked: `vectors` [N, 768] and `ids` [N]."""

    vectors: Vectors
    ids: Ids
    identity: str


def read(path: Path) -> BankFile:
    """Read and check a bank. Raises BankError, saying what is wrong."""
    read_files = _read_npy if path.suffix == ".npy" else _read_npz
    try:
        vectors, ids, files = read_files(path)
        identity = _sha256(files)
    except OSError as error:
        name = error.filename or path
        raise BankError(f"cannot read the bank {name}: {error.strerror or error}") from error
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BankError(
            f"the bank {path} is no {path.suffix or '.npz'} file of plain arrays: {error}"
        ) from error
    _check(vectors, ids, path)
    in_memory = vectors if isinstance(vectors, np.memmap) else vectors.astype(np.float32)
    return BankFile(in_memory, ids.astype(np.int64), identity)


def anew(vectors: Vectors) -> Vectors:
    """Map a file's vectors anew, without the pages that were looked at; others stay as they are."""
    if not isinstance(vectors, np.memmap) or vectors.filename is None:
        return vectors
    mapped: Vectors = np.load(vectors.filename, mmap_mode="r", allow_pickle=False)
    return mapped


def blocks(rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Go through the rows, some at a time."""
    for start in range(0, len(rows), BLOCK):
        yield rows[start : start + BLOCK]


def _read_npz(path: Path) -> tuple[NDArray[Any], NDArray[Any], list[Path]]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        missing = {"vectors", "ids"} - set(arrays)
        if missing:
            raise BankError(f"the bank {path} lacks {' and '.join(sorted(missing))}")
        return arrays["vectors"], arrays["ids"], [path]


def _read_npy(path: Path) -> tuple[NDArray[Any], NDArray[Any], list[Path]]:
    vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(vectors, np.ndarray):
        raise TypeError("it holds several arrays")
    beside = path.with_suffix(".ids.npy")
    if not beside.exists():
        return vectors, np.arange(len(vectors) if vectors.ndim else 0), [path]
    ids = np.load(beside, allow_pickle=False)
    if not isinstance(ids, np.ndarray):
        raise TypeError(f"{beside} holds several arrays")
    return vectors, ids, [path, beside]


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
    return digest.hexdigest()


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
    for index, block in enumerate(blocks(vectors)):
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            row = index * BLOCK + int(np.argmin(finite))
            raise BankError(f"row {row} of the bank {path} is not finite")
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) != len(ids):
        raise BankError(f"the id {int(unique[counts.argmax()])} stands twice in the bank {path}")
