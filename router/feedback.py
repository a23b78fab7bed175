"""The truth about a prediction, which arrives later: taken in now, counted when the store is up.

A label belongs to the name that the server gave the request. The name carries the time of its
admission, so age is judged without the store. What the store says about a name that it does not
know depends on that age: the pending label of a young request may still be on its way (from this
gateway or another), so the feedback waits; that of an old one is unknown, or forgotten.

Feedback that cannot be counted now waits in a bounded queue and is tried again. In the queue a
repeat changes nothing and a contradiction is refused, as in the store.

Labels pass through a bounded number of lanes, chosen by the name: so the labels of one request come
one after the other, and a flood of them takes no more of the store's connections than there are
lanes.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import orjson
import structlog

from backends.protocol import Floats, ProtocolError, read_lookup
from rollout.feed import Feed, FeedUnavailable
from rollout.snapshot import LabelOutcome
from router.bankids import BankIds
from router.errors import (
    BadRequestError,
    BusyError,
    ContradictionError,
    ExpiredError,
    NoStoreError,
    RouterError,
    UnknownRequestError,
    UpstreamError,
)
from router.ids import admitted_at
from router.metrics import Metrics
from router.observe import Observer
from router.snapshots import Snapshots
from router.truths import Truths
from router.upstream import Upstream

GRACE_S: Final = 2.0
"""An unknown name younger than this may be on its way to the store."""
SKEW_S: Final = 60.0
"""How far another gateway's clock may be ahead of ours."""
MAX_QUEUED: Final = 10_000
RETRY_S: Final = 0.5
LANES: Final = 32
"""Labels that may be with the store at once."""
_INT64: Final = 1 << 63

NO_STORE: Final = (
    "this gateway has no store to keep feedback in: its operator sets TURNOUT_REDIS_URL"
)

log = structlog.stdlib.get_logger("router")


