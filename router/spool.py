"""What a gateway has seen and the store has not: counts, samples, pending labels, keys. Pure.

Counts merge by addition, so they take little room however long the store is away; everything is
bounded all the same, and what a full spool turns away is counted in `dropped`. Batches are cut to a
size that a store takes in a moment: a script that runs long holds up everybody.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Final

from rollout.snapshot import Batch, Cell, Observation, Pending, Sample

CELLS_PER_BATCH: Final = 50
SAMPLES_PER_BATCH: Final = 100
PENDING_PER_BATCH: Final = 500
OBSERVATIONS_PER_BATCH: Final = 200


class Spool:
    """The open batch. A cell is one minute of one stratum; five strata make an hour 300 cells."""

    def __init__(
        self,
        *,
        max_cells: int = 3000,
        max_samples: int = 1000,
        max_pending: int = 20_000,
        max_observations: int = 20_000,
        max_known: int = 100_000,
    ) -> None:
        self._max_cells = max_cells
        self._max_samples = max_samples
        self._max_pending = max_pending
        self._max_observations = max_observations
        self._max_known = max_known
        self._counts: dict[Cell, dict[str, int]] = {}
        self._samples: list[Sample] = []
        self._pending: list[Pending] = []
        self._observations: list[Observation] = []
        self._known: dict[tuple[str, int, str, str, str], None] = {}
        """The newest keys that were sent: the store knows them, so they are not sent again."""
        self.dropped = 0
        """Counts, pending labels and observations of keys lost because the spool was full."""

    def __repr__(self) -> str:
        return (
            f"<Spool {len(self._counts)} cells, {len(self._samples)} samples, "
            f"{len(self._pending)} pending, {len(self._observations)} of keys, "
            f"{self.dropped} dropped>"
        )

    def __len__(self) -> int:
        return len(self._counts) + len(self._samples) + len(self._pending) + len(self._observations)

    def count(self, cell: Cell, counts: Mapping[str, int]) -> None:
        """Add increments to a cell."""
        if not counts:
            return
        held = self._counts.get(cell)
        if held is None:
            if len(self._counts) >= self._max_cells:
                self.dropped += sum(counts.values())
                return
            held = self._counts[cell] = {}
        for name, by in counts.items():  # a Counter's `update` costs ten times as much
            held[name] = held.get(name, 0) + by

    def sample(self, sample: Sample) -> bool:
        """Keep a sample, while there is room; whether there was. They are a selection anyway."""
        if len(self._samples) >= self._max_samples:
            return False
        self._samples.append(sample)
        return True

    def pend(self, pending: Pending) -> None:
        """Keep a pending label."""
        if len(self._pending) >= self._max_pending:
            self.dropped += 1
            return
        self._pending.append(pending)

    def observe(self, seen: Observation) -> None:
        """Keep what a request counts if its routing key is new; the store says whether it is."""
        cell = seen.cell
        name = (cell.rollout, cell.evidence_epoch, cell.stage, seen.metric, seen.key)
        if name in self._known:
            return
        if len(self._observations) >= self._max_observations:
            self.dropped += 1
            return
        self._observations.append(seen)
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
        )
        del self._observations[:OBSERVATIONS_PER_BATCH]
        del self._samples[:SAMPLES_PER_BATCH], self._pending[:PENDING_PER_BATCH]
        return batch
