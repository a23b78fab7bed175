"""The ids of a bank, as runs of neighbouring numbers. Pure.

Whoever holds them can tell whether the bank has an id without asking. Ids are mostly numbered
through, so that a bank of any size is a few runs; a bank whose ids are scattered takes 16 bytes an
id. On the wire: little-endian int64 pairs, first id and count, in ascending order.
"""

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

MAX_RUNS: Final = 4_000_000
"""64 MB: a bank that is more scattered is not listed."""
MEDIA_TYPE: Final = "application/octet-stream"
_RUN_BYTES: Final = 16


@dataclass(frozen=True, slots=True, repr=False)
class IdRuns:
    """Ids as runs: `first` int64 `[r]`, ascending, and `counts` int64 `[r]`."""

    first: NDArray[np.int64]
    counts: NDArray[np.int64]

    def __repr__(self) -> str:
        return f"<IdRuns of {self.counts.sum()} ids in {self.first.size} runs>"

    @classmethod
    def of(cls, ids: NDArray[Any]) -> Self:
        """Find the runs of ascending int64 ids `[n]`; repeated ids count once."""
        if not ids.size:
            return cls(np.empty(0, np.int64), np.empty(0, np.int64))
        ids = ids[np.concatenate(([True], ids[1:] != ids[:-1]))]
        # Unsigned: the distance between two int64 may exceed one.
        gaps = np.diff(ids.view(np.uint64))
        starts = np.concatenate(([0], np.flatnonzero(gaps != 1) + 1))
        return cls(ids[starts], np.diff(np.append(starts, ids.size)))

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Read what `write` wrote. Raises ValueError."""
        if len(data) % _RUN_BYTES or len(data) > MAX_RUNS * _RUN_BYTES:
            raise ValueError(f"{len(data)} bytes are no list of runs")
        pairs = np.frombuffer(data, "<i8").reshape(-1, 2)
        first, counts = pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64)
        if (counts < 1).any() or (first[1:] <= first[:-1]).any():
            raise ValueError("the runs are not in order")
        return cls(first, counts)

    def write(self) -> bytes:
        """Write the runs for the wire."""
        return np.column_stack((self.first, self.counts)).astype("<i8").tobytes()

    def has(self, id_: int) -> bool:
        """Whether the id is among them. `id_` fits into 64 bits."""
        place = int(np.searchsorted(self.first, id_, "right")) - 1
        return place >= 0 and id_ - int(self.first[place]) < int(self.counts[place])
