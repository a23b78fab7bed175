"""What the connections of one server may take from it, and what has been taken.

`backends/serving/wire.py` is one connection; what is asked before it takes a byte, or a place, and
what cuts it when it is too slow, is shared by all of them and stands here.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

from backends.serving.content import KIB, MIB
from backends.serving.direct import SHORT_BODY, Expect, Routes, expect_nothing

SMALL_BODY: Final = 256 * KIB
"""Bytes of a body that the budget always leaves room for."""
SWEEP_S: Final = 0.5
WHY: Final = ("head", "body", "unread", "size", "framing", "budget", "connections")


class Watched(Protocol):
    """A connection, as the sweep sees it."""

    def look(self, now: float) -> None:
        """Cut it if what it waits for took too long, at `now` monotonic seconds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server bears. Durations in seconds."""

    head_s: float = 10.0
    body_s: float = 25.0
    idle_s: float = 25.0
    answer_s: float = 25.0
    head_bytes: int = 32 * KIB
    held_bytes: int = 512 * MIB
    connections: int = 4096


class Guard:
    """What the connections of one server share: the limits, the bytes they hold, the sweep."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        registry: CollectorRegistry | None = None,
        new_request_id: Callable[[], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits or Limits()
        self.clock = clock
        self.new_request_id = new_request_id
        self.direct: Routes = {}
        """What may be handled without the application."""
        self.direct_bytes = SHORT_BODY
        """Of a body, at most, that is handled so."""
        self.expect: Expect = expect_nothing
        self.connections: set[Watched] = set()
        self.held = 0
        self.leaving = False
        """Whether the server is about to end: each connection closes after its next answer."""
        self._sweep: asyncio.TimerHandle | None = None
        self._default: list[tuple[bytes, bytes]] = []
        self._default_head = b""
        self._refused = Counter(
            "http_refused_connections",
            "Connections that the server cut: a head or a body that took too long, an answer that "
            "nobody read, a head too large, ambiguous framing, no room for the body or for one "
            "more connection",
            ("why",),
            registry=registry,
        )
        for why in WHY:
            self._refused.labels(why)
        Gauge("http_connections", "Connections that are open", registry=registry).set_function(
            lambda: len(self.connections)
        )
        Gauge(
            "http_held_bytes", "Bytes of bodies whose requests are not answered", registry=registry
        ).set_function(lambda: self.held)

    def add(self, connection: Watched) -> bool:
        """Take a connection in; False when there are too many."""
        self.connections.add(connection)
        if self._sweep is None:
            self._plan_sweep()
        return len(self.connections) <= self.limits.connections

    def discard(self, connection: Watched) -> None:
        """Forget a connection that is closed."""
        self.connections.discard(connection)

    def take(self, bytes_: int, *, of: int) -> bool:
        """Hold more bytes of a body that has `of` so far; False when there is no room."""
        self.held += bytes_
        return self.held <= self.limits.held_bytes or of <= SMALL_BODY

    def default_head(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Write the headers of every answer: uvicorn makes a new list of them every second."""
        if headers is not self._default:
            self._default = headers
            self._default_head = b"".join(b"%b: %b\r\n" % pair for pair in headers)
        return self._default_head

    def count(self, why: str) -> None:
        """Count a connection that was cut."""
        self._refused.labels(why).inc()

    def sweep(self) -> None:
        """Cut what took too long."""
        now = self.clock()
        for connection in tuple(self.connections):
            connection.look(now)

    def _plan_sweep(self) -> None:
        self._sweep = asyncio.get_running_loop().call_later(SWEEP_S, self._swept)

    def _swept(self) -> None:
        self._sweep = None
        self.sweep()
        if self.connections:
            self._plan_sweep()
