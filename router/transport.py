"""HTTP/1.1 to one replica. Everything that is aiohttp's stays in this file.

Connections are kept and reused, up to a number of them; who comes then waits. A call that is
cancelled closes its connection, and so does an answer that comes before the request has been sent
to its end. No redirect is followed, no proxy or cookie is known, nothing is decompressed, and the
only deadline is the caller's.
"""

import functools
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
from yarl import URL

from router.address import Address
from router.body import Piece

Stream = Callable[[], AsyncIterator[Piece]]
IDLE_S: Final = 15.0
"""How long an unused connection is kept: less than servers do."""


class TransportError(Exception):
    """The replica was not reached, or the connection broke."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. The names of `headers` are found in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """The connections to one replica. Made anywhere, used on one event loop."""

    def __init__(self, address: Address, *, connections: int, ca_file: Path | None = None) -> None:
        self._address = address
        self._base = URL(address.base, encoded=True)
        self._connections = connections
        self._ca_file = ca_file
        self._urls: dict[str, URL] = {}
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | Stream | None
    ) -> Reply:
        """Send one request and read its answer. Raises TransportError.

        A stream's length stands in `headers`.
        """
        session = self._session or self._open()
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = URL(self._address.base + path, encoded=True)
        data = body() if callable(body) else body
        try:
            async with session.request(
                method, url, data=data, headers=headers, allow_redirects=False
            ) as answer:
                return Reply(answer.status, answer.headers, await answer.read())
        except (aiohttp.ClientError, OSError) as error:
            raise TransportError(str(error) or type(error).__name__) from error

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        """Make the session: the library wants a running loop."""
        if self._address.socket is not None:
            connector: aiohttp.BaseConnector = aiohttp.UnixConnector(
                self._address.socket, limit=self._connections, keepalive_timeout=IDLE_S
            )
        else:
            trust = _trust(self._ca_file) if self._base.scheme == "https" else True
            connector = aiohttp.TCPConnector(
                limit=self._connections, keepalive_timeout=IDLE_S, ssl=trust
            )
        self._session = aiohttp.ClientSession(
            connector=connector,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept", "Content-Type"),
        )
        return self._session


@functools.cache
def _trust(ca_file: Path | None) -> ssl.SSLContext:
    """Read the certificates, once: it takes longer than all the rest of a start."""
    return ssl.create_default_context(cafile=ca_file)
