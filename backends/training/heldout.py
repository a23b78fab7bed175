"""The held-out chains that ship beside the sample, so that an evaluation needs no corpus.

Test chains of the corpus' split, whole up to the longest question: one `.npz` without a pickled
object, a quarter the size of float32 and half that of float16 (deploy/data/README.md says what
the precision costs):

| array   | type         | what                                                  |
|---------|--------------|-------------------------------------------------------|
| `codes` | int8 [N,768] | round(vector sqrt(768) / 0.1); scaled to length 1, a vector again |
| `ids`   | int64 [N]    | the ids of archive.py: hashes of the chunks' texts    |
| `chain` | int16 [N]    | 0, 0, ..., 1, 1, ...: rows of one chain lie together  |
| `about` | uint8 [.]    | the JSON of `About`                                   |

Texts do not ship, and of documents whose licence asks that copies carry it on (GPL, CC-BY-SA) not
even vectors do: those chains are in the evaluation over the whole corpus alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from backends.protocol import DIMENSION
from backends.training.archive import (
    ArchiveError,
    Source,
    find_chain_fault,
    read_arrays,
    write_arrays,
)
from backends.training.corpus import Corpus
from backends.training.questions import BUCKETS
from backends.training.ranks import Ints
from backends.training.split import check_leaks, split_chains

ROWS: Final = BUCKETS[-1][1] + 1
"""Rows kept of a chain: the longest question's context and its truth."""
STEP: Final = 0.1 / DIMENSION**0.5
"""The codes' unit; the numbers of a vector of length 1 have the root mean square 1 / sqrt(768)."""
SHIPPABLE: Final = (
    "Apache-2.0",
    "Artistic-1.0-Perl OR GPL-1.0-or-later",
    "LicenseRef-public-domain",
    "PSF-2.0",
    "PostgreSQL",
)
_MOST: Final = 127
_KINDS: Final = {
    "codes": ("int8", 2),
    "ids": ("int64", 1),
    "chain": ("int16", 1),
    "about": ("uint8", 1),
}


class About(BaseModel):
    """Which split the chains are the test side of, how they were made, and their sources."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    corpus_chunks: int
    encoder: str
    chains: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The file's content. Shapes: codes [N, 768], ids and chain [N]."""

    codes: NDArray[np.int8]
    ids: Ints
    chain: NDArray[np.int16]
    about: About

    @property
    def vectors(self) -> NDArray[np.float16]:
        """The vectors [N, 768] that the codes stand for, of length 1."""
        wide = self.codes.astype(np.float32)
        return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), np.float16)


def choose_held_out(corpus: Corpus, sample_ids: Ints, seed: int) -> HeldOut:
    """Take the split's test chains that may ship, each up to 1,001 rows, at the file's precision.

    Raises split.LeakError when one holds a text of the sample, ArchiveError when none may ship.
    """
    sources, starts = corpus.about.chains, corpus.starts
    test = split_chains([source.title for source in sources], seed).test
    chosen = [chain for chain in test if sources[chain].licence in SHIPPABLE]
    if not chosen:
        raise ArchiveError(
            f"of the corpus' {len(test)} test chains with seed {seed} none may ship: their "
            "licences are others than those of backends/training/heldout.py"
        )
    rows = [np.arange(starts[c], min(starts[c + 1], starts[c] + ROWS)) for c in chosen]
    every = np.concatenate(rows)
    check_leaks({"held out": corpus.ids[every], "demo": sample_ids}, {})
    return HeldOut(
        codes=encode(corpus.vectors[every]),
        ids=corpus.ids[every],
        chain=np.repeat(np.arange(len(rows), dtype=np.int16), [len(part) for part in rows]),
        about=About(
            seed=seed,
            corpus_chunks=len(corpus.ids),
            encoder=corpus.about.encoder,
            chains=tuple(sources[chain] for chain in chosen),
        ),
    )


def encode(vectors: NDArray[np.float16]) -> NDArray[np.int8]:
    """Round vectors [N, 768] of length 1 to steps of 0.1 / sqrt(768), at most 127 of them."""
    steps = np.rint(vectors.astype(np.float32) / np.float32(STEP))
    return np.asarray(np.clip(steps, -_MOST, _MOST), np.int8)


def write_held_out(path: Path, held_out: HeldOut) -> None:
    """Write the file, whole or not at all; the same content gives the same bytes."""
    write_arrays(
        path,
        codes=held_out.codes,
        ids=held_out.ids,
        chain=held_out.chain,
        about=np.frombuffer(held_out.about.model_dump_json().encode(), dtype=np.uint8),
    )


def read_held_out(path: Path) -> HeldOut:
    """Read the file and check it whole. Raises ArchiveError in one sentence."""
    remedy = f"build it with `turnout corpus holdout --corpus CORPUS --out {path}`"
    arrays = read_arrays(path, _KINDS, remedy)
    try:
        about = About.model_validate_json(arrays["about"].tobytes())
    except ValidationError as error:
        words = str(error).splitlines()[0]
        raise ArchiveError(f"{path} has an array that cannot be decoded: {words}") from error
    held_out = HeldOut(arrays["codes"], arrays["ids"], arrays["chain"], about)
    rows = held_out.ids.size
    if held_out.codes.shape != (rows, DIMENSION) or held_out.chain.size != rows:
        raise ArchiveError(
            f"{path} holds {rows} ids, codes of shape {list(held_out.codes.shape)} and "
            f"{held_out.chain.size} chain numbers: there must be as many of each, {DIMENSION} wide"
        )
    if not held_out.codes.any(axis=1).all():
        raise ArchiveError(f"{path} holds codes that are all zero, which no vector is")
    if fault := find_chain_fault(held_out.chain, about.chains):
        raise ArchiveError(f"{path} {fault}")
    return held_out
