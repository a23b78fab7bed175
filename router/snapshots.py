"""The snapshot that this gateway applies, and where it comes from.

A gateway always has a snapshot, so no request ever waits for one:

- at start, the last one that it applied, from its disk; else the settings' tier table, version 0.0,
  with which no candidate gets anything;
- then whatever is newer in the store: asked for at an interval, and pushed in between.

Only a higher `(epoch, version)` is applied. A lower one means that the store lost something: that
is logged and counted, and the gateway goes on as it was. So is a snapshot that names an arm which
has no backend here. With the store gone, the last snapshot stays and its age grows.

Beside that, one local file stops all candidate traffic here while it exists.
"""

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Collection
from enum import StrEnum
from pathlib import Path
from typing import Final

import structlog
from pydantic import ValidationError

from rollout.feed import Feed, FeedUnavailable
from rollout.snapshot import Snapshot
from router.metrics import Metrics

SNAPSHOT_FILE: Final = "snapshot.json"
HOLD_FILE: Final = "hold-at-incumbent"
HOLD_POLL_S: Final = 0.25

log = structlog.stdlib.get_logger("router")


class Offer(StrEnum):
    """What becomes of a snapshot that is offered."""

    APPLY = "apply"
    SAME = "same"
    REGRESSION = "regression"
    UNSERVABLE = "unservable"


def weigh(applied: Snapshot, offered: Snapshot, arms: Collection[str]) -> Offer:
    """Decide about `offered`, given the snapshot in force and the arms that have a backend here."""
    if offered.position < applied.position:
        return Offer.REGRESSION
    if offered.position == applied.position:
        return Offer.SAME
    if not {tier.arm for tier in offered.tiers} <= set(arms):
        return Offer.UNSERVABLE
    return Offer.APPLY


class Snapshots:
    """Holds the applied snapshot, and watches its sources.

    `start` is the settings' table; `state_dir` is created where it is missing. Raises OSError when
    that fails.
    """

    def __init__(
        self,
        start: Snapshot,
        *,
        feed: Feed | None,
        arms: Collection[str],
        state_dir: Path,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        state_dir.mkdir(parents=True, exist_ok=True)
        self._feed = feed
        self._arms = arms
        self._file = state_dir / SNAPSHOT_FILE
        self._hold_file = state_dir / HOLD_FILE
        self._metrics = metrics
        self._clock = clock
        self._writing = asyncio.Lock()
        self._refused: str | None = None
        self._confirmed_at = clock()
        self.store_up = False
        self.current = start
        self.held = False
        self._restore()
        self._look_for_hold()
        self._tell()
        metrics.config.age.set_function(lambda: max(0.0, self._clock() - self._confirmed_at))

    # --- the store ------------------------------------------------------------------------------

    async def poll(self) -> None:
        """Ask the store once."""
        if self._feed is None:
            return
        try:
            offered = await self._feed.snapshot()
        except FeedUnavailable as error:
            self._note_store(up=False, reason=str(error))
            return
        self._note_store(up=True)
        if offered is not None:
            await self.offer(offered)
        elif self.current.version:
            self._refuse(Offer.REGRESSION, "none: the store is empty")
        else:
            self._confirmed_at = self._clock()

    async def watch(self, interval_s: float) -> None:
        """Poll at an interval, until cancelled."""
        while True:
            await self.poll()
            await asyncio.sleep(interval_s)

    async def listen(self, retry_s: float) -> None:
        """Apply what the store pushes, until cancelled. Polling goes on beside this."""
        while self._feed is not None:
            with contextlib.suppress(FeedUnavailable):  # the poll says so
                async for offered in self._feed.changes():
                    await self.offer(offered)
            await asyncio.sleep(retry_s)

    async def offer(self, offered: Snapshot) -> Offer:
        """Apply a snapshot if it is newer, and keep it on disk."""
        verdict = weigh(self.current, offered, self._arms)
        if verdict in {Offer.REGRESSION, Offer.UNSERVABLE}:
            self._refuse(verdict, str(offered.position))
            return verdict
        self._confirmed_at = self._clock()
        self._refused = None
        if verdict is Offer.APPLY:
            self.current = offered
            self._tell()
            log.info("configuration applied", **_described(offered))
            await self._save()
        return verdict

    def _refuse(self, verdict: Offer, position: str) -> None:
        """Count a snapshot that is not applied; say so once, not at every poll."""
        self._metrics.config.refused.labels(str(verdict)).inc()
        if position != self._refused:
            self._refused = position
            applied = str(self.current.position)
            log.error("configuration refused", why=str(verdict), applied=applied, offered=position)

    def _note_store(self, *, up: bool, reason: str = "") -> None:
        if up != self.store_up:
            if up:
                log.info("store reached")
            else:
                log.warning("store lost: the last configuration stays", reason=reason)
        self.store_up = up
        self._metrics.config.redis_up.set(up)

    def _tell(self) -> None:
        facts = {name: str(value) for name, value in _described(self.current).items()}
        self._metrics.config.version.info(facts)

    # --- the disk -------------------------------------------------------------------------------

    def _restore(self) -> None:
        """Start with the last snapshot that was applied here, if the disk has it."""
        try:
            stored = Snapshot.model_validate_json(self._file.read_bytes())
            changed = self._file.stat().st_mtime
        except FileNotFoundError:
            return
        except (OSError, ValidationError) as error:
            self._note_disk("the stored configuration cannot be read", error)
            return
        if weigh(self.current, stored, self._arms) is Offer.APPLY:
            self.current = stored
            self._confirmed_at = changed
            log.info("configuration restored from disk", **_described(stored))

    async def _save(self) -> None:
        async with self._writing:
            text = self.current.model_dump_json(indent=2)
            try:
                await asyncio.to_thread(_write_atomically, self._file, text)
            except OSError as error:
                self._note_disk("the configuration cannot be kept on disk", error)

    def _note_disk(self, event: str, error: Exception) -> None:
        log.error(event, file=str(self._file), reason=str(error))

    # --- the hold file --------------------------------------------------------------------------

    async def watch_hold(self) -> None:
        """Look for the file `hold-at-incumbent` four times a second, until cancelled."""
        while True:
            self._look_for_hold()
            await asyncio.sleep(HOLD_POLL_S)

    def _look_for_hold(self) -> None:
        held = os.access(self._hold_file, os.F_OK)
        if held != self.held:
            log.warning("candidate traffic stopped here" if held else "candidate traffic allowed")
        self.held = held
        self._metrics.config.held.set(held)


def _described(snapshot: Snapshot) -> dict[str, object]:
    live = snapshot.rollout
    return {
        "position": str(snapshot.position),
        "rollout": live.id if live else "-",
        "stage": live.stage if live else "-",
        "mode": live.mode if live else "-",
        "weight": live.weight if live else 0,
    }


def _write_atomically(path: Path, text: str) -> None:
    """Replace a file so that a crash leaves the old one or the new one, and nothing between."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except OSError:
            Path(file.name).unlink(missing_ok=True)
            raise
