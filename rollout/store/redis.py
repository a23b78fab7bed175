"""The store in Redis 7 or Valkey. Keys are in `rollout.keys.Keys`, atomic work in `lua/`."""

from collections import Counter as Multiset
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from redis.exceptions import RedisError

from rollout.background import hours
from rollout.errors import OutcomeUnknown, StoreUnavailable
from rollout.keys import Keys
from rollout.machine import AuditEntry, Record
from rollout.minutes import Horizon
from rollout.reach import Tls
from rollout.snapshot import Heartbeat, Position, Sample, Snapshot
from rollout.store.connection import connect, script
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

JOURNAL_LENGTH: Final = 1000
BUDGET_MS: Final = 2000
PATIENCE_S: Final = 0.5
_T = TypeVar("_T")


class RedisStore:
    """The store of a controller. Build it once; it connects when it is first used.

    `budget_ms` is how long after a `load` a `commit` may still be applied. The client waits for an
    answer `PATIENCE_S` longer than that, so that it never gives up on a write that may yet happen.
    Raises ValueError for a bad URL.
    """

    def __init__(
        self,
        url: str,
        *,
        tls: Tls | None = None,
        namespace: str = "turnout",
        budget_ms: int = BUDGET_MS,
    ) -> None:
        self._keys = Keys(namespace)
        self._redis = connect(url, timeout_s=budget_ms / 1000 + PATIENCE_S, tls=tls)
        self._budget_ms = budget_ms
        self._transition = script("transition")
        self._lease = script("lease")
        self._resign = script("resign")

    async def load(self, idempotency_key: str | None = None) -> Stored:
        """Read snapshot, record, clock and outcome at one moment. Raises StoreUnavailable."""
        with _reading():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.get(self._keys.snapshot)
                pipe.get(self._keys.record)
                pipe.time()
                pipe.get(self._keys.idempotency(idempotency_key or ""))
                pipe.hvals(self._keys.gateways)
                pipe.get(self._keys.lease)
                (
                    snapshot,
                    record,
                    (second, microsecond),
                    outcome,
                    beats,
                    lease,
                ) = await pipe.execute()
            return Stored(
                snapshot=_read(snapshot, Snapshot.model_validate_json),
                record=_read(record, Record.model_validate_json),
                now=second + microsecond / 1e6,
                deadline_ms=second * 1000 + microsecond // 1000 + self._budget_ms,
                outcome=outcome if idempotency_key else None,
                heartbeats=_heartbeats(beats),
                lease=_read(lease, Lease.parse),
            )

    async def commit(self, change: Change) -> Outcome:
        """Run transition.lua. Raises OutcomeUnknown when no answer came."""
        keys, arguments = self._transition_arguments(change)
        try:
            word, *rest = await self._redis.eval(self._transition, len(keys), *keys, *arguments)
        except (RedisError, OSError) as error:
            raise OutcomeUnknown(
                f"the store was lost while the command was under way ({_told(error)}): whether it "
                "happened is unknown; read the status, or send it again with its idempotency key"
            ) from error
        plain: dict[str, Outcome] = {
            "applied": Applied(), "late": Late(), "fenced": Fenced(), "behind": Behind(),
        }  # fmt: skip
        if word == "repeated":
            return Repeated(rest[0])
        if word == "moved":
            return Moved(Position.parse(rest[0]) if rest[0] else None)
        return plain[word]

    def _transition_arguments(self, change: Change) -> tuple[list[str], list[str | int]]:
        """Lay a change out for transition.lua, which documents the order."""
        keys, record = self._keys, change.record
        return [
            keys.snapshot,
            keys.record,
            keys.audit,
            keys.idempotency(change.idempotency_key),
            keys.gateways,
            keys.lease,
            keys.records,
            keys.rollouts,
        ], [
            str(change.expected or ""),
            change.deadline_ms,
            change.snapshot.model_dump_json(),
            record.model_dump_json() if record else "",
            change.entry.model_dump_json(),
            change.outcome,
            IDEMPOTENCY_TTL_S,
            keys.changed,
            change.snapshot.epoch,
            change.snapshot.version,
            str(change.lease or ""),
            record.id if record else "",
            KEPT_RECORDS,
        ]

    async def observations(
        self,
        rollout: str,
        evidence_epoch: int,
        stages: Sequence[str],
        *,
        samples: int = 0,
        horizon: Horizon | None = None,
    ) -> Observations:
        """Read the counts of `stages`, and of each up to `samples`. Raises StoreUnavailable."""
        recent = horizon.recent if horizon else ()
        unclosed = horizon.unclosed if horizon else ()
        with _reading():
            async with self._redis.pipeline(transaction=True) as pipe:
                for stage in stages:
                    where = (rollout, evidence_epoch, stage)
                    pipe.hgetall(self._keys.counts(*where))
                    for minute in recent:
                        pipe.hgetall(self._keys.minute(*where, minute))
                    for slot in unclosed:
                        pipe.hgetall(self._keys.labels(*where, slot))
                for stage in stages if samples else ():
                    key = self._keys.samples(rollout, evidence_epoch, stage)
                    pipe.zrange(key, 0, samples - 1)
                    pipe.hgetall(self._keys.truths(rollout, evidence_epoch, stage))
                found: Iterator[Any] = iter(await pipe.execute())
            counts, newest, open_ = {}, {}, {}
            for stage in stages:
                counts[stage] = _merged(islice(found, 1))
                newest[stage] = _merged(islice(found, len(recent)))
                open_[stage] = _merged(islice(found, len(unclosed)))
            kept = [
                (Sample.model_validate_json(one), truths)
                for ranked, truths in zip(found, found, strict=True)
                for one in ranked
            ]
            return Observations(
                counts=counts,
                samples=tuple(sample for sample, _ in kept),
                truths={
                    sample.request_id: int(truth)
                    for sample, truths in kept
                    if (truth := truths.get(sample.request_id))
                },
                recent=newest,
                unclosed=open_,
            )

    async def background(
        self, places: Sequence[str], now: float
    ) -> Mapping[str, Mapping[str, int]]:
        """Read the last day of places outside rollouts, raw. Raises StoreUnavailable."""
        read = hours(now)
        with _reading():
            async with self._redis.pipeline(transaction=False) as pipe:
                for place in places:
                    for hour in read:
                        pipe.hgetall(self._keys.background(place, hour))
                found: Iterator[Any] = iter(await pipe.execute())
            sums: dict[str, dict[str, int]] = {}
            for place in places:
                total: Multiset[str] = Multiset()
                for one in islice(found, len(read)):
                    total.update({field: int(value) for field, value in one.items()})
                sums[place] = dict(total)
            return sums

    async def keep(self, rollout: str, point: Point) -> None:
        """Add a look to the trace of a rollout. Raises StoreUnavailable; it may be kept then."""
        key = self._keys.trace(rollout)
        with _reading():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.rpush(key, point.model_dump_json())
                pipe.ltrim(key, -KEPT_POINTS, -1)
                await pipe.execute()

    async def trace(self, rollout: str, newest: int = KEPT_POINTS) -> tuple[Point, ...]:
        """Read the newest points of a rollout's trace, oldest first. Raises StoreUnavailable."""
        with _reading():
            kept = await self._redis.lrange(self._keys.trace(rollout), -newest, -1)
        found = []
        for one in kept:
            with suppress(ValidationError):  # of another version: a chart can do without it
                found.append(Point.model_validate_json(one))
        return tuple(found)

    async def journal(self) -> Journal:
        """Read the newest transitions and every heartbeat. Raises StoreUnavailable."""
        with _reading():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.xrevrange(self._keys.audit, count=JOURNAL_LENGTH)
                pipe.hvals(self._keys.gateways)
                entries: Sequence[tuple[str, Mapping[str, str]]]
                heartbeats: Sequence[str]
                entries, heartbeats = await pipe.execute()
            return Journal(
                entries=tuple(
                    AuditEntry.model_validate_json(fields["entry"])
                    for _, fields in reversed(entries)
                ),
                heartbeats=_heartbeats(heartbeats),
            )

    async def past(self, rollout: str | None = None) -> tuple[Record, ...]:
        """Read the records of rollouts, newest first, or of one. Raises StoreUnavailable."""
        with _reading():
            names = [rollout] if rollout else await self._redis.lrange(self._keys.rollouts, 0, -1)
            if not names:
                return ()
            found = await self._redis.hmget(self._keys.records, names)
            return tuple(Record.model_validate_json(record) for record in found if record)

    async def lead(self, holder: str, ttl_s: float) -> Lease | None:
        """Run lease.lua. Raises StoreUnavailable; a lease taken unawares ends by itself."""
        with _reading():
            keys = (self._keys.lease, self._keys.fence)
            token = await self._redis.eval(self._lease, 2, *keys, holder, int(ttl_s * 1000))
        return Lease(holder, token) if token else None

    async def resign(self, lease: Lease) -> None:
        """Run resign.lua. Raises StoreUnavailable."""
        with _reading():
            await self._redis.eval(self._resign, 1, self._keys.lease, str(lease))

    async def close(self) -> None:
        """Give the connections back."""
        await self._redis.aclose()


def _read(stored: str | None, reader: Callable[[str], _T]) -> _T | None:
    return None if stored is None else reader(stored)


def _merged(hashes: Iterable[Mapping[str, str]]) -> dict[str, int]:
    """Read hashes that have no field in common."""
    return {field: int(value) for one in hashes for field, value in one.items()}


def _heartbeats(stored: Iterable[str]) -> tuple[Heartbeat, ...]:
    """Read heartbeats. One that cannot be read must not keep anybody from an abort: it is left out.

    transition.lua looks at its position all the same.
    """
    found = []
    for one in stored:
        with suppress(ValidationError):
            found.append(Heartbeat.model_validate_json(one))
    return tuple(found)


@contextmanager
def _reading() -> Iterator[None]:
    """Turn every way in which a read can fail into StoreUnavailable."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreUnavailable(
            f"the store does not answer ({_told(error)}): nothing was changed"
        ) from error
    except (ValidationError, ValueError) as error:
        raise StoreUnavailable(f"the store holds what cannot be read: {error}") from error


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
