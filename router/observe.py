"""From records to the store, off every request's path.

Records, pairs and pending labels fold into the open batch of a `Spool` as they come. A task cuts
the batch at an interval and sends it under `(boot, sequence)`. A batch that failed may have been
counted all the same, so it is sent again *unchanged under the same sequence* until the store
confirms it, while new counts gather behind it; that makes each count once, however often it is
sent. The same task's sibling sends a heartbeat.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from backends.protocol import Floats
from rollout.feed import Feed, FeedUnavailable
from rollout.snapshot import (
    Batch,
    Cell,
    Counter,
    Heartbeat,
    Live,
    Metric,
    Observation,
    Pending,
    Vectors,
)
from router.limits import Rate
from router.metrics import Metrics
from router.record import (
    Admission,
    Dropped,
    Pair,
    Passing,
    Record,
    cell_of,
    counts_of,
    counts_of_pair,
    counts_of_truth,
    observation_of,
    sample_of,
    vectors_of,
    verdict_of,
)
from router.spool import Spool

SAMPLES_PER_S: Final = 5.0

log = structlog.stdlib.get_logger("router")


class Observer:
    """One gateway's reports; without a `feed` they end in the metrics. `boot` names the process."""

    def __init__(
        self,
        feed: Feed | None,
        metrics: Metrics,
        *,
        boot: str,
        spool: Spool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.boot = boot
        self._feed = feed
        self._metrics = metrics
        self._spool = spool or Spool()
        self._clock = clock
        self._samples = Rate(SAMPLES_PER_S)
        self._sending: Batch | None = None
        self._sequence = 0
        self._failing = False
        metrics.dropped.set_function(lambda: self.dropped)
        metrics.spool_bytes.set_function(lambda: self._spool.bytes)

    @property
    def dropped(self) -> int:
        """Counts and pending labels lost since start because the spool was full."""
        return self._spool.dropped

    @property
    def behind(self) -> bool:
        """Whether the store may lack something that happened before its last failure."""
        return self._failing

    # --- what is seen ---------------------------------------------------------------------------

    def record(self, record: Record) -> Cell:
        """Take in one request in scope of a rollout, answered or failed; say where it counts."""
        cell = cell_of(record.live, record.admission, record.length)
        counts = counts_of(record)
        self._count(cell, counts)
        if record.counted:
            self._observe("request", record, cell, counts)
        return cell

    def passing(self, passing: Passing) -> None:
        """Take in one answered request that the tier table alone decided about."""
        self._count(passing.cell, passing.counts)

    def pair(self, pair: Pair) -> None:
        """Take in one request that both arms tried."""
        self._metrics.mirrors.labels(verdict_of(pair)).inc()
        cell = cell_of(pair.live, pair.admission, pair.length)
        counts = counts_of_pair(pair)
        self._count(cell, counts)
        self._observe("pair", pair, cell, counts)
        sample = sample_of(pair) if self._feed and self._samples.take(self._clock()) else None
        if sample and self._spool.sample(sample):
            self._count(cell, {Counter.SAMPLED: 1})
        if self._feed and (vectors := vectors_of(pair)):
            self._spool.keep(vectors)

    def truth(self, vectors: Vectors, truth: Floats) -> None:
        """Take in the truth `[768]` of a pair whose vectors were kept."""
        counts = counts_of_truth(vectors, truth)
        self._count(vectors.cell, counts)
        if self._feed and vectors.key is not None:
            seen = Observation(vectors.cell, "truth", vectors.key, tuple(counts))
            self._spool.observe(seen)

    def mirror_dropped(self, live: Live, admission: Admission, length: int, why: Dropped) -> None:
        """Take in a mirror that never became a pair."""
        self._metrics.mirrors.labels(why).inc()
        self._count(cell_of(live, admission, length), {Counter.mirror_dropped(why): 1})

    def pend(self, pending: Pending) -> None:
        """Take in an answered request, whose truth may arrive."""
        if self._feed:
            self._spool.pend(pending)

    def _observe(
        self, metric: Metric, seen: Record | Pair, cell: Cell, counts: Mapping[str, int]
    ) -> None:
        """Let a request count for its routing key, where that is the unit."""
        if self._feed and (one := observation_of(seen.live, cell, metric, seen.key, counts)):
            self._spool.observe(one)

    def _count(self, cell: Cell, counts: Mapping[str, int]) -> None:
        if self._feed:
            self._spool.count(cell, counts)

    # --- what is sent ---------------------------------------------------------------------------

    async def run(self, interval_s: float) -> None:
        """Flush at an interval, until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            await self.flush()

    async def flush(self) -> bool:
        """Send what there is now; whether the store then has it. One call at a time.

        What comes while it is being sent waits for the next call: under load there always is some.
        """
        if self._feed is None:
            return True
        emptied = False
        while True:
            if self._sending is None:
                self._sending = None if emptied else self._spool.cut(self.boot, self._sequence + 1)
                if self._sending is None:
                    self._failing = False
                    return True
                self._sequence += 1
                emptied = not len(self._spool)
            try:
                counted = await self._feed.flush(self._sending)
            except FeedUnavailable as error:
                self._metrics.batches.labels("failed").inc()
                self._note_failure(error)
                return False
            self._metrics.batches.labels("counted" if counted else "repeat").inc()
            self._sending = None

    def _note_failure(self, error: FeedUnavailable) -> None:
        if not self._failing:
            log.warning("observations wait for the store", reason=str(error))
        self._failing = True

    async def beat(self, heartbeat: Heartbeat) -> None:
        """Send one heartbeat; a lost one is followed by the next."""
        if self._feed is None:
            return
        try:
            await self._feed.beat(heartbeat)
        except FeedUnavailable as error:
            log.debug("heartbeat lost", reason=str(error))
