"""From an HTTP request to a `Question`: as soon as its length is known, or once it is whole.

A binary body is a question when the JSON in front of its tensor has arrived; the tensor follows
while the question is under way. Every other body is read to its end first: compressed ones, those
of unknown length, and JSON. The floats of JSON are read here, once, whoever answers (ADR 0002).

Nothing here keeps the event loop for long: what is long is joined, inflated and scanned in a thread
beside the loop, and floats are read in steps of a fraction of a millisecond. One long body is
read at a time, so that the first to come is the first to go on.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from starlette.types import Receive

from backends import protocol
from backends.jsonrows import Steps, in_one_go
from backends.protocol import Floats
from backends.serving import content
from backends.serving.content import KIB, in_words
from router import length
from router.body import Body, Question
from router.errors import BodyTooLongError, ClientLeftError
from router.length import Announced, Scanned

LONG_BODY: Final = 256 * KIB
"""Bytes; parsing more than this takes longer than the loop should stand still."""

_HEADER_LENGTH: Final = protocol.HEADER_LENGTH.encode()
_LENGTH: Final = length.LENGTH_HEADER.encode()

Headers = dict[bytes, bytes]
Scan = Callable[[bytes], Question | Scanned]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is read at most: bytes of a body, vectors of a context."""

    body: int
    context: int


class Intake:
    """Reads requests. `read_ns` is told how long reading a body took, the waiting for it left out.

    `headers` are a request's, by lower-case name.
    """

    def __init__(self, bounds: Bounds, read_ns: Callable[[int], None]) -> None:
        self._bounds = bounds
        self._read_ns = read_ns
        self._long = asyncio.Semaphore()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader")

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False)

    def check(self, headers: Headers) -> None:
        """Refuse by its headers what nobody will read. Raises ProtocolError, BodyTooLongError."""
        content.check_encoding(_text(headers, b"content-encoding"))
        if int(headers.get(b"content-length", b"0")) > self._bounds.body:
            raise _too_long(self._bounds.body)

    async def infer(self, headers: Headers, receive: Receive) -> Question:
        """Read an infer request. Raises ProtocolError, BodyTooLongError, ClientLeftError."""
        header_length = _text(headers, _HEADER_LENGTH)
        coming = length.announced(
            header_length,
            _text(headers, b"content-length"),
            _text(headers, b"content-encoding"),
        )
        if coming is None:
            return await self._whole(headers, receive, partial(self._scan_infer, header_length))
        return self._binary(headers, coming, await _at_least(receive, coming.head))

    def infer_at_once(self, headers: Headers, body: bytes) -> Question | None:
        """Read an infer request that is whole and short; None where `infer` does it better.

        Raises as `infer` does.
        """
        header_length = _text(headers, _HEADER_LENGTH)
        encoding = _text(headers, b"content-encoding")
        coming = length.announced(header_length, str(len(body)), encoding)
        if coming is not None:
            return self._binary(headers, coming, body)
        return self._short(headers, body, partial(self._scan_infer, header_length))

    def predict_at_once(self, headers: Headers, body: bytes) -> Question | None:
        """Read a `/v1/predict` request as `infer_at_once` does."""
        return self._short(
            headers, body, partial(length.of_predict, max_length=self._bounds.context)
        )

    def _short(self, headers: Headers, body: bytes, scan: Scan) -> Question | None:
        if len(body) > LONG_BODY or not content.is_plain(_text(headers, b"content-encoding")):
            return None
        return self._at_once(headers, partial(scan, body))

    def _binary(self, headers: Headers, coming: Announced, arrived: bytes) -> Question:
        """Read the terms of a binary body of which the JSON has `arrived`, and what follows it."""
        began = time.perf_counter_ns()
        terms = protocol.binary_terms(arrived[: coming.head], coming.tensor, self._bounds.context)
        _check_claim(headers, terms.length)
        body = Body(coming.tensor)
        if len(arrived) > coming.head:
            body.feed(memoryview(arrived)[coming.head :] if coming.head else arrived)
        self._read_ns(time.perf_counter_ns() - began)
        return Question(terms, body)

    async def predict(self, headers: Headers, receive: Receive) -> Question:
        """Read a `/v1/predict` request. Raises as `infer` does."""
        scan = partial(length.of_predict, max_length=self._bounds.context)
        return await self._whole(headers, receive, scan)

    def _scan_infer(self, header_length: str | None, text: bytes) -> Question | Scanned:
        """Scan a whole infer body, whose tensor may be binary all the same."""
        most = self._bounds.context
        split = protocol.json_length(header_length, len(text))
        if header_length is None or split == len(text) > 0:
            return length.of_infer(text, max_length=most)
        terms = protocol.binary_terms(text[:split], len(text) - split, most)
        return Question(terms, Body.of(memoryview(text)[split:]))

    async def _whole(self, headers: Headers, receive: Receive, scan: Scan) -> Question:
        """Read a body to its end, and its floats; nobody keeps the text."""
        chunks = await _all(receive, self._bounds.body)
        encoding = _text(headers, b"content-encoding")
        is_short = sum(map(len, chunks)) <= LONG_BODY and content.is_plain(encoding)

        def scanned() -> Question | Scanned:
            body = b"".join(chunks)
            chunks.clear()
            return scan(content.inflate(body, encoding, self._bounds.body))

        if is_short:
            return self._at_once(headers, scanned)
        async with self._long:
            return await self._stepwise(headers, scanned)

    def _at_once(self, headers: Headers, scanned: Callable[[], Question | Scanned]) -> Question:
        found, scan_ns = _timed(scanned)
        _check_claim(headers, found.length)
        if isinstance(found, Question):
            self._read_ns(scan_ns)
            return found
        floats, read_ns = _timed(lambda: in_one_go(found.steps()))
        self._read_ns(scan_ns + read_ns)
        return Question(found.terms(len(floats)), Body.of(floats))

    async def _stepwise(
        self, headers: Headers, scanned: Callable[[], Question | Scanned]
    ) -> Question:
        beside = partial(asyncio.get_running_loop().run_in_executor, self._thread)
        found, scan_ns = await beside(_timed, scanned)
        _check_claim(headers, found.length)
        if isinstance(found, Question):
            self._read_ns(scan_ns)
            return found
        steps, read_ns = found.steps(), 0
        while True:
            step, step_ns = _timed(partial(_step, steps))
            read_ns += step_ns
            if not isinstance(step, bool):
                break
            if step:
                step = await beside(in_one_go, steps)
                break
            await asyncio.sleep(0)
        self._read_ns(scan_ns + read_ns)
        return Question(found.terms(len(step)), Body.of(step))


