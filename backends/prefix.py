"""Contexts that the server has read before: the states that their prefixes left.

A context that grew by one vector needs one step of the GRU, not five hundred, when the state after
its prefix is still known, and one that was read before needs none. A prefix is known by the sha256
of its vectors' fingerprints (`backends/fingerprint.py`), so that equal digests mean equal vectors
in the same order from the same first one; clients choose the vectors, so nothing less will do.

A context's fingerprints are hashed once from end to end, and the digest is looked at only where it
can be that of a known prefix. That is told by an **ending**: how many vectors a prefix has and a
part of the last one's fingerprint, in one word. Endings may collide: that costs a look, never an
answer.

The state after n vectors is kept under their digest, 8 KB each, the least recently used going first
when a bound in bytes is reached. Continuing is exact: the engine's sums are the same ones.

A window that slid (the context is longer than the arm reads) begins at another vector each time, so
nothing that it shares with the last one is a prefix: it is read from its first vector. During a
rollout that is the incumbent's lot with long contexts, and not the candidate's, whose window is
longer: their latencies differ for this reason too.
"""

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backends.engine.port import State
from backends.fingerprint import WORDS, Prints

DIGEST: Final = 16
"""Bytes; 128 bits make a collision a matter of astronomy, by chance and on purpose."""
OVERHEAD: Final = 512
"""Bytes of an entry beside its state: link, array header, places in both tables; measured."""
PRINT_BYTES: Final = WORDS * 8
_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)
"""2**64 by the golden ratio: a length times this differs from another's in all of its bits."""
_SPREADS: Final = np.arange(1, 2049, dtype=np.uint64) * _SPREAD


class Link(NamedTuple):
    """Stands for the first `length` vectors of a context."""

    digest: bytes
    ending: int
    length: int


@dataclass(frozen=True, slots=True)
class Known:
    """The longest known prefix: its vectors, and the state after them (None: there is none)."""

    length: int
    state: State | None


NOTHING: Final = Known(0, None)


def endings_of(prints: Prints) -> NDArray[np.uint64]:
    """Return for each prefix of vectors, given by their fingerprints [n, 4], its ending [n]."""
    return prints[:, 0] ^ _spreads(len(prints))


def links_of(prints: Prints, lengths: Iterable[int]) -> tuple[Link, ...]:
    """Link the prefixes of vectors that have these lengths, ascending, from 1 to n.

    `prints` [n, 4] are the vectors' fingerprints.
    """
    spreads = _spreads(len(prints))
    bytes_ = prints.data.cast("B")
    hashed = hashlib.sha256()
    links: list[Link] = []
    done = 0
    for length in lengths:
        hashed.update(bytes_[done * PRINT_BYTES : length * PRINT_BYTES])
        done = length
        ending = int(prints[length - 1, 0]) ^ int(spreads[length - 1])
        links.append(Link(hashed.digest()[:DIGEST], ending, length))
    return tuple(links)


def _spreads(length: int) -> NDArray[np.uint64]:
    """Return a word for each length from 1 to `length`."""
    if length <= len(_SPREADS):
        return _SPREADS[:length]
    return np.arange(1, length + 1, dtype=np.uint64) * _SPREAD


class PrefixStates:
    """The states after known prefixes, within `limit` bytes (0: none are kept)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._states: OrderedDict[Link, State] = OrderedDict()
        self._endings: Counter[int] = Counter()
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<PrefixStates {len(self)} in {self._bytes} of {self._limit} bytes>"

    def __len__(self) -> int:
        return len(self._states)

    @property
    def enabled(self) -> bool:
        """Whether any state is kept."""
        return self._limit > 0

    @property
    def bytes_held(self) -> int:
        """Bytes that the kept states take."""
        return self._bytes

    def lengths(self, prints: Prints) -> list[int]:
        """Say which prefixes of n vectors may be known, ascending; and n, which is last.

        `prints` [n, 4] are the vectors' fingerprints. A prefix that is known is among them, and few
        others are.
        """
        known = self._endings
        endings = endings_of(prints[:-1]).tolist() if known else []
        return [*[place for place, end in enumerate(endings, 1) if end in known], len(prints)]

    def longest(self, links: Sequence[Link]) -> Known:
        """Find the longest known prefix of a context, by its links; it may be all of it."""
        for link in reversed(links):
            state = self._states.get(link)
            if state is not None:
                self._states.move_to_end(link)
                return Known(link.length, state)
        return NOTHING

    def keep(self, link: Link, state: State) -> None:
        """Keep the state after a whole window; forget the least recently used beyond the bound."""
        cost = state.nbytes + OVERHEAD
        if cost > self._limit:
            return
        if link not in self._states:
            self._bytes += cost
            self._endings[link.ending] += 1
        self._states[link] = state
        self._states.move_to_end(link)
        while self._bytes > self._limit:
            gone, forgotten = self._states.popitem(last=False)
            self._bytes -= forgotten.nbytes + OVERHEAD
            self._forget(gone.ending)

    def _forget(self, ending: int) -> None:
        self._endings[ending] -= 1
        if not self._endings[ending]:
            del self._endings[ending]
