"""The snapshot that this gateway applies, and where it comes from.

A gateway always has a snapshot, so no request ever waits for one:

- at start, the last one that it applied, from its disk; else the settings' tier table, version 0.0,
  with which no candidate gets anything;
- then whatever is newer in the store: asked for at an interval, and pushed in between.

Only a higher `(epoch, version)` is applied. A lower one, or the same one with another content,
means that the store lost something: that is logged and counted, and the gateway goes on as it was.
So is a snapshot that names an arm which has no backend here. With the store gone, the last snapshot
stays and its age grows. Whether the store went back is for the polls to say: a push may have been
under way while a poll overtook it, and the other way round.

A disk that refused is tried again at every poll, until it holds the snapshot in force: a restart
must not undo an abort.

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
        return Offer.SAME if offered == applied else Offer.REGRESSION
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
        self._saved = start
        self._disk_ok = True
        self.store_up: bool | None = None
        """Whether the store answered the last time; None before it was asked."""
        self.current = start
        self.held = False
        self._restore()
        self._look_for_hold()
        self._tell()
        metrics.config.age.set_function(lambda: max(0.0, self._clock() - self._confirmed_at))

    # --- the store ------------------------------------------------------------------------------

    @property
    def active_arms(self) -> list[str]:
        """The arms whose tiers are active, the shortest first."""
        return [tier.arm for tier in self.current.tiers if tier.active]

    async def poll(self) -> None:
        """Ask the store once; and try the disk again, if it owes something."""
        await self._save()
        if self._feed is None:
            return
        known = self.current
        try:
            offered = await self._feed.snapshot()
        except FeedUnavailable as error:
            self._note_store(up=False, reason=str(error))
            return
        self._note_store(up=True)
        overtaken = self.current is not known  # by a push, which the answer may not know of
        if offered is not None:
            if not overtaken or offered.position > self.current.position:
                await self.offer(offered)
        elif overtaken:
            return
        elif self.current.version:
            self._refuse(Offer.REGRESSION, None)
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
                    if offered.position >= self.current.position:  # else a poll overtook it
                        await self.offer(offered)
            await asyncio.sleep(retry_s)

    async def offer(self, offered: Snapshot) -> Offer:
        """Apply a snapshot if it is newer, and keep it on disk."""
        verdict = weigh(self.current, offered, self._arms)
        if verdict in {Offer.REGRESSION, Offer.UNSERVABLE}:
            self._refuse(verdict, offered)
            return verdict
        self._confirmed_at = self._clock()
        self._refused = None
        if verdict is Offer.APPLY:
            self.current = offered
            self._tell()
            log.info("configuration applied", **_described(offered))
            await self._save()
        return verdict

    def _refuse(self, verdict: Offer, offered: Snapshot | None) -> None:
        """Count a snapshot that is not applied; say so once, not at every poll."""
        self._metrics.config.refused.labels(str(verdict)).inc()
        applied = str(self.current.position)
        described = "none: the store is empty" if offered is None else str(offered.position)
        if described == applied:
            described += " with another content"
        if described != self._refused:
            self._refused = described
            log.error(
                "configuration refused",
                why=str(verdict),
                applied=applied,
                offered=described,
                arms=[tier.arm for tier in offered.tiers] if offered else [],
            )

    def _note_store(self, *, up: bool, reason: str = "") -> None:
        if up != self.store_up:
            if up:
                log.info("store reached")
            elif self.store_up is None:
                log.warning("store not reached: the configuration at hand is used", reason=reason)
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
        verdict = weigh(self.current, stored, self._arms)
        if verdict is Offer.UNSERVABLE:
            self._refuse(verdict, stored)
        if verdict is Offer.APPLY:
            self.current = self._saved = stored
            self._confirmed_at = changed
            log.info("configuration restored from disk", **_described(stored))

    async def _save(self) -> None:
        """Keep the snapshot in force on disk, unless it is there."""
        async with self._writing:
            current = self.current
            if self._saved == current:
                return
            try:
                await asyncio.to_thread(
                    _write_atomically, self._file, current.model_dump_json(indent=2)
                )
            except OSError as error:
                if self._disk_ok:  # once, not at every poll
                    self._note_disk("the configuration cannot be kept on disk", error)
                self._disk_ok = False
            else:
                self._saved = current
                self._disk_ok = True

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
