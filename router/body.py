"""The floats of one request as bytes: held once, read by all who need them.

The bytes are appended while they arrive. Every attempt (the first, a retry, the fallback, the
mirror's) reads from the beginning at its own pace and waits for what has not arrived yet; the
pieces themselves are never copied. They live as long as somebody holds the `Body`.

Used on one event loop; nothing here is locked.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import lru_cache

import numpy as np

from backends.protocol import KEPT_NEIGHBORS, Floats, Terms, write_head
from router.errors import ClientLeftError

Piece = bytes | memoryview


class Body:
    """`size` bytes of tensor, little-endian float32, row-major, of which `arrived` are there."""

    __slots__ = ("_cut", "_pieces", "_waiting", "_when_whole", "arrived", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.arrived = 0
        self._pieces: list[Piece] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._when_whole: list[Callable[[], None]] = []
        self._cut = False

    def __repr__(self) -> str:
        return f"<Body {self.arrived}/{self.size} bytes>"

    @classmethod
    def of(cls, tensor: Floats | memoryview) -> "Body":
        """Make a body that is there already, without a copy where the layout allows."""
        if not isinstance(tensor, memoryview):
            tensor = np.ascontiguousarray(tensor, dtype="<f4").data.cast("B")
        body = cls(len(tensor))
        body.feed(tensor)
        return body

    @property
    def whole(self) -> bool:
        """Whether all of it has arrived."""
        return self.arrived == self.size

    def feed(self, piece: Piece) -> None:
        """Append what has arrived."""
        self._pieces.append(piece)
        self.arrived += len(piece)
        if self._waiting:
            self._wake()
        if self._when_whole and self.whole:
            for call in self._when_whole:
                call()
            self._when_whole.clear()

    def cut(self) -> None:
        """Say that no more will come: who waits for it raises ClientLeftError."""
        self._cut = True
        self._wake()

    def when_whole(self, call: Callable[[], None]) -> None:
        """Call back once, when all of it has arrived."""
        self._when_whole.append(call)

    def forget(self) -> None:
        """Call nobody back any more."""
        self._when_whole.clear()

    async def filled(self) -> None:
        """Wait until all of it has arrived. Raises ClientLeftError."""
        while not self.whole:
            if self._cut:
                raise ClientLeftError("the client left before its body had arrived")
            await self._more()

    def pieces(self) -> tuple[Piece, ...]:
        """What has arrived so far."""
        return tuple(self._pieces)

    async def read(self) -> AsyncIterator[Piece]:
        """Give all of it, from the beginning, as it arrives. Raises ClientLeftError."""
        at = 0
        while True:
            while at < len(self._pieces):
                yield self._pieces[at]
                at += 1
            if self.whole:
                return
            if self._cut:
                raise ClientLeftError("the client left before its body had arrived")
            await self._more()

    async def _more(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()


class Question:
    """What backends are asked: the terms, and the floats that belong to them."""

    __slots__ = ("body", "length", "terms")

    def __init__(self, terms: Terms, body: Body) -> None:
        self.terms = terms
        self.body = body
        self.length = terms.length
        """Vectors in the context."""

    def __repr__(self) -> str:
        return f"<Question of {self.length} vectors, {self.body}>"

    @property
    def head(self) -> bytes:
        """The JSON that stands before the tensor, the same for every attempt.

        Without the client's id and routing key, which are the gateway's affair, and for at least
        the ten neighbours that labels are judged by.
        """
        terms = self.terms
        return _head(terms.length, max(terms.top_k, KEPT_NEIGHBORS), terms.exclude_context)


@lru_cache(maxsize=1024)
def _head(length: int, top_k: int, exclude_context: bool) -> bytes:
    """Write it. Contexts of one length have the same, but for a few that ask for something else."""
    return write_head(Terms(length, top_k=top_k, exclude_context=exclude_context))
