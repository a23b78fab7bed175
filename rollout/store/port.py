"""What a controller needs of a store, and the words it is spoken in.

`load` and `commit` are the two halves of a compare-and-set. `load` also reads the store's clock,
which is the only clock that transitions go by: controllers may disagree about the time, the store
cannot. It sets the deadline until which a commit that follows may still be applied; a client stops
waiting only after it. So a write that was given up for lost never happens later.

A store can lose its memory: it comes up empty, or from an old dump. It cannot know that itself, but
gateways can: they never go back, and their heartbeats say what they applied. `Stored.lost` compares
the two, and `Stored.next` then begins a new epoch, which gateways obey. The commit compares again,
so that no heartbeat slips in between.

`RedisStore` keeps this in Redis; `MemoryStore` keeps it in the process, for tests and simulations,
and passes the same tests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, Self

from rollout.machine import AuditEntry, Record
from rollout.minutes import Horizon
from rollout.snapshot import Heartbeat, Position, Sample, Snapshot
from rollout.tally import StageCounts, stage_counts
from rollout.trace import KEPT_POINTS, Point

FIRST: Final = Position(1, 1)
KEPT_RECORDS: Final = 200
"""How many rollouts are remembered."""
IDEMPOTENCY_TTL_S: Final = 86_400
"""How long the outcome of a command is kept under its idempotency key."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act without being asked. `token` grows with every new holder."""

    holder: str
    token: int

    def __str__(self) -> str:
        return f"{self.holder}:{self.token}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `holder:token`. Raises ValueError."""
        holder, _, token = text.rpartition(":")
        return cls(holder, int(token))


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
    heartbeats: tuple[Heartbeat, ...] = ()
    lease: Lease | None = None
    """Whoever acts by itself now."""

    @property
    def position(self) -> Position | None:
        """Where the store stands; None when it is empty."""
        return self.snapshot.position if self.snapshot else None

    @property
    def furthest(self) -> Heartbeat | None:
        """The heartbeat of the gateway that has come furthest; None when none applied anything."""
        beats = [beat for beat in self.heartbeats if beat.position > (0, 0)]
        # of several at one place, one that the store does not know, and that says what it applied
        return max(
            beats,
            key=lambda beat: (beat.position, self._unknown(beat), bool(beat.applied)),
            default=None,
        )

    @property
    def lost(self) -> bool:
        """Whether a gateway has applied what this store does not know of."""
        seen = self.furthest
        return seen is not None and self._unknown(seen)

    def _unknown(self, beat: Heartbeat) -> bool:
        """Whether a gateway is further than the store, or has applied something else at its place.

        The latter follows a loss after which the store was acted on before any gateway was heard
        of, and has come as far as it was: that gateway would take its next version, not this one.
        """
        here, applied = self.position, beat.applied
        if here is None or beat.position > here:
            return True
        return beat.position == here and applied is not None and applied != self.snapshot

    @property
    def next(self) -> Position:
        """Where the next transition leads: a new epoch after a loss, else the next version."""
        seen = self.furthest
        if seen is not None and self.lost:
            return Position(seen.epoch + 1, 1)
        before = self.position
        return Position(before.epoch, before.version + 1) if before else FIRST

    def alive(self, within_s: float) -> tuple[Heartbeat, ...]:
        """List the gateways that were heard of in the last `within_s` seconds."""
        return tuple(beat for beat in self.heartbeats if self.now - beat.at < within_s)


@dataclass(frozen=True, slots=True)
class Change:
    """One transition, to be applied whole or not at all."""

    expected: Position | None
    """Where the store must stand; None: it must be empty."""
    deadline_ms: int
    snapshot: Snapshot
    record: Record | None
    """None leaves the record as it is: a store that lost its memory may have none to write."""
    entry: AuditEntry
    idempotency_key: str
    outcome: str
    """Kept under the idempotency key, and handed to whoever sends it again."""
    lease: Lease | None = None
    """Of a controller that acts by itself: applied only while it holds this lease."""


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


@dataclass(frozen=True, slots=True)
class Fenced:
    """Another controller has the lease now, or nobody has: nothing happened."""


@dataclass(frozen=True, slots=True)
class Behind:
    """A gateway has applied as much or more than the change's version: nothing happened."""


Outcome = Applied | Repeated | Moved | Late | Fenced | Behind


@dataclass(frozen=True, slots=True)
class Observations:
    """What gateways reported: the raw totals by stage, and the samples of each, lowest first.

    With a horizon, also the raw parts of those totals that a judge must not read yet, by stage:
    `recent` minutes (`Keys.minute`) and `unclosed` label slots (`Keys.labels`).
    """

    counts: Mapping[str, Mapping[str, int]]
    samples: tuple[Sample, ...] = ()
    truths: Mapping[str, int] = field(default_factory=dict)
    """By request, of those of the samples whose truth has come: its id."""
    recent: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    unclosed: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def stage(self, name: str) -> StageCounts:
        """Give one stage, checked, and what a judge may read of it. Raises CountsError."""
        return stage_counts(
            self.counts[name], self.recent.get(name, {}), self.unclosed.get(name, {})
        )

    def within(self, horizon: Horizon) -> Self:
        """Give what a horizon with a shorter watermark reads: fewer minutes are `recent`."""
        kept = {str(minute) for minute in horizon.recent}
        recent = {
            stage: {name: by for name, by in counts.items() if name.partition("|")[0] in kept}
            for stage, counts in self.recent.items()
        }
        return replace(self, recent=recent)


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
        self,
        rollout: str,
        evidence_epoch: int,
        stages: Sequence[str],
        *,
        samples: int = 0,
        horizon: Horizon | None = None,
    ) -> Observations:
        """Read the counts of `stages`, and of each up to `samples`. Raises StoreUnavailable.

        Totals and the parts of them beyond the `horizon` are of one moment.
        """

    async def background(
        self, places: Sequence[str], now: float
    ) -> Mapping[str, Mapping[str, int]]:
        """Read the last day of places outside rollouts, raw. Raises StoreUnavailable."""

    async def keep(self, rollout: str, point: Point) -> None:
        """Add a look to the trace of a rollout. Raises StoreUnavailable; it may be kept then."""

    async def trace(self, rollout: str, newest: int = KEPT_POINTS) -> tuple[Point, ...]:
        """Read the newest points of a rollout's trace, oldest first. Raises StoreUnavailable."""

    async def journal(self) -> Journal:
        """Read the audit and the heartbeats. Raises StoreUnavailable."""

    async def past(self, rollout: str | None = None) -> tuple[Record, ...]:
        """Read the records of rollouts, newest first, or of one. Raises StoreUnavailable."""

    async def lead(self, holder: str, ttl_s: float) -> Lease | None:
        """Take or renew the lease; None while another holds it. Raises StoreUnavailable."""

    async def resign(self, lease: Lease) -> None:
        """Give the lease back, if it is still held. Raises StoreUnavailable."""

    async def close(self) -> None:
        """Give the connections back."""
