"""A gateway's door to Redis: read the snapshot, append what was seen.

Nothing here is on a request's path. A gateway asks for the snapshot at start and at an interval,
listens for changes beside that, and sends what it counted as batches. Every method waits a bounded
time and fails with `FeedUnavailable` alone, so that a gateway without Redis has one thing to
handle: go on with the last snapshot, keep the batch, try again. Sending a batch again is safe: it
is counted once by its `(boot, sequence)`.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import ClassVar, Final, cast

import orjson
from redis.exceptions import RedisError

from rollout.errors import RolloutError
from rollout.keys import Keys
from rollout.layout import SILENT_S, flush_arguments, read_vectors
from rollout.reach import Tls
from rollout.snapshot import (
    HITS,
    Batch,
    Heartbeat,
    LabelOutcome,
    Snapshot,
    Vectors,
)
from rollout.store.connection import connect, script

_IDLE_S: Final = 1.0


class FeedUnavailable(RolloutError):  # noqa: N818 - a state of the world, not a mistake
    """Redis did not answer in time, or not with what was asked for. Whether it acted is unknown."""

    status: ClassVar[int] = 503


class Feed:
    """One gateway's door. Build it once; it connects when it is first used.

    `timeout_s` bounds each connect and each wait for an answer. Raises ValueError for a bad URL.
    """

    def __init__(
        self,
        url: str,
        *,
        tls: Tls | None = None,
        namespace: str = "turnout",
        timeout_s: float = 0.5,
    ) -> None:
        self._keys = Keys(namespace)
        self._redis = connect(url, timeout_s=timeout_s, tls=tls)
        self._flush = script("flush")
        self._label = script("label")
        self._greet = script("greet")
        self._boot: str | None = None

    async def snapshot(self) -> Snapshot | None:
        """Read the snapshot; None when the store holds none."""
        with _translated():
            stored = await self._redis.get(self._keys.snapshot)
        return None if stored is None else _read_snapshot(stored)

    async def changes(self) -> AsyncIterator[Snapshot]:
        """Yield the snapshot as it is, then each new one; ends with FeedUnavailable.

        A message can be lost with its connection, and a silent connection can be a dead one: go on
        polling `snapshot` beside this.
        """
        pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
        try:
            with _translated():
                await pubsub.subscribe(self._keys.changed)
            if (now := await self.snapshot()) is not None:
                yield now
            while True:
                with _translated():
                    message = await pubsub.get_message(timeout=_IDLE_S)
                if message is not None:
                    yield _read_snapshot(message["data"])
        finally:
            with _translated():
                await pubsub.aclose()  # type: ignore[no-untyped-call] # redis-py left it untyped

    async def flush(self, batch: Batch) -> bool:
        """Count `batch`; False when this `(boot, sequence)` had been counted before."""
        keys, arguments = flush_arguments(batch, self._keys)
        with _translated():
            written = orjson.dumps(list(map(str, arguments)))
            counted = await self._redis.eval(self._flush, len(keys), *keys, written)
        return bool(counted)

    async def beat(self, heartbeat: Heartbeat) -> None:
        """Say that this gateway lives, and which version it applied.

        The first heartbeat of a boot also takes away those of gateways that fell silent: each start
        adds one, so each start cleans up.
        """
        boot, stored = heartbeat.boot, heartbeat.model_dump_json()
        with _translated():
            if boot == self._boot:
                await self._redis.hset(self._keys.gateways, boot, stored)
            else:
                arguments = (boot, stored, SILENT_S)
                await self._redis.eval(self._greet, 1, self._keys.gateways, *arguments)
        self._boot = boot

    async def label(self, request_id: str, target_id: int) -> LabelOutcome:
        """Take in the truth of a request: the first counts, for every arm that answered."""
        keys = (self._keys.pending(request_id), self._keys.vectors(request_id))
        with _translated():
            arguments = (str(target_id), request_id, *HITS)
            outcome = await self._redis.eval(self._label, len(keys), *keys, *arguments)
        return cast("LabelOutcome", outcome)

    async def vectors(self, request_id: str) -> Vectors | None:
        """Read the vectors of a request; None when they are not kept, or no longer."""
        with _translated():
            stored = await self._redis.get(self._keys.vectors(request_id))
        if stored is None:
            return None
        try:
            return read_vectors(stored)
        except (ValueError, TypeError, KeyError) as error:
            raise FeedUnavailable(f"the store's vectors cannot be read: {error}") from None

    async def close(self) -> None:
        """Take this gateway's heartbeat away and give the connections back."""
        try:
            if self._boot is not None:
                with _translated():
                    await self._redis.hdel(self._keys.gateways, self._boot)
        finally:
            with _translated():
                await self._redis.aclose()


def _read_snapshot(stored: str | bytes) -> Snapshot:
    try:
        return Snapshot.model_validate_json(stored)
    except ValueError as error:  # pydantic's ValidationError is one
        raise FeedUnavailable(f"the store's snapshot cannot be read: {error}") from None


@contextmanager
def _translated() -> Iterator[None]:
    """Turn every way in which Redis can fail into FeedUnavailable: also bytes that are no text."""
    try:
        yield
    except (RedisError, OSError, TimeoutError, UnicodeDecodeError) as error:
        raise FeedUnavailable(f"Redis: {type(error).__name__}: {error}") from error
