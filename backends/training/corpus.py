"""The corpus on disk: a folder with the arrays of archive.py, each in a file of its own.

A corpus of half a million chunks is 0.8 GB, so its vectors are mapped and not read:

| file               | content                                                            |
|--------------------|--------------------------------------------------------------------|
| `vectors.npy`      | float16 [N,768], as in the archive; rows of a chain lie together    |
| `ids.npy`          | int64 [N]                                                          |
| `chain.npy`        | int16 [N]: 0, 0, ..., 1, 1, ...                                    |
| `text.npy`, `text_offsets.npy` | all texts in UTF-8                                     |
| `mean.npy`         | float32 [768]: what was taken from the raw vectors                 |
| `about.json`       | archive.About: encoder, pooling, one source with its licence a chain |

`about.json` is written last: a folder that has it is whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from backends.protocol import DIMENSION
from backends.training.archive import About, ArchiveError

_ARRAYS: Final = ("vectors", "ids", "chain", "text", "text_offsets", "mean")
_ABOUT: Final = "about.json"


@dataclass(frozen=True, slots=True)
class Corpus:
    """An open corpus. Shapes: vectors `[N, 768]` (mapped), ids and chain `[N]`, mean `[768]`."""

    vectors: NDArray[np.float16]
    ids: NDArray[np.int64]
    chain: NDArray[np.int16]
    mean: NDArray[np.float32]
    text: NDArray[np.uint8]
    text_offsets: NDArray[np.int64]
    about: About

    @property
    def starts(self) -> NDArray[np.int64]:
        """The first row of each chain, and N: chain c is the rows from starts[c] to [c + 1]."""
        return np.searchsorted(self.chain, np.arange(len(self.about.chains) + 1)).astype(np.int64)

    def texts(self, rows: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """Return the texts of some rows."""
        offsets = self.text_offsets
        return [self.text[offsets[row] : offsets[row + 1]].tobytes().decode() for row in rows]


def write_corpus(folder: Path, about: About, **arrays: NDArray[Any]) -> None:
    """Write the small arrays and `about.json`; `vectors.npy` was filled in place before."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    partial = folder / f"{_ABOUT}.partial"
    partial.write_text(about.model_dump_json(indent=1))
    partial.replace(folder / _ABOUT)


def remove_about(folder: Path) -> None:
    """Let the folder be no corpus, before its arrays are written anew."""
    (folder / _ABOUT).unlink(missing_ok=True)


def open_corpus(folder: Path) -> Corpus:
    """Open a corpus. Raises ArchiveError, in one sentence, when there is none or it is damaged."""
    if not (folder / _ABOUT).exists():
        raise ArchiveError(
            f"{folder} holds no corpus: make one with `turnout corpus build --out {folder}`"
        )
    try:
        about = About.model_validate_json((folder / _ABOUT).read_bytes())
        arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r" if name == "vectors" else None)
            for name in _ARRAYS
        }
    except (OSError, ValueError, ValidationError) as error:
        words = str(error).splitlines()[0]
        raise ArchiveError(f"the corpus {folder} is damaged: {words}") from error
    corpus = Corpus(about=about, **arrays)
    rows = corpus.ids.size
    if corpus.vectors.shape != (rows, DIMENSION) or corpus.chain.shape != (rows,):
        raise ArchiveError(
            f"the corpus {folder} has {rows} ids, but vectors of shape "
            f"{list(corpus.vectors.shape)} and {corpus.chain.size} chain numbers"
        )
    return corpus
