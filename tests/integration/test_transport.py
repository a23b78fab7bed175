"""Connections to a replica, against servers that are written out by hand on real sockets."""

import asyncio
import contextlib
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from gateway_rig import until

from router.address import read_address
from router.transport import Reply, Transport, TransportError

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Talks with each connection as `talk` says; `seen` is what arrived, `open` what is open."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.connections = 0
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self.talk(reader, writer)
        finally:
            self.open -= 1
            writer.close()


@contextlib.asynccontextmanager
async def talking(talk: Talk, *, connections: int = 4) -> AsyncIterator[tuple[Transport, Server]]:
    server = Server(talk)
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        transport = Transport(read_address(f"http://127.0.0.1:{port}"), connections=connections)
        try:
            yield transport, server
        finally:
            await transport.close()
            await until(lambda: not server.open, "the connections end")


async def head_of(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def request_of(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await head_of(reader)
    length = next(
        int(line.partition(b":")[2])
        for line in [*head.lower().split(b"\r\n"), b"content-length: 0"]
        if line.startswith(b"content-length:")
    )
    return head, await reader.readexactly(length)


def always(answer: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request_of(reader)
            writer.write(answer)

    return talk


async def post(transport: Transport, body: bytes = b"body") -> Reply:
    return await transport.send("POST", "/p", {"x-name": "value"}, body)


async def test_a_request_is_written_as_it_is_meant() -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await request_of(reader))
            writer.write(OK)

    async with talking(talk) as (transport, _):
        await transport.send("POST", "/p", {"x-name": "value"}, (b"one ", memoryview(b"two")))
        await transport.send("GET", "/q", {}, None)
    (posted, body), (got, nothing) = seen
    assert posted.split(b"\r\n")[0] == b"POST /p HTTP/1.1"
    assert posted.split(b"\r\n")[1].startswith(b"host: 127.0.0.1:")
    assert b"x-name: value" in posted
    assert b"content-length: 7" in posted
    assert (body, nothing) == (b"one two", b"")
    assert b"content-length" not in got


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (OK, b"ok"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK, b"ok"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
            b"ok",
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 503 Busy\r\nRetry-After: 3\r\ncontent-length: 0\r\n\r\n", b""),
    ],
)
async def test_answers_are_read_in_every_form_and_the_connection_is_kept(
    answer: bytes, body: bytes
) -> None:
    async with talking(always(answer)) as (transport, server):
        for _ in range(3):
            reply = await post(transport)
            assert reply.body == body
        assert server.connections == 1
        if reply.status == 503:
            assert reply.headers["retry-after"] == "3"


async def test_an_answer_that_arrives_byte_by_byte_is_one_answer() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        for number in OK:
            writer.write(bytes([number]))
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read()

    async with talking(talk) as (transport, _):
        assert (await post(transport)).body == b"ok"


async def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nto the end")

    async with talking(talk) as (transport, server):
        assert (await post(transport)).body == b"to the end"
        assert (await post(transport)).body == b"to the end"
        assert server.connections == 2


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"", "before any answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", "in the middle"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nha", "in the middle"),
        (b"SSH-2.0-OpenSSH_9\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 40_000 + b"\r\n", "the headers are longer"),
    ],
)
async def test_what_is_no_whole_answer_is_a_transport_error(answer: bytes, told: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(answer)

    async with talking(talk) as (transport, _):
        with pytest.raises(TransportError, match=told):
            await post(transport)


async def test_a_body_beyond_the_bound_is_not_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("router.connection.MOST_ANSWER", 1)
    async with talking(always(OK)) as (transport, _):
        with pytest.raises(TransportError, match="the body is longer"):
            await post(transport)


async def test_nobody_listens_is_a_transport_error() -> None:
    transport = Transport(read_address("http://127.0.0.1:1"), connections=1)
    with pytest.raises(TransportError, match=r"(?i)refused|connect"):
        await post(transport)
    assert repr(transport).endswith("0 connections, 0 idle, 0 waiting>")


async def test_what_nobody_asked_for_ends_the_connection_and_reaches_no_request() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(OK + b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray")
        await reader.read()

    async with talking(talk) as (transport, server):
        for _ in range(3):
            assert (await post(transport)).body == b"ok"
        assert server.connections == 3


async def test_a_replica_that_closes_after_its_answer_costs_a_new_connection_and_no_request() -> (
    None
):
    closing = OK.replace(b"OK\r\n", b"OK\r\nconnection: close\r\n", 1)
    async with talking(always(closing)) as (transport, server):
        for _ in range(3):
            assert (await post(transport)).body == b"ok"
        assert server.connections == 3


async def test_a_connection_that_was_idle_for_long_is_not_used_again() -> None:
    now = 0.0
    server = Server(always(OK))
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        address = read_address(f"http://127.0.0.1:{port}")
        transport = Transport(address, connections=2, clock=lambda: now)
        await post(transport)
        now = 14.0
        await post(transport)
        assert server.connections == 1
        now = 29.5
        await post(transport)
        assert server.connections == 2
        await transport.close()
        await until(lambda: not server.open, "the connections end")


async def test_no_more_connections_are_open_than_allowed_and_all_requests_get_their_turn() -> None:
    most = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most
        while True:
            _, body = await request_of(reader)
            most = max(most, server.open)
            writer.write(OK[:-2] + body)

    async with talking(talk, connections=2) as (transport, server):
        bodies = [b"%02d" % number for number in range(40)]
        replies = await asyncio.gather(*(post(transport, body) for body in bodies))
        assert [reply.body for reply in replies] == bodies
        assert most == 2


async def test_who_is_cancelled_closes_its_connection_and_gives_its_place_back() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            _, body = await request_of(reader)
            if body != b"hang":
                writer.write(OK)

    async with talking(talk, connections=2) as (transport, server):
        hanging = [asyncio.create_task(post(transport, b"hang")) for _ in range(2)]
        waiting = [asyncio.create_task(post(transport, b"hang")) for _ in range(3)]
        await until(lambda: server.open == 2, "both places are taken")
        for task in (*hanging, *waiting):
            task.cancel()
        ended = await asyncio.gather(*hanging, *waiting, return_exceptions=True)
        assert [type(end) for end in ended] == [asyncio.CancelledError] * 5
        await until(lambda: not server.open, "the connections end")
        assert [(await post(transport)).body for _ in range(5)] == [b"ok"] * 5
        assert repr(transport).endswith("1 connections, 1 idle, 0 waiting>")


async def test_a_body_goes_out_while_it_arrives_and_no_faster_than_it_is_read() -> None:
    piece, number = b"x" * 65_536, 64
    given = read = 0
    go = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        nonlocal given
        for _ in range(number):
            given += len(piece)
            yield piece

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal read
        await head_of(reader)
        await go.wait()
        while read < number * len(piece):
            read += len(await reader.read(65_536))
        writer.write(OK)
        await reader.read()

    async with talking(talk) as (transport, _):
        headers = {"content-length": str(number * len(piece))}
        asking = asyncio.create_task(transport.send("POST", "/p", headers, body))
        await until(lambda: given, "the sending begins")
        for _ in range(200):
            await asyncio.sleep(0)
        held_back = given < number * len(piece)
        go.set()
        assert (await asking).body == b"ok"
        assert read == number * len(piece)
        assert held_back or given <= 8 * 1024 * 1024  # what the kernel's buffers took


async def test_an_answer_before_the_end_of_the_body_ends_the_sending() -> None:
    stopped = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"beginning"
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 413 Too Long\r\ncontent-length: 0\r\n\r\n")
        await reader.read()

    async with talking(talk) as (transport, server):
        reply = await transport.send("POST", "/p", {"content-length": "100"}, body)
        assert reply.status == 413
        assert stopped.is_set()
        await until(lambda: not server.open, "the connection is not kept")


async def test_a_body_that_breaks_off_ends_the_call_with_its_own_error() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"beginning"
        raise LookupError("the client left")

    async with talking(always(OK)) as (transport, server):
        with pytest.raises(LookupError, match="the client left"):
            await transport.send("POST", "/p", {"content-length": "100"}, body)
        await until(lambda: not server.open, "the connection is not kept")


@pytest.mark.parametrize("value", ["a\r\nx-more: b", "a\nb", "a\rb"])
async def test_no_header_can_become_two(value: str) -> None:
    async with talking(always(OK)) as (transport, _):
        with pytest.raises(ValueError, match="line break"):
            await transport.send("POST", "/p", {"x-name": value}, b"")
        assert (await post(transport)).status == 200


async def test_a_closed_transport_takes_no_request_and_ends_those_under_way() -> None:
    async def talk(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with talking(talk) as (transport, server):
        asking = asyncio.create_task(post(transport))
        await until(lambda: server.open, "the request is under way")
        await transport.close()
        with pytest.raises(TransportError):
            await asking
        with pytest.raises(TransportError, match="closing"):
            await post(transport)


async def test_a_unix_socket_is_an_address_too(tmp_path: Path) -> None:
    server = Server(always(OK))
    path = tmp_path / "s"
    async with await asyncio.start_unix_server(server.serve, path):
        transport = Transport(read_address(f"unix:{path}"), connections=1)
        assert (await post(transport)).body == b"ok"
        await transport.close()
        await until(lambda: not server.open, "the connections end")


async def test_https_trusts_the_authority_that_it_is_given_and_no_other(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = Server(always(OK))
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context) as listening:
        address = read_address(f"https://localhost:{listening.sockets[0].getsockname()[1]}")
        trusting = Transport(address, connections=1, ca_file=certificate)
        assert (await post(trusting, b"x" * 300_000)).body == b"ok"
        await trusting.close()
        doubting = Transport(address, connections=1)
        with pytest.raises(TransportError, match="certificate"):
            await post(doubting)
        await doubting.close()
        await until(lambda: not server.open, "the connections end")


async def test_a_host_that_says_nothing_is_given_up_long_before_the_deadline() -> None:
    with contextlib.ExitStack() as stack:
        deaf = stack.enter_context(socket.socket())
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(3):  # its queue is full: further connections are not even refused
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        address = read_address(f"http://127.0.0.1:{deaf.getsockname()[1]}")
        transport = Transport(address, connections=1, connect_s=0.1)
        for _ in range(2):  # and its place was given back
            with pytest.raises(TransportError, match=r"not connected within 0\.1 s"):
                await post(transport)
        await transport.close()
