"""The store in this process: the same verbs, for tests and simulations under any clock.

It ships beside the real one and passes the same tests. `rollout.store.counted` does the counting.
Nothing survives the process, and nothing is shared with another: a controller that serves people
uses `RedisStore`.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

from rollout.layout import SILENT_S
from rollout.machine import AuditEntry, Record
from rollout.minutes import Horizon
from rollout.snapshot import Batch, Heartbeat, LabelOutcome, Snapshot, Vectors
from rollout.store.counted import Counted
from rollout.store.port import (
    IDEMPOTENCY_TTL_S,
    KEPT_RECORDS,
    Applied,
    Behind,
    Change,
    Fenced,
    Journal,
    Late,
    Lease,
    Moved,
    Observations,
    Outcome,
    Repeated,
    Stored,
)
from rollout.trace import KEPT_POINTS, Point


class MemoryStore:
    """A store under `clock` (Unix seconds). It applies a commit up to `budget_ms` after a load."""

    def __init__(self, clock: Callable[[], float], *, budget_ms: int = 2000) -> None:
        self._clock = clock
        self._budget_ms = budget_ms
        self._snapshot: Snapshot | None = None
        self._record: Record | None = None
        self._entries: list[AuditEntry] = []
        self._outcomes: dict[str, tuple[str, float]] = {}
        """By idempotency key: what it led to, and until when that is kept."""
        self._traces: dict[str, deque[Point]] = {}
        self._counted = Counted(clock)
        self._heartbeats: dict[str, Heartbeat] = {}
        self._greeted: set[str] = set()
        self._records: dict[str, Record] = {}
        self._lease: tuple[Lease, float] | None = None
        self._fence = 0

    async def load(self, idempotency_key: str | None = None) -> Stored:
        """Read the present state."""
        now = self._clock()
        outcome = None if idempotency_key is None else self._kept(idempotency_key)
        deadline_ms = int(now * 1000) + self._budget_ms
        beats = tuple(self._heartbeats.values())
        return Stored(
            self._snapshot, self._record, now, deadline_ms, outcome, beats, self._holding()
        )

    async def commit(self, change: Change) -> Outcome:
        """Apply `change` or do nothing."""
        if (kept := self._kept(change.idempotency_key)) is not None:
            return Repeated(kept)
        if self._clock() * 1000 > change.deadline_ms:
            return Late()
        current = self._snapshot.position if self._snapshot else None
        if current != change.expected:
            return Moved(current)
        if change.lease is not None and change.lease != self._holding():
            return Fenced()
        if any(beat.position >= change.snapshot.position for beat in self._heartbeats.values()):
            return Behind()
        self._snapshot = change.snapshot
        if change.record is not None:
            self._record = self._records[change.record.id] = change.record
            for oldest in list(self._records)[:-KEPT_RECORDS]:
                del self._records[oldest]
        self._entries.append(change.entry)
        until = self._clock() + IDEMPOTENCY_TTL_S
        self._outcomes[change.idempotency_key] = (change.outcome, until)
        return Applied()

    async def observations(
        self,
        rollout: str,
        evidence_epoch: int,
        stages: Sequence[str],
        *,
        samples: int = 0,
        horizon: Horizon | None = None,
    ) -> Observations:
        """Read the counts of `stages` and the newest `samples`."""
        return self._counted.observations(rollout, evidence_epoch, stages, samples, horizon)

    async def background(
        self, places: Sequence[str], now: float
    ) -> Mapping[str, Mapping[str, int]]:
        """Read the last day of places outside rollouts."""
        return self._counted.background(places, now)

    async def keep(self, rollout: str, point: Point) -> None:
        """Add a look to the trace of a rollout."""
        kept = self._traces.setdefault(rollout, deque(maxlen=KEPT_POINTS))
        kept.append(point)

    async def trace(self, rollout: str, newest: int = KEPT_POINTS) -> tuple[Point, ...]:
        """Read the newest points of a rollout's trace, oldest first."""
        kept = self._traces.get(rollout, deque())
        return tuple(islice(kept, max(0, len(kept) - newest), None))

    async def journal(self) -> Journal:
        """Read the audit and the heartbeats."""
        return Journal(tuple(self._entries), tuple(self._heartbeats.values()))

    async def past(self, rollout: str | None = None) -> tuple[Record, ...]:
        """Read the records of rollouts, newest first, or of one."""
        if rollout is not None:
            return tuple(filter(None, [self._records.get(rollout)]))
        return tuple(reversed(self._records.values()))

    async def lead(self, holder: str, ttl_s: float) -> Lease | None:
        """Take or renew the lease; None while another holds it."""
        lease = self._holding()
        if lease is None:
            self._fence += 1
            lease = Lease(holder, self._fence)
        if lease.holder != holder:
            return None
        self._lease = (lease, self._clock() + ttl_s)
        return lease

    async def resign(self, lease: Lease) -> None:
        """Give the lease back, if it is still held."""
        if self._holding() == lease:
            self._lease = None

    def _kept(self, idempotency_key: str) -> str | None:
        outcome, until = self._outcomes.get(idempotency_key, (None, 0.0))
        return outcome if self._clock() <= until else None

    def _holding(self) -> Lease | None:
        return self._lease[0] if self._lease and self._lease[1] > self._clock() else None

    async def close(self) -> None:
        """Nothing to give back."""

    # A gateway's half, which for Redis is `rollout.feed.Feed`.

    def flush(self, batch: Batch) -> bool:
        """Count `batch`; False when this `(boot, sequence)` had been counted before."""
        return self._counted.flush(batch)

    def label(self, request_id: str, target_id: int) -> LabelOutcome:
        """Take in the truth of a request: the first counts, for every arm that answered."""
        return self._counted.label(request_id, target_id)

    def vectors(self, request_id: str) -> Vectors | None:
        """Read the vectors of a request; None when they are not kept, or no longer."""
        return self._counted.vectors(request_id)

    def beat(self, heartbeat: Heartbeat) -> None:
        """Say that a gateway lives; the first time also forget those that fell silent."""
        if heartbeat.boot not in self._greeted:
            self._greeted.add(heartbeat.boot)
            least = self._clock() - SILENT_S
            heard = {boot: one for boot, one in self._heartbeats.items() if one.at >= least}
            self._heartbeats = heard
        self._heartbeats[heartbeat.boot] = heartbeat