def _step(steps: Steps) -> bool | Floats:
    """Do one step: whether the next one is long, or the floats after the last."""
    try:
        return next(steps)
    except StopIteration as end:
        floats: Floats = end.value
        return floats


def _timed(work: Callable[[], T]) -> tuple[T, int]:
    """Do `work`, and say how many nanoseconds it took."""
    began = time.perf_counter_ns()
    return work(), time.perf_counter_ns() - began


def _check_claim(headers: Headers, found: int) -> None:
    if (claimed := headers.get(_LENGTH)) is not None:
        length.check(claimed.decode("latin-1"), found)


def _text(headers: Headers, name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")


# --- bytes --------------------------------------------------------------------------------------


async def _at_least(receive: Receive, wanted: int) -> bytes:
    """Read until `wanted` bytes are there, which the body is known to have; there may be more."""
    arrived = await _piece(receive)
    while len(arrived) < wanted:
        arrived += await _piece(receive)
    return arrived


async def _piece(receive: Receive) -> bytes:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientLeftError("the client left before its body had arrived")
    piece: bytes = message.get("body", b"")
    return piece


async def _all(receive: Receive, limit: int) -> list[bytes]:
    """Read to the end, in the pieces that come. Raises BodyTooLongError, ClientLeftError."""
    chunks: list[bytes] = []
    total = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError("the client left before its body had arrived")
        piece = message.get("body", b"")
        total += len(piece)
        if total > limit:
            raise _too_long(limit)
        chunks.append(piece)
        if not message.get("more_body", False):
            return chunks


def _too_long(limit: int) -> BodyTooLongError:
    return BodyTooLongError(f"the body is longer than {in_words(limit)}: no more is read here")
