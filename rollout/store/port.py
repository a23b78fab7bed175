"""What a controller needs of a store: four verbs, and the words they are spoken in.

`load` and `commit` are the two halves of a compare-and-set. `load` also reads the store's clock,
which is the only clock that transitions go by: controllers may disagree about the time, the store
cannot. It sets the deadline until which a commit that follows may still be applied; a client stops
waiting only after it. So a write that was given up for lost never happens later.

`RedisStore` keeps this in Redis; `MemoryStore` keeps it in the process, for tests and simulations,
and passes the same tests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rollout.machine import AuditEntry, Record
from rollout.snapshot import Heartbeat, Position, Sample, Snapshot


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store holds. `now` is in Unix seconds on the store's clock."""

    snapshot: Snapshot | None
    record: Record | None
    now: float
    deadline_ms: int
    """Until when a commit that builds on this is applied: Unix milliseconds, the store's clock."""
    outcome: str | None = None
    """What the command with the idempotency key that was asked for has led to."""

    @property
    def position(self) -> Position | None:
        """Where the store stands; None when it is empty."""
        return self.snapshot.position if self.snapshot else None


@dataclass(frozen=True, slots=True)
class Change:
    """One transition, to be applied whole or not at all."""

    expected: Position | None
    """Where the store must stand; None: it must be empty."""
    deadline_ms: int
    snapshot: Snapshot
    record: Record
    entry: AuditEntry
    idempotency_key: str
    outcome: str
    """Kept under the idempotency key, and handed to whoever sends it again."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The transition happened."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """This idempotency key had been used: nothing happened now; `outcome` is what it led to."""

    outcome: str


@dataclass(frozen=True, slots=True)
class Moved:
    """The store was not where it was expected: nothing happened."""

    current: Position | None


@dataclass(frozen=True, slots=True)
class Late:
    """The deadline had passed on the store's clock: nothing happened."""


Outcome = Applied | Repeated | Moved | Late


@dataclass(frozen=True, slots=True)
class Observations:
    """What gateways reported: the raw totals by stage (`Keys.counts`), the newest samples first."""

    counts: Mapping[str, Mapping[str, int]]
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True, slots=True)
class Journal:
    """Every transition, oldest first; and the last word of every gateway."""

    entries: tuple[AuditEntry, ...] = ()
    heartbeats: tuple[Heartbeat, ...] = field(default=())


class Store(Protocol):
    """Where the rollout lives."""

    async def load(self, idempotency_key: str | None = None) -> Stored:
        """Read the present state. Raises StoreUnavailable."""

    async def commit(self, change: Change) -> Outcome:
        """Apply `change` or do nothing. Raises OutcomeUnknown when no answer came."""

    async def observations(
        self, rollout: str, evidence_epoch: int, stages: Sequence[str], *, samples: int = 0
    ) -> Observations:
        """Read the counts of `stages` and at most `samples` samples. Raises StoreUnavailable."""

    async def journal(self) -> Journal:
        """Read the audit and the heartbeats. Raises StoreUnavailable."""

    async def close(self) -> None:
        """Give the connections back."""
