"""The replicas of one arm: which of them gets a request, how each is doing, what may be retried.

Each has a connection pool of its own, so that a slow one cannot starve another, and a circuit of
its own (`router/breaker.py`). A replica whose circuit is open gets no requests, unless nobody else
could answer. A retry goes to another replica that is well, where there is one, else to the same if
it is: when everybody is unwell, trying again only adds to the load.

Bodies that are still arriving take a part of the connections at most: a client that sends slowly
must not keep one that others need, so what comes beyond that waits for its body first.
"""

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from router.address import read_address
from router.body import Body
from router.breaker import Breaker, Circuit, able
from router.errors import UpstreamError, UpstreamStatusError, UpstreamTimeoutError
from router.limits import RetryBudget
from router.metrics import FleetMetrics
from router.replicas import choose
from router.transport import Transport

ARRIVING_SHARE: Final = 0.25
"""Of a replica's connections, what bodies may have that are still arriving."""

log = structlog.stdlib.get_logger("router")


class Replica:
    """One backend of an arm: how many requests are with it, and how they end."""

    def __init__(self, url: str, number: int, *, connections: int, ca_file: Path | None) -> None:
        self.url = url
        self.number = str(number)
        """Its place in the settings: its name in metrics."""
        self.address = read_address(url)
        self.transport = Transport(self.address, connections=connections, ca_file=ca_file)
        self.breaker = Breaker()

    def __repr__(self) -> str:
        return f"<Replica {self.number} {self.url}, {self.load} under way, {self.breaker}>"

    @property
    def load(self) -> int:
        """Requests under way."""
        return self.transport.load


class Arm:
    """One arm's replicas. `shadow` says that they get mirrors' copies, for the log."""

    def __init__(
        self,
        name: str,
        urls: Sequence[str],
        *,
        connections: int,
        ca_file: Path | None,
        shadow: bool,
        metrics: FleetMetrics | None,
    ) -> None:
        self.name = name
        self.budget = RetryBudget()
        self.replicas = {
            url: Replica(url, number, connections=connections, ca_file=ca_file)
            for number, url in enumerate(urls)
        }
        self._only = next(iter(self.replicas.values())) if len(urls) == 1 else None
        self._breakers = {url: one.breaker for url, one in self.replicas.items()}
        self._arriving: set[Body] = set()
        self._most_arriving = max(1, int(ARRIVING_SHARE * connections))
        self._shadow = shadow
        self._metrics = metrics
        if metrics:
            for one in self.replicas.values():
                metrics.watch(name, one.number, one.breaker)

    # --- who gets a request ---------------------------------------------------------------------

    def choose(self, key: str | None, now: float, *, must_answer: bool) -> Replica | None:
        """Choose who gets a request at `now`; None where no replica is well.

        With `must_answer`, when nobody else could answer instead, there is always one.
        """
        if self._only is not None:
            well = must_answer or self._only.breaker.lets(now)
            return self._only if well else None
        names = able(self._breakers, now, must_answer=must_answer)
        return self._of(names, key) if names else None

    def choose_again(
        self, key: str | None, now: float, *, tried: Collection[str], busy: bool
    ) -> Replica | None:
        """Choose who gets a retry; None where it would do no good.

        `tried` are the replicas that failed; `busy`: the last one has too much to do already.
        """
        well = [url for url, breaker in self._breakers.items() if breaker.lets(now)]
        others = [url for url in well if url not in tried]
        if others or (well and not busy):
            return self._of(others or well, key)
        return None

    def _of(self, names: Collection[str], key: str | None) -> Replica:
        loads = {url: one.load for url, one in self.replicas.items()}
        return self.replicas[choose(tuple(self.replicas), key, loads, names)]

    async def admit(self, body: Body) -> None:
        """Wait until `body`, which is still arriving, may be sent; `release` it at the end.

        It may go at once where few others are arriving. Raises ClientLeftError.
        """
        if len(self._arriving) >= self._most_arriving:
            await body.filled()
            return
        self._arriving.add(body)
        body.when_whole(partial(self._arriving.discard, body))

    def release(self, body: Body) -> None:
        """Forget a body, however it ended."""
        self._arriving.discard(body)

    # --- how they are ---------------------------------------------------------------------------

    def answered(self, replica: Replica, now: float) -> None:
        """Note that a replica answered, were it to say that the request is wrong."""
        before = replica.breaker.state
        replica.breaker.succeeded(now)
        self._noted(replica, "ok", before, now, "")

    def failed(self, replica: Replica, error: UpstreamError, now: float, waited_s: float) -> None:
        """Note how a replica failed, after it had `waited_s` at most to answer."""
        breaker = replica.breaker
        before = breaker.state
        if isinstance(error, UpstreamTimeoutError):
            breaker.late(now, waited_s)
        elif isinstance(error, UpstreamStatusError) and error.busy:
            breaker.untold()  # it does what it can
        else:
            breaker.failed(now)
        self._noted(replica, str(error.kind), before, now, str(error))

    def left(self, replica: Replica, now: float) -> None:
        """Note that nobody waited for a replica's answer."""
        before = replica.breaker.state
        replica.breaker.untold()
        self._noted(replica, "left", before, now, "")

    def _noted(
        self, replica: Replica, outcome: str, before: Circuit, now: float, reason: str
    ) -> None:
        if self._metrics:
            self._metrics.tries.labels(self.name, replica.number, outcome).inc()
        if replica.breaker.state is not before:
            self._tell(replica, now, reason)

    def _tell(self, replica: Replica, now: float, reason: str) -> None:
        """Log a change of a circuit, and count an opening."""
        facts = {
            "arm": self.name,
            "replica": replica.number,
            "url": replica.url,
            "shadow": self._shadow,
        }
        if replica.breaker.state is Circuit.OPEN:
            for_s = round(replica.breaker.until - now, 1)
            log.warning("replica ejected", **facts, for_s=for_s, reason=reason)
            if self._metrics:
                self._metrics.ejections.labels(self.name, replica.number).inc()
        else:
            log.info("replica taken back", **facts)


class Models:
    """What each replica's last answer says that it computes with, whoever asked."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, tuple[str, str]]] = {}

    def note(self, arm: str, url: str, checkpoint: str, bank: str) -> None:
        """Keep what the replica of `arm` at `url` said: the sha256 of checkpoint and bank."""
        self._seen.setdefault(arm, {})[url] = (checkpoint, bank)

    def told(self) -> dict[str, str]:
        """Name each arm's model: `checkpoint/bank`; an arm that has not answered is left out.

        Where the replicas of an arm differ, all are named, with ` and ` between them.
        """
        return {
            arm: " and ".join("/".join(identity) for identity in sorted(set(seen.values())))
            for arm, seen in self._seen.items()
        }
