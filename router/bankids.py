"""Which ids the bank has, so that feedback about an id that does not exist is refused at once.

Such a label would count as a miss of every arm. The ids are fetched off every request's path, and
again when a backend says that its bank is another one. What is not known is not refused: before the
first fetch, for a backend that lists no ids, and for a bank whose ids are too scattered, a label is
taken in as it is.
"""

import asyncio
from typing import Final

import structlog

from backends.idruns import IdRuns
from router.errors import RefusedError, UpstreamError
from router.snapshots import Snapshots
from router.upstream import Upstream

LOOK_S: Final = 5.0

log = structlog.stdlib.get_logger("router")


class BankIds:
    """The ids of the active arms' banks."""

    def __init__(self, upstream: Upstream, snapshots: Snapshots) -> None:
        self._upstream = upstream
        self._snapshots = snapshots
        self._banks: dict[str, str] = {}
        """The identity of each arm's bank."""
        self._ids: dict[str, IdRuns] = {}
        """By the bank's identity."""

    def lacks(self, id_: int) -> bool:
        """Whether every active arm's bank is known, and none has this id."""
        banks = [self._banks.get(arm, "") for arm in self._snapshots.active_arms]
        known = [self._ids.get(bank) for bank in banks]
        return all(ids is not None and not ids.has(id_) for ids in known)

    async def run(self) -> None:
        """Keep up with the backends, at an interval, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(LOOK_S)

    async def refresh(self) -> None:
        """Ask every arm for its bank, and for the ids of one that is new."""
        for arm in self._upstream.arms:
            try:
                bank = (await self._upstream.identity(arm))["bank"]
                if bank not in self._ids or self._banks.get(arm) != bank:
                    await self._fetch(arm, bank)
            except (UpstreamError, RefusedError) as error:
                log.debug("a bank's ids are not known", arm=arm, reason=str(error))
        for gone in set(self._ids) - set(self._banks.values()):
            del self._ids[gone]

    async def _fetch(self, arm: str, bank: str) -> None:
        self._banks.pop(arm, None)
        if bank not in self._ids:
            ids = await self._upstream.ids(arm)
            self._ids[bank] = ids
            log.info("a bank's ids are known", arm=arm, bank=bank, runs=ids.first.size)
        self._banks[arm] = bank