class Feedback:
    """Takes labels in.

    `label_window_s` is that of requests outside any rollout. `pending_delay_s`: how long after its
    admission a request may still be without an answer, or its mirror hold the pending label back.
    """

    def __init__(
        self,
        feed: Feed | None,
        upstream: Upstream,
        snapshots: Snapshots,
        observer: Observer,
        metrics: Metrics,
        *,
        truths: Truths,
        bank_ids: BankIds,
        label_window_s: float,
        pending_delay_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._feed = feed
        self._upstream = upstream
        self._snapshots = snapshots
        self._observer = observer
        self._metrics = metrics
        self._truths = truths
        self._bank_ids = bank_ids
        self._label_window_s = label_window_s
        self._grace_s = GRACE_S + pending_delay_s
        self._clock = clock
        self._queued: dict[str, int] = {}
        self._lanes = tuple(asyncio.Lock() for _ in range(LANES))
        metrics.labels_queued.set_function(lambda: len(self._queued))

    async def accept(self, body: bytes) -> None:
        """Take in `{"id", "target_id" | "target"}`; it is counted now or when the store is back.

        Raises a RouterError that says why not: BadRequestError, UnknownRequestError,
        ContradictionError, ExpiredError, BusyError, NoStoreError.
        """
        name, target = read_feedback(body)
        try:
            age = self._age(name)
            if self._feed is None:
                raise NoStoreError(NO_STORE)
            label = await self._resolve(target)
            async with self._lanes[hash(name) % LANES]:
                await self._count(name, label, age)
        except RouterError as error:
            self._metrics.labels.labels(_outcome_of(error)).inc()
            raise

    async def run(self) -> None:
        """Try what is queued again, at an interval, until cancelled."""
        while True:
            await asyncio.sleep(RETRY_S)
            if self._queued and not self._observer.behind:
                await self.drain()

    async def drain(self) -> None:
        """Try everything that is queued once, oldest first; stop where the store is away."""
        for name, target in list(self._queued.items()):
            outcome = await self._label(name, target)
            if outcome is None:
                return
            admitted = admitted_at(name)
            young = admitted is not None and self._clock() - admitted <= self._grace_s
            if outcome == "unknown" and young:
                continue
            del self._queued[name]
            self._metrics.labels.labels(outcome).inc()
            if outcome in {"unknown", "contradiction"}:
                log.warning("queued feedback came to nothing", name=name, outcome=outcome)

    # --- one label ------------------------------------------------------------------------------

    def _age(self, name: str) -> float:
        """Return a request's age in seconds. Raises UnknownRequestError if it is not ours."""
        admitted = admitted_at(name)
        now = self._clock()
        if admitted is None or admitted > now + SKEW_S:
            raise UnknownRequestError(
                f"{name[:80]!r} names no request of this service: send an answer's x-request-id"
            )
        return now - admitted

    async def _resolve(self, target: int | Floats) -> int:
        """Check an id, or find that of a vector in the bank of the first active tier."""
        if isinstance(target, int):
            if self._bank_ids.lacks(target):
                raise BadRequestError(f"target_id {target} is no id of the bank")
            return target
        for arm in self._snapshots.active_arms:
            try:
                found = await self._upstream.lookup(arm, target)
            except UpstreamError as error:
                log.warning("lookup failed", arm=arm, reason=str(error))
                continue
            if found is None:
                raise BadRequestError(
                    "target is no vector of the bank: send one of the bank's vectors unchanged, or "
                    "its id as target_id"
                )
            return found
        raise BusyError("no backend could look the target up: try again, or send target_id")

    async def _count(self, name: str, target: int, age: float) -> None:
        if name in self._queued:
            if self._queued[name] != target:
                raise ContradictionError(_CONTRADICTION)
            return
        # A frozen store costs each try its whole timeout: once it is known to be away, don't ask.
        away = self._observer.behind or not self._snapshots.store_up
        outcome = None if away else await self._label(name, target)
        if outcome is None or (outcome == "unknown" and self._may_come(age)):
            self._queue(name, target)
            return
        if outcome == "contradiction":
            raise ContradictionError(_CONTRADICTION)
        if outcome == "unknown":
            live = self._snapshots.current.rollout
            window = min(self._label_window_s, live.label_window_s if live else float("inf"))
            if age > window:
                raise ExpiredError(_expired(age, window))
            raise UnknownRequestError("no request of this name was answered here")
        self._metrics.labels.labels(outcome).inc()

    def _may_come(self, age: float) -> bool:
        return age <= self._grace_s or self._observer.behind

    def _queue(self, name: str, target: int) -> None:
        if len(self._queued) >= MAX_QUEUED:
            raise BusyError("the store is away and the feedback queue is full: try again later")
        self._queued[name] = target
        self._metrics.labels.labels("queued").inc()

    async def _label(self, name: str, target: int) -> LabelOutcome | None:
        if self._feed is None:
            return None
        try:
            outcome = await self._feed.label(name, target)
        except FeedUnavailable as error:
            log.debug("a label waits for the store", reason=str(error))
            return None
        if outcome != "sampled":
            return outcome
        self._truths.offer(name, target)
        return "counted"


_CONTRADICTION: Final = "another target was given for this request before: the first one counts"


def read_feedback(body: bytes) -> tuple[str, int | Floats]:
    """Read a feedback body into the request's name and its truth: an id, or a vector `[768]`.

    Raises BadRequestError.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the body is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadRequestError('the body must be a JSON object: {"id", "target_id"}')
    unknown = sorted(set(document) - {"id", "target_id", "target"})
    if unknown:
        raise BadRequestError(
            f"the body has the unknown field {unknown[0][:80]!r}: the fields are id, and target_id "
            "or target"
        )
    name = document.get("id")
    if not isinstance(name, str):
        raise BadRequestError("id must be a text: the x-request-id of the answer")
    if ("target_id" in document) == ("target" in document):
        raise BadRequestError("send one of target_id and target: the truth, as an id or a vector")
    if "target" in document:
        try:
            return name, read_lookup(orjson.dumps({"vector": document["target"]}))
        except ProtocolError as error:
            raise BadRequestError(f"target is wrong: {error}") from None
    target = document["target_id"]
    if isinstance(target, bool) or not isinstance(target, int) or not -_INT64 <= target < _INT64:
        raise BadRequestError("target_id must be a whole number of 64 bits")
    return name, target


def _expired(age: float, window: float) -> str:
    return f"the request is {age:.0f} s old: feedback is taken in for {window:.0f} s"


def _outcome_of(error: RouterError) -> str:
    match error:
        case UnknownRequestError():
            return "unknown"
        case ContradictionError():
            return "contradiction"
        case ExpiredError():
            return "expired"
        case BusyError():
            return "busy"
        case NoStoreError():
            return "no_store"
        case _:
            return "invalid"
