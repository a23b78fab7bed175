"""The short way of a request: from its last byte to its handler, and from the answer to the wire.

An ASGI application is called with a scope, in a task of its own, and answers by messages; around
it stand its middleware. That costs more than forwarding a request does. So a request that is plain
enough may be taken by a handler at once: it is posted to exactly one of a server's paths
(`Routes`), its length is announced and small (`Guard.direct_bytes`), nothing of an earlier request
is under way, and all of it comes in a moment (`MOMENT_S`). The handler looks at the whole request:
it takes it, or leaves it to the application, which then treats it as if nobody had looked. A
handler takes what it can answer well and leaves the rest, refusals first of all.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Protocol

import structlog

from backends.serving.content import KIB
from backends.serving.eager import Eager
from backends.serving.inplace import IN_PLACE, Room

SHORT_BODY: Final = 256 * KIB
"""Bytes. A longer body is worth handling while it arrives, by a server that can."""
MOMENT_S: Final = 0.02
"""How long a short body is waited for, before the application may see what there is of it."""
STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_FAILED: Final = b'{"error": "internal error"}'

log = structlog.stdlib.get_logger("turnout")


class Answer(NamedTuple):
    """What goes to the client: `head` are header lines, each with its end, without the framing."""

    status: int
    head: bytes
    body: bytes


Work = Coroutine[Any, Any, Answer]
Take = Callable[["Call"], Work | None]
"""Takes a whole request and gives the work on it; or leaves it, having changed nothing: None."""
Routes = Mapping[bytes, Take]
"""By the request's target, byte by byte as it came: no query, nothing escaped, no host."""
Expect = Callable[[], Callable[[], None]]
"""Told when a request begins to arrive on the short way; what it returns, when that is over."""


def expect_nothing() -> Callable[[], None]:
    """Look at no request before it is whole."""
    return _nothing


def _nothing() -> None:
    """Do nothing."""


class Line(Protocol):
    """A connection, as the request on its short way sees it."""

    loop: asyncio.AbstractEventLoop
    tasks: set[asyncio.Task[None]]
    """What the server ends when it ends."""
    headers: list[tuple[bytes, bytes]]
    transport: asyncio.Transport

    def default_head(self) -> bytes:
        """Give the headers of every answer of this server, each with its line's end."""

    def hand_over(self, call: "Call", pieces: list[bytes]) -> None:
        """Let the application have the request; `pieces` are what there is of its body."""

    def on_response_complete(self) -> None:
        """Go on with the next request: this one is answered."""


class _Unheard:
    """An event that nobody waits for."""

    def set(self) -> None:
        """Tell nobody."""


_UNHEARD: Final = _Unheard()


class Call:
    """One request on the short way. It stands where the connection has an `Exchange` otherwise."""

    __slots__ = (
        "_expected", "_line", "_patience", "_pieces", "_room", "_running", "_take", "arrived",
        "disconnected", "headers", "keep_alive", "more_body", "request_id", "response_complete",
        "response_started",
    )  # fmt: skip

    message_event = _UNHEARD

    def __init__(
        self,
        line: Line,
        take: Take,
        *,
        arrived: float,
        keep_alive: bool,
        expected: Callable[[], None],
    ) -> None:
        self._line = line
        self._take = take
        self._pieces: list[bytes] = []
        self._room: Room | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._expected: Callable[[], None] | None = expected
        self._running: Eager[Answer] | None = None
        self.headers = line.headers
        self.arrived = arrived
        """Monotonic seconds when the head was whole."""
        self.keep_alive = keep_alive
        self.request_id = ""
        self.disconnected = self.response_started = self.response_complete = False
        self.more_body = True

    def __repr__(self) -> str:
        return f"<Call {self.request_id}, {self._running or 'arriving'}>"

    def body(self) -> bytes:
        """Put the body together: it is whole."""
        if self._room is not None:
            return bytes(self._room.so_far())
        if len(self._pieces) > 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0]

    def view(self) -> bytes | memoryview:
        """Give the whole body without copying one that stays where it was read to."""
        return self.body() if self._room is None else self._room.so_far()

    # --- what the connection tells --------------------------------------------------------------

    def feed(self, piece: bytes) -> None:
        """Take a piece of the body."""
        self._pieces.append(piece)

    def room(self, left: int) -> Room | None:
        """Make room for the `left` bytes that are still to come, if they are many."""
        if left <= IN_PLACE:
            return None
        self._room = room = Room(sum(map(len, self._pieces)) + left)
        for piece in self._pieces:
            room.add(piece)
        self._pieces.clear()
        return room

    def wait(self) -> None:
        """Wait a moment for the rest of the body."""
        if self._patience is None:
            loop = self._line.loop
            self._patience = loop.call_later(MOMENT_S, self._hand_over)

    def end(self) -> None:
        """The body is whole: have it handled."""
        self.more_body = False
        self._stop_waiting()
        work = self._taken()
        if work is None:
            self._hand_over()
            return
        # Whoever took it holds what it needs, and no longer than that.
        self._pieces, self._room = [], None
        self._running = running = Eager(work, self._done, self._line.loop)
        self._line.tasks.add(running)  # type: ignore[arg-type] # what ends the server's tasks ends it
        running.begin()

    def leave(self) -> None:
        """The client has left: end the work."""
        self._stop_waiting()
        self.disconnected = True
        if self._running is not None:
            self._running.cancel()

    def _taken(self) -> Work | None:
        try:
            return self._take(self)
        except Exception:
            log.exception("a request was left to the application")
            return None

    def _hand_over(self) -> None:
        """Leave it to the application, with what there is of the body."""
        self._stop_waiting()
        pieces, self._pieces = self._pieces, []
        if self._room is not None:
            pieces, self._room = [bytes(self._room.so_far())], None
        if not self.disconnected:
            self._line.hand_over(self, pieces)

    def _stop_waiting(self) -> None:
        if self._expected is not None:
            self._expected()
            self._expected = None
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    # --- the answer -----------------------------------------------------------------------------

    def _done(self, answer: Answer | None, failed: BaseException | None) -> None:
        self._line.tasks.discard(self._running)
        self._running = None
        if answer is None:
            if failed is not None and not isinstance(failed, asyncio.CancelledError):
                log.error("request failed", exc_info=failed)
            answer = Answer(500, b"content-type: application/json\r\n", _FAILED)
        self._write(answer)

    def _write(self, answer: Answer) -> None:
        """Write the answer, in one piece, unless the client has left."""
        if self.disconnected:
            return
        self.response_started = self.response_complete = True
        line = self._line
        line.transport.write(
            b"%b%b%bx-request-id: %b\r\ncontent-length: %d\r\n%b\r\n%b"
            % (
                STATUS_LINES[answer.status],
                line.default_head(),
                answer.head,
                self.request_id.encode("latin-1"),
                len(answer.body),
                b"" if self.keep_alive else b"connection: close\r\n",
                answer.body,
            )
        )
        if not self.keep_alive:
            line.transport.close()
        line.on_response_complete()
