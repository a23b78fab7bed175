"""Contexts that the server has read before: the states that their prefixes left.

A context that grew by one vector needs one step of the GRU, not five hundred, when the state after
its prefix is still known. Prefixes are known by a chained hash, so that equal hashes mean equal
vectors in the same order from the same first one:

    link(0) = H(vector 0)      link(i) = H(link(i - 1), H(vector i))

The state after n vectors is kept under link(n - 1), 8 KB each, the least recently used going first
when a bound in bytes is reached. Continuing is exact: the engine's sums are the same ones.

A window that slid (the context is longer than the arm reads) begins at another vector each time, so
nothing that it shares with the last one is a prefix: it is read from its first vector. During a
rollout that is the incumbent's lot with long contexts, and not the candidate's, whose window is
longer: their latencies differ for this reason too.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from backends.engine.port import State
from backends.protocol import Floats

DIGEST: Final = 16
"""Bytes; 128 bits make a collision a matter of astronomy, by chance and on purpose."""
OVERHEAD: Final = 512
"""Bytes of an entry beside its state: key, array header, place in the order; measured."""

Link = bytes


@dataclass(frozen=True, slots=True)
class Known:
    """The longest known prefix: its vectors, and the state after them (None: there is none)."""

    length: int
    state: State | None


NOTHING: Final = Known(0, None)


def links_of(vectors: Floats) -> list[Link]:
    """Return the chained hashes of `vectors` [n, 768]: link i stands for vectors 0 to i."""
    link = b""
    links = []
    for vector in np.ascontiguousarray(vectors, "<f4"):
        link = hashlib.sha256(link + hashlib.sha256(vector).digest()).digest()[:DIGEST]
        links.append(link)
    return links


class PrefixStates:
    """The states after known prefixes, within `limit` bytes (0: none are kept)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._states: OrderedDict[Link, State] = OrderedDict()
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

    def longest(self, links: Sequence[Link]) -> Known:
        """Find the longest known prefix that leaves at least one vector to read."""
        for length in range(len(links) - 1, 0, -1):
            state = self._states.get(links[length - 1])
            if state is not None:
                self._states.move_to_end(links[length - 1])
                return Known(length, state)
        return NOTHING

    def keep(self, link: Link, state: State) -> None:
        """Keep the state after a whole window; forget the least recently used beyond the bound."""
        cost = state.nbytes + OVERHEAD
        if cost > self._limit:
            return
        if link not in self._states:
            self._bytes += cost
        self._states[link] = state
        self._states.move_to_end(link)
        while self._bytes > self._limit:
            _, forgotten = self._states.popitem(last=False)
            self._bytes -= forgotten.nbytes + OVERHEAD
