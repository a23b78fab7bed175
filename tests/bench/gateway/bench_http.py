"""Three libraries' HTTP clients and our own behind one face, each set as a gateway would set it.

No redirects, no proxy of the environment, no decompression, no timeout of its own (a caller's
`asyncio.timeout` cancels), a pool of a given size, one certificate authority to trust. A client is
imported when it is made, so that one process measures one client.
"""

import ssl
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

Body = bytes | AsyncIterator[bytes]
Headers = Mapping[str, str]


class Client(Protocol):
    """What the bench asks of a client. Paths begin with "/" and follow `base`."""

    def __init__(
        self, base: str, *, connections: int, unix: str | None = None, ca: Path | None = None
    ) -> None:
        """Raise NotImplementedError for what the library cannot do."""

    @abstractmethod
    async def post(self, path: str, body: Body, headers: Headers) -> tuple[int, bytes]:
        """Send a body, bytes or a stream; give the status and the whole answer."""

    @abstractmethod
    def parts(self, path: str) -> AsyncIterator[bytes]:
        """Get `path`, and give the answer's parts as they come."""

    @abstractmethod
    async def close(self) -> None:
        """Close all connections."""


class Pyreqwest(Client):
    """hyper and reqwest in Rust: its own thread does the IO."""

    def __init__(
        self, base: str, *, connections: int, unix: str | None = None, ca: Path | None = None
    ) -> None:
        from pyreqwest.client import ClientBuilder  # noqa: PLC0415 - see above

        builder = ClientBuilder().no_proxy().follow_redirects(False)
        if unix:
            if not hasattr(builder, "unix_socket"):
                raise NotImplementedError("no Unix sockets")
            builder = builder.unix_socket(unix)
        if ca:
            builder = builder.add_root_certificate_pem(ca.read_bytes())
        builder = builder.gzip(False).brotli(False).zstd(False).deflate(False).referer(False)
        builder = builder.max_connections(connections).pool_max_idle_per_host(connections)
        self._client = builder.build()
        self._base = base

    async def post(self, path: str, body: Body, headers: Headers) -> tuple[int, bytes]:
        request = self._client.post(self._base + path).headers(dict(headers))
        request = request.body_bytes(body) if isinstance(body, bytes) else request.body_stream(body)
        answer = await request.build().send()
        return answer.status, bytes(await answer.bytes())

    async def parts(self, path: str) -> AsyncIterator[bytes]:
        async with (
            self._client.get(self._base + path)
            .streamed_read_buffer_limit(0)
            .build_streamed() as answer
        ):
            while (part := await answer.body_reader.read_chunk()) is not None:
                yield bytes(part)

    async def close(self) -> None:
        await self._client.close()


class Aiohttp(Client):
    """asyncio transports with a parser in C."""

    def __init__(
        self, base: str, *, connections: int, unix: str | None = None, ca: Path | None = None
    ) -> None:
        import aiohttp  # noqa: PLC0415

        trust: Any = ssl.create_default_context(cafile=str(ca)) if ca else True
        connector = (
            aiohttp.UnixConnector(unix, limit=connections)
            if unix
            else aiohttp.TCPConnector(limit=connections, ssl=trust)
        )
        self._session = aiohttp.ClientSession(
            base,
            connector=connector,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
        )

    async def post(self, path: str, body: Body, headers: Headers) -> tuple[int, bytes]:
        sending = self._session.post(path, data=body, headers=headers, allow_redirects=False)
        async with sending as answer:
            return answer.status, await answer.read()

    async def parts(self, path: str) -> AsyncIterator[bytes]:
        async with self._session.get(path) as answer:
            async for part in answer.content.iter_any():
                yield part

    async def close(self) -> None:
        await self._session.close()


class Httpx2(Client):
    """The maintained continuation of httpx: pure Python over anyio."""

    def __init__(
        self, base: str, *, connections: int, unix: str | None = None, ca: Path | None = None
    ) -> None:
        import httpx2  # noqa: PLC0415

        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client = httpx2.AsyncClient(
            base_url=base,
            timeout=None,
            trust_env=False,
            transport=httpx2.AsyncHTTPTransport(
                limits=limits,
                uds=unix,
                trust_env=False,
                verify=ssl.create_default_context(cafile=str(ca)) if ca else True,
            ),
        )

    async def post(self, path: str, body: Body, headers: Headers) -> tuple[int, bytes]:
        answer = await self._client.post(path, content=body, headers=headers)
        return answer.status_code, answer.content

    async def parts(self, path: str) -> AsyncIterator[bytes]:
        async with self._client.stream("GET", path) as answer:
            async for part in answer.aiter_raw():
                yield part

    async def close(self) -> None:
        await self._client.aclose()


class Turnout(Client):
    """`router/transport.py`, whose answers are read whole."""

    def __init__(
        self, base: str, *, connections: int, unix: str | None = None, ca: Path | None = None
    ) -> None:
        from router.address import read_address  # noqa: PLC0415
        from router.transport import Transport  # noqa: PLC0415

        address = read_address(f"unix:{unix}" if unix else base)
        self._transport = Transport(address, connections=connections, ca_file=ca)

    async def post(self, path: str, body: Body, headers: Headers) -> tuple[int, bytes]:
        content = body if isinstance(body, bytes) else lambda: body
        answer = await self._transport.send("POST", path, headers, content)
        return answer.status, answer.body

    def parts(self, path: str) -> AsyncIterator[bytes]:
        raise NotImplementedError(f"{path} is read whole")

    async def close(self) -> None:
        await self._transport.close()


CLIENTS: Final[dict[str, type[Client]]] = {
    "pyreqwest": Pyreqwest,
    "aiohttp": Aiohttp,
    "httpx2": Httpx2,
    "turnout": Turnout,
}
