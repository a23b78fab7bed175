"""What a gateway has seen and the store has not: counts, samples, labels, keys, vectors. Pure.

Counts merge by addition, so they take little room however long the store is away. What comes once a
request does not: so the whole is bounded in bytes, as they were measured with tracemalloc on
CPython 3.11, and what a full spool turns away is counted in `dropped`. Batches are cut to a size
that a store takes in a moment: a script that runs long holds up everybody.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Final

from backends.serving.content import MIB
from rollout.snapshot import Batch, Cell, Observation, Pending, Sample, Vectors

CELLS_PER_BATCH: Final = 50
SAMPLES_PER_BATCH: Final = 100
VECTORS_PER_BATCH: Final = 25
PENDING_PER_BATCH: Final = 500
OBSERVATIONS_PER_BATCH: Final = 200
CELL_BYTES: Final = 500
COUNTER_BYTES: Final = 110
SAMPLE_BYTES: Final = 2900
PENDING_BYTES: Final = 260
AWAITED_BYTES: Final = 350
"""Besides, for a label that counts somewhere: its cell."""
ANSWER_BYTES: Final = 450
"""Besides, for each arm whose ten ids are kept."""
OBSERVATION_BYTES: Final = 450
VECTORS_BYTES: Final = 3600


class Spool:
    """The open batch. A cell is one minute of one stratum; five strata make an hour 300 cells.

    `max_bytes` bounds all of it, and `max_samples` what is a selection anyway. The names of
    `max_known` keys come on top, about 190 bytes each.
    """

    def __init__(
        self,
        *,
        max_bytes: int = 64 * MIB,
        max_samples: int = 1000,
        max_known: int = 100_000,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_samples = max_samples
        self._max_known = max_known
        self.bytes = 0
        """What the open batch takes, about."""
        self._counts: dict[Cell, dict[str, int]] = {}
        self._samples: list[Sample] = []
        self._pending: list[Pending] = []
        self._observations: list[Observation] = []
        self._vectors: dict[tuple[str, int, str, int], Vectors] = {}
        """Of each slice of time those with the lowest rank."""
        self._known: dict[tuple[str, int, str, str, str], None] = {}
        """The newest keys that were sent: the store knows them, so they are not sent again."""
        self.dropped = 0
        """Counts, pending labels and observations of keys lost because the spool was full."""

    def __repr__(self) -> str:
        return (
            f"<Spool {len(self._counts)} cells, {len(self._samples)} samples, "
            f"{len(self._pending)} pending, {len(self._observations)} of keys, "
            f"{len(self._vectors)} vectors, {self.bytes} bytes, {self.dropped} dropped>"
        )

    def __len__(self) -> int:
        return (
            len(self._counts)
            + len(self._samples)
            + len(self._pending)
            + len(self._observations)
            + len(self._vectors)
        )

    def count(self, cell: Cell, counts: Mapping[str, int]) -> None:
        """Add increments to a cell."""
        if not counts:
            return
        held = self._counts.get(cell)
        if held is None:
            if self.bytes >= self._max_bytes:
                self.dropped += sum(counts.values())
                return
            held = self._counts[cell] = {}
            self.bytes += CELL_BYTES
        before = len(held)
        for name, by in counts.items():  # a Counter's `update` costs ten times as much
            held[name] = held.get(name, 0) + by
        self.bytes += (len(held) - before) * COUNTER_BYTES

    def sample(self, sample: Sample) -> bool:
        """Keep a sample, while there is room; whether there was. They are a selection anyway."""
        if len(self._samples) >= self._max_samples or self.bytes >= self._max_bytes:
            return False
        self._samples.append(sample)
        self.bytes += SAMPLE_BYTES
        return True

    def keep(self, vectors: Vectors) -> None:
        """Keep vectors, if their rank is the lowest of their slice; they are a selection anyway."""
        cell = vectors.cell
        place = (cell.rollout, cell.evidence_epoch, cell.stage, vectors.slice)
        held = self._vectors.get(place)
        if held is None:
            if self.bytes >= self._max_bytes:
                return
            self.bytes += VECTORS_BYTES
        if held is None or vectors.rank < held.rank:
            self._vectors[place] = vectors

    def pend(self, pending: Pending) -> None:
        """Keep a pending label."""
        if self.bytes >= self._max_bytes:
            self.dropped += 1
            return
        self._pending.append(pending)
        self.bytes += _pending_bytes(pending)

    def observe(self, seen: Observation) -> None:
        """Keep what a request counts if its routing key is new; the store says whether it is."""
        cell = seen.cell
        name = (cell.rollout, cell.evidence_epoch, cell.stage, seen.metric, seen.key)
        if name in self._known:
            return
        if self.bytes >= self._max_bytes:
            self.dropped += 1
            return
        self._observations.append(seen)
        self.bytes += OBSERVATION_BYTES
        self._known[name] = None
        if len(self._known) > self._max_known:
            del self._known[next(iter(self._known))]

    def cut(self, boot: str, sequence: int) -> Batch | None:
        """Take the oldest of everything out as one batch; None when nothing is there."""
        if not len(self):
            return None
        counts = {
            cell: self._counts.pop(cell) for cell in list(islice(self._counts, CELLS_PER_BATCH))
        }
        batch = Batch(
            boot,
            sequence,
            counts,
            samples=tuple(self._samples[:SAMPLES_PER_BATCH]),
            pending=tuple(self._pending[:PENDING_PER_BATCH]),
            observations=tuple(self._observations[:OBSERVATIONS_PER_BATCH]),
            vectors=tuple(
                self._vectors.pop(place) for place in list(islice(self._vectors, VECTORS_PER_BATCH))
            ),
        )
        del self._observations[:OBSERVATIONS_PER_BATCH]
        del self._samples[:SAMPLES_PER_BATCH], self._pending[:PENDING_PER_BATCH]
        self.bytes -= _batch_bytes(batch)
        return batch


def _pending_bytes(pending: Pending) -> int:
    awaited = 0 if pending.cell is None else AWAITED_BYTES
    return PENDING_BYTES + awaited + ANSWER_BYTES * len(pending.top)


def _batch_bytes(batch: Batch) -> int:
    return (
        sum(CELL_BYTES + COUNTER_BYTES * len(counts) for counts in batch.counts.values())
        + SAMPLE_BYTES * len(batch.samples)
        + sum(map(_pending_bytes, batch.pending))
        + OBSERVATION_BYTES * len(batch.observations)
        + VECTORS_BYTES * len(batch.vectors)
    )
