"""Request bodies, from the first byte to the parsed value.

A body is put together once, parsed, and kept by nobody. What takes the event loop too long is read
by one thread beside it: long JSON and compressed bodies, in steps so short that the loop stays
prompt (`backends/jsonrows.py`). One thread, because the steps hold the interpreter's lock. A tensor
is not parsed but looked through, a millisecond for some megabytes: less than a turn to another
thread and back takes on a busy machine.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from starlette.types import Receive, Scope

from backends.errors import BodyTooLargeError, ClientLeftError
from backends.protocol import HEADER_LENGTH
from backends.serving import content
from backends.serving.exchange import WHOLE
from backends.statistics import Tally

LONG_BODY: Final = 256 * 1024
"""Bytes; parsing more JSON than this takes the loop too long."""
LONG_TENSOR: Final = 8 * content.MIB
"""Bytes; looking through more numbers than this takes the loop too long."""
_ENCODING: Final = b"content-encoding"
_LENGTH: Final = b"content-length"
_HEADER_LENGTH: Final = HEADER_LENGTH.encode()

Headers = Mapping[bytes, bytes]
Parsed = TypeVar("Parsed")


def headers_of(scope: Scope) -> Headers:
    """Index a request's headers by name; of several, the first counts."""
    return dict(reversed(scope["headers"]))


def text_of(headers: Headers, name: bytes) -> str | None:
    """Read a header's value."""
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")


class Bodies:
    """Reads what clients send, at most `limit` bytes of it; `tally` counts the time of parsing."""

    def __init__(self, limit: int, tally: Tally) -> None:
        self._limit = limit
        self._tally = tally
        self.reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader")

    async def read(
        self, scope: Scope, receive: Receive, headers: Headers, parse: Callable[[bytes], Parsed]
    ) -> Parsed:
        """Read a body, inflate and parse it.

        Raises BodyTooLargeError, ClientLeftError (the body ends before its end), and what `parse`
        and `content.inflate` raise.
        """
        encoding = text_of(headers, _ENCODING)
        pieces = await self._pieces(scope, receive, headers)
        total = sum(map(len, pieces))

        def read() -> tuple[Parsed, int]:
            began = time.perf_counter_ns()
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            parsed = parse(content.inflate(body, encoding, self._limit))
            return parsed, time.perf_counter_ns() - began

        if content.is_plain(encoding) and is_quick(total, text_of(headers, _HEADER_LENGTH)):
            parsed, ns = read()
        else:
            parsed, ns = await asyncio.get_running_loop().run_in_executor(self.reader, read)
        self._tally.add(ns)
        return parsed

    async def throw_away(self, receive: Receive) -> None:
        """Read the rest of a body that is refused, within a bound: a client may still send it."""
        total = 0
        more = True
        while more and total <= 2 * self._limit:
            message = await receive()
            more = message.get("more_body", False)  # also false when the client has left
            total += len(message.get("body", b""))

    async def _pieces(self, scope: Scope, receive: Receive, headers: Headers) -> list[bytes]:
        whole = scope.get("state", {}).get(WHOLE)
        if whole is not None and int(headers[_LENGTH]) <= self._limit:
            pieces = await whole()
            if pieces is None:
                raise _left()
            return list(pieces)
        return await self._one_by_one(receive)

    async def _one_by_one(self, receive: Receive) -> list[bytes]:
        """Read at most the limit, and no more than twice that of what is longer."""
        pieces: list[bytes] = []
        total = 0
        more = True
        while more and total <= 2 * self._limit:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _left()
            piece = message.get("body", b"")
            more = message.get("more_body", False)
            total += len(piece)
            if total <= self._limit:
                pieces.append(piece)
            else:
                pieces.clear()
        if total > self._limit:
            raise BodyTooLargeError(
                f"the body is longer than {content.in_words(self._limit)}: this server reads no "
                "more"
            )
        return pieces


def is_quick(total: int, header_length: str | None) -> bool:
    """Whether a body of `total` bytes is read at once: it is short, or nearly all of it a tensor.

    `header_length` is HEADER_LENGTH's value: how many of its bytes are JSON.
    """
    if total <= LONG_BODY:
        return True
    if header_length is None or total > LONG_TENSOR:
        return False
    digits = header_length.isascii() and header_length.isdigit() and len(header_length) < 8  # noqa: PLR2004 - no more than LONG_BODY
    return digits and int(header_length) <= LONG_BODY


def _left() -> ClientLeftError:
    return ClientLeftError("the client left before its request was whole")
