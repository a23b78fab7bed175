"""One HTTP/1.1 connection to a replica, for one request after another. httptools parses.

A request that is whole goes out in one write. One that is still arriving is written piece by piece,
no faster than the replica reads. The answer is read meanwhile: one that comes before the request
has been sent to its end ends the sending, and then the connection is not used again.

Neither is one whose call was cancelled, whose answer says so or breaks the protocol, or on which
something came that nobody asked for: `reusable` says whether the next request may go out on it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final, NamedTuple, cast

import httptools

from backends.protocol import HEADER_LENGTH
from backends.serving.content import KIB, MIB
from router.body import Piece

Stream = Callable[[], AsyncIterator[Piece]]
"""Gives a request's body, from its beginning, as it arrives."""
Content = bytes | tuple[Piece, ...] | Stream
"""A request's body: whole, in one piece or several, or still arriving."""
MOST_ANSWER: Final = 64 * MIB
"""Bytes of a body that is read."""
MOST_HEADERS: Final = 64 * KIB
"""Bytes of an answer's headers."""
COPIED: Final = 64 * KIB
"""Bytes that are sooner copied than handed to the system in pieces."""
_FIRST_FINAL: Final = 200
_SWITCHING: Final = 101

_NAMES: Final = {
    name.encode(): name
    for name in ("connection", "content-length", "content-type", HEADER_LENGTH, "x-request-id")
}
"""Names as servers of ours write them."""


class TransportError(Exception):
    """The replica was not reached, or the connection broke."""


class Reply(NamedTuple):
    """A whole answer. The names of `headers` are in lower case; of several, the first counts."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection(asyncio.Protocol):
    """One connection. `on_lost` is called once, when it is gone; used on one event loop."""

    def __init__(self, on_lost: Callable[["Connection"], None]) -> None:
        self.used_at = 0.0
        """When its last answer ended: monotonic seconds of the pool that keeps it."""
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        # For all answers: a connection whose answer did not end as it should is not used again.
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Reply] | None = None
        self._keep = True
        self._gone = False
        self._writable: asyncio.Future[None] | None = None
        self._paused = False
        self._forget()

    def _forget(self) -> None:
        """Get ready for an answer."""
        self._status = self._head = 0
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._size = 0
        self._begun = False

    @property
    def reusable(self) -> bool:
        """Whether another request may go out here: all of the last one has, and its answer came."""
        if self._transport is None or self._gone or not self._keep or self._answer is not None:
            return False
        return not self._transport.get_write_buffer_size()

    def close(self) -> None:
        """Close it, at once."""
        self._keep = False
        if self._transport is not None:
            self._transport.abort()

    async def ask(self, head: bytes, body: Content | None) -> Reply:
        """Send one request and read its answer. Raises TransportError, and what a stream raises."""
        if self._transport is None or self._gone:
            raise TransportError("the connection is closed")
        self._forget()
        answer: asyncio.Future[Reply] = self._loop.create_future()
        self._answer = answer
        try:
            if callable(body):
                self._transport.write(head)
                return await self._stream(body, answer)
            if isinstance(body, tuple):
                self._write(head, body)
            else:
                self._transport.write(head + body if body else head)
            return await answer
        except BaseException:
            self.close()
            raise
        finally:
            self._answer = None

    def _write(self, head: bytes, body: tuple[Piece, ...]) -> None:
        transport = cast("asyncio.Transport", self._transport)
        if sum(map(len, body)) <= COPIED:
            transport.write(b"".join((head, *body)))
        else:
            transport.writelines([head, *body])

    async def _stream(self, body: Stream, answer: "asyncio.Future[Reply]") -> Reply:
        sending = asyncio.create_task(self._send(body))
        try:
            await asyncio.wait((sending, answer), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                sending.result()  # raises what kept the body from being sent
                return await answer
            self._keep = self._keep and sending.done()
            return answer.result()
        finally:
            sending.cancel()
            await asyncio.wait((sending,))
            if not sending.cancelled():
                sending.exception()  # seen: an answer counts for more

    async def _send(self, body: Stream) -> None:
        async for piece in body():
            if self._transport is None or self._gone:
                return  # the answer's future says why
            self._transport.write(piece)
            if self._paused:
                self._writable = self._loop.create_future()
                await self._writable

    # --- asyncio.Protocol -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse what came; nothing may come that was not asked for."""
        if self._answer is None or self._answer.done():
            self.close()
            return
        self._begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            # what our own callbacks raise comes wrapped
            told = error.__context__ if isinstance(error.__context__, TransportError) else error
            self._fail(f"the answer is no HTTP: {told}")

    def eof_received(self) -> None:
        """Let the connection close: an answer without a length ends there."""

    def connection_lost(self, error: Exception | None) -> None:
        """End what is under way, and tell the pool."""
        self._gone = True
        self._wake()
        if self._answer is not None and not self._answer.done():
            if error is None and self._ends_with_connection():
                self.on_message_complete()
            elif self._begun:
                self._fail("the connection was closed in the middle of the answer")
            else:
                self._fail(str(error or "the connection was closed before any answer"))
        self._on_lost(self)

    def pause_writing(self) -> None:
        """Hold the sending back: the replica does not read as fast."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on sending."""
        self._paused = False
        self._wake()

    def _wake(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    # --- httptools' callbacks -------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._head += len(name) + len(value)
        if self._head > MOST_HEADERS:
            raise TransportError(f"the headers are longer than {MOST_HEADERS // KIB} KiB")
        known = _NAMES.get(name)
        if known is None:
            known = name.decode("latin-1").lower()
        self._headers.setdefault(known, value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        """Take the status."""
        self._status = self._parser.get_status_code()

    def on_body(self, piece: bytes) -> None:
        """Take a piece of the body."""
        self._size += len(piece)
        if self._size > MOST_ANSWER:
            raise TransportError(f"the body is longer than {MOST_ANSWER // MIB} MiB")
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        """End the answer, but for one that only announces it (100, 103)."""
        if self._status < _FIRST_FINAL and self._status != _SWITCHING:
            self._forget()
            return
        if self._answer is None or self._answer.done():
            self._keep = False  # a second answer to one request
            return
        self._keep = self._keep and self._parser.should_keep_alive()
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._answer.set_result(Reply(self._status, self._headers, body))

    def _ends_with_connection(self) -> bool:
        """Whether the answer's body was to last until the connection's end."""
        framed = "content-length" in self._headers or "transfer-encoding" in self._headers
        return self._status >= _FIRST_FINAL and not framed

    def _fail(self, reason: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(TransportError(reason))
        self.close()
