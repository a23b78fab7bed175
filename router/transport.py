"""HTTP/1.1 to one replica: a pool of connections (`router/connection.py`).

Connections are kept and reused, the last used first, up to a number of them; who comes then waits,
in turn. A call that is cancelled closes its connection, and so does an answer that comes before the
request has been sent to its end. No redirect is followed, no proxy or cookie is known, nothing is
decompressed, and the only deadline is the caller's.

Why this is not a library's: ADR 0011.
"""

import asyncio
import functools
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from router.address import Address
from router.connection import Connection, Content, Reply, Stream, TransportError

__all__ = ["Content", "Reply", "Stream", "Transport", "TransportError", "write_lines"]

IDLE_S: Final = 15.0
"""How long an unused connection is kept: less than servers do."""
CONNECT_S: Final = 2.0
"""How long a connection may take to be made: a host that is gone says nothing at all."""
PORTS: Final = {"http": 80, "https": 443}


class Transport:
    """The connections to one replica. Made anywhere, used on one event loop."""

    def __init__(
        self,
        address: Address,
        *,
        connections: int,
        ca_file: Path | None = None,
        connect_s: float = CONNECT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._ca_file = ca_file
        self._connect_s = connect_s
        self._clock = clock
        self._connections = self._free = connections
        self._idle: list[Connection] = []
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._all: set[Connection] = set()
        self._closed = False
        self._firsts: dict[tuple[str, str], bytes] = {}

    def __repr__(self) -> str:
        return (
            f"<Transport {self._address.base}, {len(self._all)} connections, "
            f"{len(self._idle)} idle, {len(self._waiting)} waiting>"
        )

    @property
    def load(self) -> int:
        """Requests under way, those included that wait for a connection."""
        return self._connections - self._free + len(self._waiting)

    async def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | bytes,
        body: Content | None,
    ) -> Reply:
        """Send one request and read its answer. Raises TransportError.

        A stream's length stands in `headers`. Headers that are written already (`write_lines`) are
        all that there are: the body's length is among them.
        """
        if self._free and not self._waiting and not self._closed:
            self._free -= 1
        else:
            await self._enter()
        try:
            connection = self._kept() or await self._connect()
            head = _head(self._first(method, path), headers, body)
            reply = await connection.ask(head, body)
            if connection.reusable and not self._closed:
                connection.used_at = self._clock()
                self._idle.append(connection)
            else:
                connection.close()
            return reply
        finally:
            self._leave()

    def _first(self, method: str, path: str) -> bytes:
        """Give what every request to one path begins with. The paths are few, and all our own."""
        first = self._firsts.get((method, path))
        if first is None:
            first = self._firsts[method, path] = _write_first(self._address, method, path)
        return first

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        for connection in tuple(self._all):
            connection.close()
        await asyncio.sleep(0)  # so that the sockets are closed when this returns

    async def _enter(self) -> None:
        """Wait for a place, in turn."""
        if self._closed:
            raise TransportError("this gateway is closing")
        if self._free and not self._waiting:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._leave()  # it was given a place, and does not use it
            elif turn in self._waiting:  # `_leave` may have passed it over already
                self._waiting.remove(turn)
            raise

    def _leave(self) -> None:
        """Give the place to who has waited longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _kept(self) -> Connection | None:
        """Take an idle connection that has not been idle for long."""
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and self._clock() - connection.used_at < IDLE_S:
                return connection
            connection.close()
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        address = self._address
        connection = Connection(self._lost)
        self._all.add(connection)
        try:
            async with asyncio.timeout(self._connect_s):
                if address.socket is not None:
                    await loop.create_unix_connection(lambda: connection, address.socket)
                else:
                    scheme = address.base.partition(":")[0]
                    secure = _trust(self._ca_file) if scheme == "https" else None
                    await loop.create_connection(
                        lambda: connection, address.host, address.port or PORTS[scheme], ssl=secure
                    )
        except BaseException as error:
            self._all.discard(connection)
            connection.close()
            if isinstance(error, TimeoutError):
                raise TransportError(f"not connected within {self._connect_s:g} s") from error
            if isinstance(error, OSError):
                raise TransportError(str(error) or type(error).__name__) from error
            raise
        return connection

    def _lost(self, connection: Connection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)


def _head(
    first: bytes,
    headers: Mapping[str, str] | bytes,
    body: Content | None,
) -> bytes:
    """Write a request's head. Raises ValueError for a header that would be more than one."""
    if isinstance(headers, bytes):
        return b"%b%b\r\n" % (first, headers)
    own = b""
    if body is not None and not callable(body) and "content-length" not in headers:
        size = len(body) if isinstance(body, bytes) else sum(map(len, body))
        own = b"content-length: %d\r\n" % size
    return b"%b%b%b\r\n" % (first, write_lines(headers), own)


def write_lines(headers: Mapping[str, str]) -> bytes:
    """Write header lines. Raises ValueError for a value that would be more than one."""
    text = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if text.count("\n") != len(headers) or text.count("\r") != len(headers):
        raise ValueError(f"a header of {', '.join(headers)} holds a line break")
    return text.encode("latin-1")


def _write_first(address: Address, method: str, path: str) -> bytes:
    """Write what every request to one path begins with: its line, and the host."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    named = "localhost" if address.socket is not None else host
    port = f":{address.port}" if address.port else ""
    prefix = "" if address.socket is not None else _prefix(address)
    return f"{method} {prefix}{path} HTTP/1.1\r\nhost: {named}{port}\r\n".encode("latin-1")


def _prefix(address: Address) -> str:
    """Give the path that stands in the address itself."""
    _, _, rest = address.base.partition("://")
    _, slash, path = rest.partition("/")
    return f"{slash}{path}".rstrip("/")


@functools.cache
def _trust(ca_file: Path | None) -> ssl.SSLContext:
    """Read the certificates, once: it takes longer than all the rest of a start."""
    return ssl.create_default_context(cafile=ca_file)
