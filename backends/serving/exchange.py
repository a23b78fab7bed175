"""One request and its answer on a connection: uvicorn's, but for the body.

uvicorn copies a body three times and wakes the application for each piece of it. Here the pieces
stay what the transport gave, and are put together once. `whole` waits for the last of them: an
application that can do nothing with a part asks for it in the scope's state (`WHOLE`).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent

WHOLE: Final = "whole"
"""In a scope's state: `Exchange.whole`, where the body's length is known from the head."""
EXCHANGE: Final = "exchange"
"""In a scope's state: the `Exchange` itself."""
UNREAD: Final = 1 << 18
"""Bytes that may wait for an application that reads piece by piece."""


class Exchange(RequestResponseCycle):
    """A request's body in the pieces that came, and uvicorn's way of answering it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._pieces: list[bytes] = []
        self._unread = 0
        self._whole = False
        self._when_left: Callable[[], None] | None = None

    def when_left(self, call: Callable[[], None] | None) -> None:
        """Call back when the client leaves before its answer; None: no more.

        Whoever has the whole body need not wait in `receive` to learn of it.
        """
        self._when_left = call
        if call is not None and self.disconnected:
            self.leave()

    def leave(self) -> None:
        """Say that the client has left."""
        call, self._when_left = self._when_left, None
        if call is not None and not self.response_complete:
            call()

    def feed(self, piece: bytes) -> None:
        """Take a piece; let the client wait when the application does not keep up."""
        self._pieces.append(piece)
        if self._whole:
            return
        self._unread += len(piece)
        if self._unread > UNREAD:
            self.flow.pause_reading()
        self.message_event.set()

    def wait(self) -> None:
        """Some of the body is still to come: whoever reads it waits for it."""

    def room(self, _: int) -> None:
        """Have it come in pieces: who reads it may want them one by one."""

    def end(self) -> None:
        """Say that the body is whole."""
        self.more_body = False
        self.message_event.set()

    async def receive(self) -> "ASGIReceiveEvent":
        """Give what came since the last call, as ASGI's `receive`."""
        self._continue()
        if not self.disconnected and not self.response_complete:
            self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        pieces = self._taken()
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def whole(self) -> list[bytes] | None:
        """Wait for the whole body and give its pieces; None when the client left before its end.

        The pieces are held until then: whoever asks has looked at the length that was announced.
        """
        self._continue()
        self._whole = True
        self.flow.resume_reading()
        while self.more_body and not self.disconnected:
            await self.message_event.wait()
            self.message_event.clear()
        self.message_event.clear()
        return None if self.more_body else self._taken()

    def _taken(self) -> list[bytes]:
        pieces, self._pieces, self._unread = self._pieces, [], 0
        return pieces

    def _continue(self) -> None:
        """Tell a client that waits for it to send its body."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
