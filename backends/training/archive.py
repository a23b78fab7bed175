"""The file of chains: real documents as vectors in reading order, and where they come from.

One `.npz` without a single pickled object, so `np.load(path, allow_pickle=False)` reads it:

| array          | type            | what                                                       |
|----------------|-----------------|------------------------------------------------------------|
| `vectors`      | float16 [N,768] | one vector per chunk, of length 1 but for rounding         |
| `ids`          | int64 [N]       | a hash of the chunk's text: positive, unique, stable       |
| `chain`        | int16 [N]       | which document the chunk belongs to: 0, 0, ..., 1, 1, ...  |
| `text`         | uint8 [B]       | all texts in UTF-8, one after the other                    |
| `text_offsets` | int64 [N+1]     | text i is the bytes from offset i to offset i + 1          |
| `mean`         | float32 [768]   | what was taken from the raw vectors: see encoder.py        |
| `about`        | uint8 [.]       | the JSON of `About`                                        |

Rows of one chain lie together, in reading order. A backend reads `vectors` and `ids` of this very
file as its bank.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from backends.protocol import DIMENSION

Array = NDArray[Any]

_KINDS: Final = {
    "vectors": ("float16", 2),
    "ids": ("int64", 1),
    "chain": ("int16", 1),
    "text": ("uint8", 1),
    "text_offsets": ("int64", 1),
    "mean": ("float32", 1),
    "about": ("uint8", 1),
}
_ID_BYTES: Final = 6
"""48 bits: a JSON reader that keeps numbers as float64 still reads every id exactly."""


class ArchiveError(Exception):
    """A file of chains that cannot be read; the message names the file and what is wrong."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Frozen):
    """Where one chain comes from. `licence` is an SPDX expression."""

    title: str
    package: str
    version: str
    files: tuple[str, ...]
    licence: str
    copyright: str


class About(_Frozen):
    """How the file was made: the encoder, its pooling, and one source per chain, in order."""

    encoder: str
    pooling: str
    chains: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Archive:
    """The content of the file. Shapes: vectors `[N, 768]`, ids and chain `[N]`, mean `[768]`."""

    vectors: NDArray[np.float16]
    ids: NDArray[np.int64]
    chain: NDArray[np.int16]
    texts: tuple[str, ...]
    mean: NDArray[np.float32]
    about: About


def identify(text: str) -> int:
    """Return the id of a chunk: the same text has the same id in every build."""
    digest = hashlib.blake2b(text.encode(), digest_size=_ID_BYTES).digest()
    return int.from_bytes(digest, "big") or 1


def write_archive(path: Path, archive: Archive) -> None:
    """Write the file, whole or not at all; the same content gives the same bytes."""
    encoded = [text.encode() for text in archive.texts]
    write_arrays(
        path,
        vectors=archive.vectors,
        ids=archive.ids,
        chain=archive.chain,
        text=np.frombuffer(b"".join(encoded), dtype=np.uint8),
        text_offsets=np.cumsum([0, *map(len, encoded)], dtype=np.int64),
        mean=archive.mean,
        about=np.frombuffer(archive.about.model_dump_json().encode(), dtype=np.uint8),
    )


def write_arrays(path: Path, **arrays: Array) -> None:
    """Write a compressed .npz, whole or not at all; the same arrays give the same bytes."""
    partial = path.with_name(f"{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    partial.replace(path)


def read_archive(path: Path) -> Archive:
    """Read the file and check it whole.

    Raises ArchiveError, in one sentence: no such file, damaged, an array missing or of another
    shape or type, ids or texts that repeat.
    """
    remedy = (
        "restore it from the repository, or build it with "
        f"`python -m backends.training.sample --out {path}`"
    )
    arrays = read_arrays(path, _KINDS, remedy)
    try:
        about = About.model_validate_json(arrays["about"].tobytes())
        texts = _split(arrays["text"], arrays["text_offsets"])
    except (ValidationError, UnicodeDecodeError, ValueError) as error:
        words = str(error).splitlines()[0]
        raise ArchiveError(f"{path} has an array that cannot be decoded: {words}") from error
    archive = Archive(
        vectors=arrays["vectors"],
        ids=arrays["ids"],
        chain=arrays["chain"],
        texts=texts,
        mean=arrays["mean"],
        about=about,
    )
    if fault := _find_fault(archive):
        raise ArchiveError(f"{path} {fault}")
    return archive


def read_arrays(
    path: Path, kinds: Mapping[str, tuple[str, int]], remedy: str
) -> Mapping[str, Array]:
    """Read an .npz whose arrays are of `kinds`: a name's type and number of dimensions.

    Raises ArchiveError, which tells the `remedy` when there is no file.
    """
    try:
        # numpy leaves a damaged file open when it opened the file itself
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [name for name in kinds if name not in archive]
            if missing:
                raise ArchiveError(f"{path} lacks the array {', '.join(missing)}")
            arrays = {name: archive[name] for name in kinds}
    except FileNotFoundError:
        raise ArchiveError(f"{path} does not exist: {remedy}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, TypeError) as error:
        raise ArchiveError(f"{path} is damaged or no .npz of plain arrays: {error}") from error
    for name, (dtype, rank) in kinds.items():
        found = arrays[name]
        if found.dtype != dtype or found.ndim != rank:
            raise ArchiveError(
                f"{path} holds {name} as {found.dtype} with {found.ndim} dimensions: it must be "
                f"{dtype} with {rank}"
            )
    return arrays


def _split(text: Array, offsets: Array) -> tuple[str, ...]:
    if (
        not offsets.size
        or offsets[0] != 0
        or offsets[-1] != text.size
        or (offsets[1:] < offsets[:-1]).any()
    ):
        raise ValueError("text_offsets must rise from 0 to the size of text")
    raw = text.tobytes()
    return tuple(raw[start:end].decode() for start, end in pairwise(offsets))


def _find_fault(archive: Archive) -> str:
    rows = archive.ids.size
    sizes = {
        "vectors": len(archive.vectors),
        "chain": archive.chain.size,
        "texts": len(archive.texts),
    }
    if wrong := [f"{size} {name}" for name, size in sizes.items() if size != rows]:
        return f"holds {rows} ids but {', '.join(wrong)}: there must be as many of each"
    if archive.vectors.shape[1] != DIMENSION or archive.mean.shape != (DIMENSION,):
        return f"holds vectors or a mean that are not {DIMENSION} numbers wide"
    if not (np.isfinite(archive.vectors).all() and np.isfinite(archive.mean).all()):
        return "holds a vector or a mean that is not finite"
    if rows and (archive.ids.min() < 1 or np.unique(archive.ids).size != rows):
        return "holds an id that is not positive or occurs twice"
    if len(set(archive.texts)) != rows:
        return "holds the same text twice"
    return find_chain_fault(archive.chain, archive.about.chains)


def find_chain_fault(chain: Array, sources: Sequence[Source]) -> str:
    """Say, as the end of a sentence, how rows and sources disagree; nothing when they agree."""
    found = np.unique(chain)
    if not np.array_equal(found, np.arange(len(sources))) or (np.diff(chain) < 0).any():
        return (
            f"describes {len(sources)} chains, but its rows do not run through chains 0 to "
            f"{len(sources) - 1} in order"
        )
    return ""
