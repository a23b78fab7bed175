"""The real thing, twice: two controllers over a store in memory, and over a real Valkey.

A `Side` is driven by hand, one call after the other, at a clock that stands still in between; and
everything that its store holds can be looked at, copied, put back and lost.
"""

import asyncio
import copy
import itertools
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from clocked_valkey import ClockedValkey
from redis.asyncio import Redis

from rollout.controller import Controller
from rollout.errors import OutcomeUnknown
from rollout.feed import Feed
from rollout.keys import Keys
from rollout.layout import label_keep_s
from rollout.minutes import MINUTE_TTL_S
from rollout.snapshot import (
    DEFAULT_TIERS,
    LABEL_WINDOW_S,
    Batch,
    Heartbeat,
    LabelOutcome,
    Snapshot,
)
from rollout.store.memory import MemoryStore
from rollout.store.port import Change, Outcome, Store, Stored
from rollout.store.redis import RedisStore

HOLDERS = ("c1", "c2")
Meanwhile = Callable[[], Awaitable[object]]


class Door:
    """Stands between a controller and its store, and may keep a change back or be overtaken."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.changes: list[Change] = []
        """What was to be committed, in order."""
        self.kept_back: list[Change] = []
        self.keep_back = False
        self.meanwhile: Meanwhile | None = None

    async def load(self, idempotency_key: str | None = None) -> Stored:
        """Read; a real server's clock may be less than a millisecond further."""
        stored = await self.store.load(idempotency_key)
        return replace(stored, now=float(math.floor(stored.now)))

    async def commit(self, change: Change) -> Outcome:
        """Hand a change on, or keep it as a server would that was stopped: nobody answers."""
        self.changes.append(change)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            await meanwhile()
        if self.keep_back:
            self.kept_back.append(change)
            raise OutcomeUnknown("nobody answered")
        return await self.store.commit(change)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


class Side:
    """Two controllers and any number of gateways over one store."""

    name: str

    def __init__(self, store: Store) -> None:
        self.door = Door(store)
        tokens = (f"{number:08x}" for number in itertools.count(1))
        self.controllers = {
            holder: Controller(self.door, DEFAULT_TIERS, new_token=lambda: next(tokens))
            for holder in HOLDERS
        }

    async def open(self, now: int) -> None:
        """Begin with an empty store at a Unix second."""
        raise NotImplementedError

    def move(self, now: int) -> None:
        """Move the clock to a Unix second."""
        raise NotImplementedError

    async def snapshot(self) -> Snapshot | None:
        """Read what a gateway reads."""
        raise NotImplementedError

    async def flush(self, batch: Batch) -> bool:
        """Report as a gateway."""
        raise NotImplementedError

    async def label(self, request_id: str, target: int) -> LabelOutcome:
        """Tell a truth as a gateway."""
        raise NotImplementedError

    async def beat(self, heartbeat: Heartbeat) -> None:
        """Live as a gateway."""
        raise NotImplementedError

    async def contents(self) -> Mapping[str, object]:
        """Give everything that the store holds, but for traces."""
        raise NotImplementedError

    async def dump(self) -> Any:
        """Copy everything that the store holds."""
        raise NotImplementedError

    async def lose(self, dump: Any = None) -> None:
        """Forget everything, and come up from a dump if there is one."""
        raise NotImplementedError

    async def published(self) -> Sequence[str] | None:
        """Give what was published since the last time; None where nothing ever is."""
        raise NotImplementedError

    async def close(self) -> None:
        """Give connections back."""
        await self.door.close()


