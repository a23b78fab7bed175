"""How near each arm came to the truth, for the few requests that kept their vectors.

When a label was counted and the store says that the vectors of its request are kept, its name waits
here. A task fetches the vectors from the store and the truth's from a model server, and counts the
cosines. It is for the report alone: whatever fails is left out and changes no answer, no hit and no
verdict. Requests are chosen by a hash of their names (`rollout.snapshot.Vectors`), so what is left
out says nothing about an arm.
"""

import asyncio
from typing import Final

import structlog

from backends.protocol import Floats
from rollout.feed import Feed, FeedUnavailable
from router.errors import RefusedError, UpstreamError
from router.metrics import Metrics
from router.observe import Observer
from router.snapshots import Snapshots
from router.upstream import Upstream

MAX_WAITING: Final = 1000

log = structlog.stdlib.get_logger("router")


class Truths:
    """Compares kept vectors with truths, one after the other."""

    def __init__(
        self,
        feed: Feed | None,
        upstream: Upstream,
        snapshots: Snapshots,
        observer: Observer,
        metrics: Metrics,
    ) -> None:
        self._feed = feed
        self._upstream = upstream
        self._snapshots = snapshots
        self._observer = observer
        self._metrics = metrics
        self._waiting: asyncio.Queue[tuple[str, int]] = asyncio.Queue(MAX_WAITING)

    def offer(self, name: str, target: int) -> None:
        """Take in a request whose vectors are kept, and the id of its truth."""
        try:
            self._waiting.put_nowait((name, target))
        except asyncio.QueueFull:
            self._note("dropped")

    async def run(self) -> None:
        """Compare what was taken in, until cancelled."""
        while True:
            name, target = await self._waiting.get()
            try:
                self._note(await self._compare(name, target))
            except (FeedUnavailable, UpstreamError, RefusedError) as error:
                self._note("failed")
                log.debug("a truth was not compared", name=name, reason=str(error))
            except Exception:
                self._note("failed")
                log.exception("a truth was not compared", name=name)

    async def _compare(self, name: str, target: int) -> str:
        kept = await self._feed.vectors(name) if self._feed else None
        if kept is None:
            return "gone"
        truth = await self._vector(target)
        if truth is None:
            return "unknown"
        self._observer.truth(kept, truth)
        return "compared"

    async def _vector(self, target: int) -> Floats | None:
        """Ask for a truth's vector where feedback by vector is looked up. Raises UpstreamError."""
        return await self._upstream.vector(self._snapshots.active_arms[0], target)

    def _note(self, outcome: str) -> None:
        self._metrics.truths.labels(outcome).inc()
