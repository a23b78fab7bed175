"""Which chains train, which validate, which are held out; and the proof that nothing leaks. Pure.

The unit is the chain. A chain's side follows from its title and the seed alone, so a corpus with
one more chain moves no other. The demo's chains are no part of the corpus: they are held out.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Side = Literal["train", "validation", "test"]
_BUCKETS: Final = 10_000


class LeakError(Exception):
    """A chain or a chunk's text stands on two sides of the split; the message names one."""


@dataclass(frozen=True, slots=True)
class Split:
    """The chains of each side, by their number in the corpus."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


def split_chains(
    titles: Sequence[str], seed: int, validation: float = 0.04, test: float = 0.1
) -> Split:
    """Divide chains by their titles; `validation` and `test` are shares of the chains."""
    sides: dict[Side, list[int]] = {"train": [], "validation": [], "test": []}
    for chain, title in enumerate(titles):
        digest = hashlib.blake2b(f"{seed}:{title}".encode(), digest_size=8).digest()
        place = int.from_bytes(digest, "big") % _BUCKETS / _BUCKETS
        side: Side = (
            "validation" if place < validation else "test" if place < validation + test else "train"
        )
        sides[side].append(chain)
    return Split(tuple(sides["train"]), tuple(sides["validation"]), tuple(sides["test"]))


def check_leaks(ids: Mapping[str, NDArray[np.int64]], chains: Mapping[str, Sequence[int]]) -> str:
    """Prove that no two sides share a chain or a chunk's text, and say so in one line.

    `ids` is each side's chunk ids (an id is a hash of the text), `chains` each side's chains.
    Raises LeakError.
    """
    names = list(ids)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            shared = np.intersect1d(ids[one], ids[other])
            both = set(chains.get(one, ())) & set(chains.get(other, ()))
            if shared.size or both:
                raise LeakError(
                    f"{one} and {other} share {len(both)} chains and {shared.size} texts "
                    f"(the first id is {shared[0] if shared.size else 'none'}): rebuild the corpus"
                )
    sizes = ", ".join(
        f"{name} {f'{len(chains[name])} chains ' if name in chains else ''}{ids[name].size} chunks"
        for name in names
    )
    return f"{sizes}; shared between any two: 0 chains, 0 texts"