class InMemory(Side):
    """Over `MemoryStore`."""

    name = "memory"

    def __init__(self) -> None:
        self._now = 0
        super().__init__(MemoryStore(self._clock))

    def _clock(self) -> float:
        return float(self._now)

    @property
    def _store(self) -> MemoryStore:
        assert isinstance(self.door.store, MemoryStore)
        return self.door.store

    async def open(self, now: int) -> None:
        """Begin."""
        self._now = now

    def move(self, now: int) -> None:
        """Set the clock."""
        self._now = now

    async def snapshot(self) -> Snapshot | None:
        """Read it where it is."""
        return (await self._store.load()).snapshot

    async def flush(self, batch: Batch) -> bool:
        """Count."""
        return self._store.flush(batch)

    async def label(self, request_id: str, target: int) -> LabelOutcome:
        """Label."""
        return self._store.label(request_id, target)

    async def beat(self, heartbeat: Heartbeat) -> None:
        """Beat."""
        self._store.beat(heartbeat)

    async def contents(self) -> Mapping[str, object]:
        """Copy the store's fields, and those of what it counted, but for what is over.

        A minute whose time is over may be there still, and goes when it is next read.
        """
        counted = vars(self._store._counted)
        held = {**vars(self._store), **counted}
        left_out = ("_clock", "_counted", "_greeted", "_traces", "_stages")
        stages = {
            where: (
                stage.totals.copy(),
                _since(stage.minutes, self._now - MINUTE_TTL_S),
                _since(stage.labels, self._now - label_keep_s(LABEL_WINDOW_S)),
            )
            for where, stage in counted["_stages"].items()
        }
        return {
            **{name: copy.deepcopy(value) for name, value in held.items() if name not in left_out},
            "stages": stages,
        }

    async def dump(self) -> Any:
        """Copy the store; the copy goes by the same clock."""
        return self._copy(self._store)

    async def lose(self, dump: Any = None) -> None:
        """Put another store in its place; which gateway has begun before, gateways remember."""
        store = self._copy(dump) if dump else MemoryStore(self._clock)
        store._greeted = self._store._greeted
        self.door.store = store

    def _copy(self, store: MemoryStore) -> MemoryStore:
        # the clock is a method of this side, which is not to be copied
        return copy.deepcopy(store, {id(self): self})

    async def published(self) -> Sequence[str] | None:
        """Nothing ever is."""
        return None


class OnValkey(Side):
    """Over `RedisStore` and a real server whose clock is the test's."""

    name = "valkey"

    def __init__(self, server: ClockedValkey) -> None:
        super().__init__(RedisStore(server.url))
        self._server = server
        self._keys = Keys()
        self._redis = Redis.from_url(server.url)
        self._listening = self._redis.pubsub(ignore_subscribe_messages=True)
        self._feeds: dict[str, Feed] = {}

    async def open(self, now: int) -> None:
        """Begin, and listen to what is published."""
        await self._redis.flushall()
        self._server.set(now)
        await self._listening.subscribe(self._keys.changed)
        await self.published()

    def move(self, now: int) -> None:
        """Move the server's clock."""
        self._server.set(now)

    def _feed(self, boot: str) -> Feed:
        if boot not in self._feeds:
            self._feeds[boot] = Feed(self._server.url, timeout_s=5)
        return self._feeds[boot]

    async def snapshot(self) -> Snapshot | None:
        """Read it as gateways do."""
        return await self._feed("").snapshot()

    async def flush(self, batch: Batch) -> bool:
        """Run flush.lua."""
        return await self._feed(batch.boot).flush(batch)

    async def label(self, request_id: str, target: int) -> LabelOutcome:
        """Run label.lua."""
        return await self._feed("").label(request_id, target)

    async def beat(self, heartbeat: Heartbeat) -> None:
        """Run greet.lua, or set one field."""
        await self._feed(heartbeat.boot).beat(heartbeat)

    async def contents(self) -> Mapping[str, object]:
        """Dump every key with the moment of its end."""
        return {name: held for name, held in (await self.dump()).items() if ":trace:" not in name}

    async def dump(self) -> dict[str, tuple[bytes, int]]:
        """Dump every key with the moment of its end."""
        names: list[Any] = sorted(await self._redis.keys("*"))
        async with self._redis.pipeline(transaction=True) as pipe:
            for name in names:
                pipe.dump(name)
                pipe.pexpiretime(name.decode())
            found: Iterator[Any] = iter(await pipe.execute())
        return {
            name.decode(): (held, until)
            for name, held, until in zip(names, found, found, strict=False)
            if held is not None  # its time came between the two questions
        }

    async def lose(self, dump: Any = None) -> None:
        """Flush, and restore."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.flushall()
            for name, (held, until) in (dump or {}).items():
                pipe.restore(name, max(until, 0), held, absttl=until > 0)
            await pipe.execute()

    async def published(self) -> Sequence[str] | None:
        """Read until the answer to a ping: what was published before comes before."""
        await self._listening.ping()
        found: list[str] = []
        while True:
            message = await self._listening.get_message(timeout=5)
            if message is None:
                continue
            if message["type"] == "pong":
                return found
            found.append(message["data"].decode())

    async def close(self) -> None:
        """Give every connection back."""
        await super().close()
        await self._listening.aclose()  # type: ignore[no-untyped-call] # redis-py left it untyped
        await self._redis.aclose()
        for feed in self._feeds.values():
            await feed.close()


def _since(parts: Mapping[int, Counter[str]], second: float) -> dict[int, Counter[str]]:
    return {minute: by.copy() for minute, by in parts.items() if minute >= second // 60}


def runner() -> asyncio.Runner:
    """Make the loop that one history of one machine runs in."""
    return asyncio.Runner()
