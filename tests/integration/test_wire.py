"""The server's side of a connection, on real sockets; the clock is the test's."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from gateway_rig import running, until
from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope, Send

from backends.serving import wire
from backends.serving.bounds import Guard, Limits

LIMITS = Limits(
    head_s=10, body_s=20, idle_s=5, answer_s=20, head_bytes=8192, held_bytes=1 << 20, connections=50
)
CHUNKED = b"transfer-encoding: chunked\r\n"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Tell what came; `/early` answers at once and closes, `/keep` at once and does not."""
    if scope["type"] != "http":
        return
    length = 0
    early = scope["path"] in {"/early", "/keep"}
    more = not early
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            LEFT.append(scope["path"])
            return
        length += len(message["body"])
        more = message["more_body"]
    if scope["path"] == "/hold":
        await HOLD.wait()
    names = [name.decode() for name, _ in scope["headers"]]
    body = json.dumps({"path": scope["path"], "length": length, "headers": names}).encode()
    if scope["path"] == "/big":
        body = bytes(8 << 20)
    headers = [(b"content-length", str(len(body)).encode())]
    if scope["path"] == "/early":
        headers.append((b"connection", b"close"))
    status = 413 if early else 200
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


LEFT: list[str] = []
HOLD = asyncio.Event()


class Server:
    def __init__(self, url: str, guard: Guard, clock: Clock, registry: CollectorRegistry) -> None:
        self.port = int(url.rpartition(":")[2])
        self.guard, self.clock, self.registry = guard, clock, registry

    def later(self, seconds: float) -> None:
        """Let time pass, and the sweep look."""
        self.clock.now += seconds
        self.guard.sweep()

    def refused(self, why: str) -> float:
        name = "http_refused_connections_total"
        return self.registry.get_sample_value(name, {"why": why}) or 0.0


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    clock, registry = Clock(), CollectorRegistry()
    guard = Guard(LIMITS, registry=registry, clock=clock, new_request_id=lambda: "a-name")
    LEFT.clear()
    async with running(app, guard) as url:
        yield Server(url, guard, clock, registry)
        await until(lambda: not guard.connections, "every connection is closed")
        assert guard.held == 0


class Wire:
    """A client that sends bytes and reads answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        async with asyncio.timeout(5):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:-2])
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(head[0].split()[1]), headers, json.loads(body) if body else None

    async def closed(self) -> bytes:
        """Return what comes before the server closes."""
        async with asyncio.timeout(5):
            return await self.reader.read()


@contextlib.asynccontextmanager
async def wired(server: Server) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


def post(path: str = "/", *lines: str, body: bytes = b"") -> bytes:
    head = [f"POST {path} HTTP/1.1", "host: a", *lines]
    return "\r\n".join([*head, "", ""]).encode() + body


# --- sound requests -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        post("/a", "content-length: 5", body=b"hello"),
        post("/a", "transfer-encoding: chunked", body=b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        post("/a", "transfer-encoding: Chunked ", body=b'5;x="y"\r\nhello\r\n0\r\n\r\n'),
        b"\r\n" + post("/a", "content-length: 5", body=b"hello"),
        b"POST http://elsewhere/a HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
    ],
)
async def test_sound_requests_pass_one_after_the_other(server: Server, sent: bytes) -> None:
    async with wired(server) as client:
        for _ in range(3):
            await client.send(sent)
            status, _, told = await client.answer()
            assert (status, told["path"], told["length"]) == (200, "/a", 5)


async def test_requests_that_come_at_once_are_answered_in_their_order(server: Server) -> None:
    body = b"x" * 60_000
    sent = [post(f"/{i}", "content-length: 60000", body=body) for i in range(8)]
    async with wired(server) as client:
        sending = asyncio.create_task(client.send(b"".join(sent)))
        told = [(await client.answer())[2] for _ in sent]
        await sending
    assert [(one["path"], one["length"]) for one in told] == [(f"/{i}", 60_000) for i in range(8)]


async def test_trailers_never_join_the_headers(server: Server) -> None:
    body = b"5\r\nhello\r\n0\r\nauthorization: Bearer x\r\n\r\n"
    async with wired(server) as client:
        await client.send(post("/", "transfer-encoding: chunked", body=body[:-2]))
        await client.send(body[-2:])
        _, _, told = await client.answer()
    assert told["headers"] == ["host", "transfer-encoding"]


# --- ambiguous framing --------------------------------------------------------------------------

SMUGGLED = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
AMBIGUOUS: dict[str, tuple[int, bytes]] = {
    "CL and TE": (
        400,
        post("/", "content-length: 5", "transfer-encoding: chunked", body=b"0\r\n\r\n"),
    ),
    "TE and CL": (
        400,
        post("/", "transfer-encoding: chunked", "content-length: 5", body=b"0\r\n\r\n"),
    ),
    "CL twice": (400, post("/", "content-length: 5", "content-length: 6", body=b"hello")),
    "CL twice alike": (400, post("/", "content-length: 5", "content-length: 5", body=b"hello")),
    "CL list": (400, post("/", "content-length: 5, 5", body=b"hello")),
    "CL signed": (400, post("/", "content-length: +5", body=b"hello")),
    "CL hexadecimal": (400, post("/", "content-length: 0x5", body=b"hello")),
    "CL empty": (400, post("/", "content-length:", body=b"hello")),
    "CL beyond 64 bits": (400, post("/", f"content-length: {1 << 70}", body=b"hello")),
    "TE after another": (
        501,
        post("/", "transfer-encoding: gzip, chunked", body=b"0\r\n\r\n"),
    ),
    "TE identity": (501, post("/", "transfer-encoding: identity", body=b"hello")),
    "TE identity, chunked": (
        501,
        post("/", "transfer-encoding: identity, chunked", body=b"0\r\n\r\n"),
    ),
    "TE chunked, identity": (400, post("/", "transfer-encoding: chunked, identity")),
    "TE xchunked": (501, post("/", "transfer-encoding: xchunked", body=b"0\r\n\r\n")),
    "TE twice": (
        400,
        post("/", "transfer-encoding: chunked", "transfer-encoding: chunked", body=b"0\r\n\r\n"),
    ),
    "TE in HTTP/1.0": (400, b"POST / HTTP/1.0\r\n" + CHUNKED + b"\r\n0\r\n\r\n"),
    "bare LF": (400, b"POST / HTTP/1.1\nhost: a\ncontent-length: 0\n\n"),
    "bare LF after a header": (
        400,
        b"POST / HTTP/1.1\r\nhost: a\r\na: b\ncontent-length: 0\r\n\r\n",
    ),
    "bare CR": (400, b"POST / HTTP/1.1\r\nhost: a\r\na: b\rcontent-length: 0\r\n\r\n"),
    "CR in a value": (400, b"POST / HTTP/1.1\r\nhost: a\r\na: b\rc\r\n\r\n"),
    "NUL in a value": (400, b"POST / HTTP/1.1\r\nhost: a\r\na: b\0c\r\n\r\n"),
    "space before the colon": (400, post("/", "content-length : 5", body=b"hello")),
    "folded line": (400, post("/", "a: b", " content-length: 5", body=b"hello")),
    "chunk size with LF": (400, post("/", "transfer-encoding: chunked", body=b"5\nhello\r\n")),
    "chunk size 0x5": (400, post("/", "transfer-encoding: chunked", body=b"0x5\r\nhello\r\n")),
    "chunk size -5": (400, post("/", "transfer-encoding: chunked", body=b"-5\r\nhello\r\n")),
    "chunk size beyond 64 bits": (
        400,
        post("/", "transfer-encoding: chunked", body=b"f" * 17 + b"\r\nhello\r\n"),
    ),
    "chunk longer than it says": (
        400,
        post("/", "transfer-encoding: chunked", body=b"5\r\nhelloXX0\r\n\r\n"),
    ),
    "no Host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"),
    "HTTP/2.0": (505, b"GET / HTTP/2.0\r\nhost: a\r\n\r\n"),
    "HTTP/0.9": (505, b"GET /\r\n\r\n"),
    "HTTP/1.2": (400, b"GET / HTTP/1.2\r\nhost: a\r\n\r\n"),
    "Upgrade with a body": (
        501,
        post("/", "connection: upgrade", "upgrade: h2c", "content-length: 5", body=b"hello"),
    ),
    "CONNECT": (400, b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n"),
    "HTTP/2's preface": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "bytes beyond ASCII in the path": (400, b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n"),
    "no method": (400, b"FOO / HTTP/1.1\r\nhost: a\r\n\r\n"),
    "TLS": (400, bytes.fromhex("16030100a5010000a10303")),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_ambiguous_framing_is_refused_in_json_and_nothing_after_it_is_read(
    server: Server, name: str
) -> None:
    expected, sent = AMBIGUOUS[name]
    async with wired(server) as client:
        await client.send(sent + SMUGGLED.encode())
        status, headers, told = await client.answer()
        assert (status, list(told), headers["x-request-id"]) == (expected, ["error"], "a-name")
        assert headers["connection"] == "close"
        assert await client.closed() == b""
    assert server.refused("framing") == 1


async def test_an_upgrade_without_a_body_is_ignored_and_the_connection_ends(server: Server) -> None:
    async with wired(server) as client:
        await client.send(
            b"GET /a HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
        )
        status, headers, told = await client.answer()
        assert (status, told["path"], headers["connection"]) == (200, "/a", "close")
        assert await client.closed() == b""


async def test_a_refusal_is_never_taken_for_the_answer_of_the_request_before(
    server: Server,
) -> None:
    async with wired(server) as client:
        await client.send(post("/first", "content-length: 0") + b"nonsense\r\n\r\n")
        status, _, told = await client.answer()
        assert (status, told["path"]) == (200, "/first")
        assert await client.closed() == b""


# --- time ---------------------------------------------------------------------------------------


async def test_a_connection_that_says_nothing_is_closed(server: Server) -> None:
    async with wired(server) as client:
        await until(lambda: server.guard.connections, "the server has it")
        server.later(9.9)
        assert server.refused("head") == 0
        server.later(0.2)
        assert await client.closed() == b""
    assert server.refused("head") == 1


@pytest.mark.parametrize("before", [b"", post("/", "content-length: 0"), b"\r\n\r\n"])
async def test_a_head_that_does_not_end_is_408(server: Server, before: bytes) -> None:
    async with wired(server) as client:
        await client.send(before)
        if before.strip():
            await client.answer()
        for piece in (b"POST / HTTP/1.1\r\n", b"host: a\r\n", b"x: "):
            await client.send(piece)
            await asyncio.sleep(0.02)  # until the server has read it
            server.later(3.4)
        assert (await client.answer())[0] == 408
        assert await client.closed() == b""


async def test_empty_lines_do_not_keep_a_connection_alive(server: Server) -> None:
    async with wired(server) as client:
        await client.send(post("/", "content-length: 0"))
        await client.answer()
        for _ in range(4):
            await client.send(b"\r\n")
            await asyncio.sleep(0.02)
            server.later(3)
        assert (await client.answer())[0] == 408


@pytest.mark.parametrize("framing", ["content-length: 50", "transfer-encoding: chunked"])
async def test_a_body_that_does_not_end_is_408_and_its_request_is_told(
    server: Server, framing: str
) -> None:
    async with wired(server) as client:
        await client.send(post("/slow", framing))
        for _ in range(5):
            await client.send(b"1\r\nx\r\n")
            await asyncio.sleep(0.02)
            server.later(4.2)
        assert (await client.answer())[0] == 408
        assert await client.closed() == b""
        await until(lambda: LEFT == ["/slow"], "the application sees the client leave")
    assert server.refused("body") == 1


async def test_an_answer_that_nobody_reads_is_cut(server: Server) -> None:
    async with wired(server) as client:
        await client.send(post("/big", "content-length: 0"))
        (connection,) = await _one(server)
        await until(lambda: connection.flow.write_paused, "the socket is full")
        server.later(0.1)
        server.later(20.1)
        await until(lambda: not server.guard.connections, "the connection is cut")
    assert server.refused("unread") == 1


async def _one(server: Server) -> list[wire.Connection]:
    await until(lambda: server.guard.connections, "the server has it")
    return [cast("wire.Connection", each) for each in server.guard.connections]


async def test_after_the_rest_of_a_refused_body_the_connection_may_idle_out(
    server: Server,
) -> None:
    async with wired(server) as client:
        await client.send(post("/keep", "content-length: 5"))
        assert (await client.answer())[0] == 413
        await client.send(b"hello")
        await client.send(post("/next", "content-length: 0"))
        assert (await client.answer())[2]["path"] == "/next"
        server.later(5.1)
        assert await client.closed() == b""


async def test_an_idle_connection_is_closed_but_none_whose_answer_takes_long(
    server: Server,
) -> None:
    HOLD.clear()
    async with wired(server) as client:
        await client.send(post("/hold", "content-length: 0"))
        (connection,) = await _one(server)
        await until(lambda: connection.cycle and not connection.cycle.more_body, "it is read")
        server.later(19)
        HOLD.set()
        assert (await client.answer())[2]["path"] == "/hold"
        server.later(4.9)
        await client.send(post("/next", "content-length: 0"))
        assert (await client.answer())[2]["path"] == "/next"
        server.later(5.1)
        assert await client.closed() == b""


# --- bytes and number ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        post("/", *(f"x-{i}: {'v' * 100}" for i in range(90))),
        post("/", f"x: {'v' * 9000}"),
        post("/?" + "q" * 9000),
        b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"v" * 20_000,
        post("/", "transfer-encoding: chunked", body=b"1\r\nx\r\n0\r\nx: " + b"v" * 20_000),
        post("/", "transfer-encoding: chunked", body=b"1;" + b"v" * 20_000),
    ],
    ids=["many headers", "a long header", "a long URL", "no end", "a trailer", "a chunk extension"],
)
async def test_a_head_or_a_trailer_that_is_too_large_is_431(server: Server, sent: bytes) -> None:
    async with wired(server) as client:
        for start in range(0, len(sent), 4000):
            await client.send(sent[start : start + 4000])
            await asyncio.sleep(0.005)
        status, _, told = await client.answer()
        assert status == 431
        assert told == {"error": "the request's URL and headers are longer than 8192 bytes"}


async def test_stalled_bodies_share_one_budget_and_short_ones_always_have_room(
    server: Server,
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        stalled = [await stack.enter_async_context(wired(server)) for _ in range(3)]
        for client in stalled:
            await client.send(post("/stalled", "content-length: 9999999"))
        for client in stalled[:2]:
            await client.send(bytes(500_000))
        await until(lambda: server.guard.held == 1_000_000, "two bodies are held")
        short = await stack.enter_async_context(wired(server))
        await short.send(post("/short", "content-length: 200000", body=bytes(200_000)))
        assert (await short.answer())[0] == 200
        await stalled[2].send(bytes(300_000))
        status, headers, told = await stalled[2].answer()
        assert (status, headers["retry-after"]) == (503, "1")
        assert told == {"error": "too many bytes are being received at once: try again"}
        assert server.refused("budget") == 1
        assert server.guard.held == 1_000_000
        await until(lambda: LEFT == ["/stalled"], "the application sees it leave")


async def test_one_connection_too_many_is_503(server: Server) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(LIMITS.connections):
            await stack.enter_async_context(wired(server))
        await until(lambda: len(server.guard.connections) == 50, "all are open")
        more = await stack.enter_async_context(wired(server))
        assert (await more.answer())[0] == 503
        assert await more.closed() == b""
    assert server.refused("connections") == 1


# --- refusing without reading -------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_client_that_sends_on_after_a_refusal_gets_its_answer(
    server: Server, chunked: bool
) -> None:
    framing = "transfer-encoding: chunked" if chunked else "content-length: 50000000"
    piece = b"10000\r\n" + bytes(1 << 16) + b"\r\n" if chunked else bytes(1 << 16)
    async with wired(server) as client:
        await client.send(post("/early", framing))
        for _ in range(300):  # 20 MB, more than sockets hold
            await client.send(piece)
        status, headers, told = await client.answer()
        assert (status, told["length"], headers["connection"]) == (413, 0, "close")
        assert await client.closed() == b""
        assert server.guard.held == 0
        server.later(2.1)
        await until(lambda: not server.guard.connections, "the server has closed its side too")


async def test_who_waits_for_100_continue_gets_a_refusal_at_once_and_nothing_is_read_after_it(
    server: Server,
) -> None:
    async with wired(server) as client:
        await client.send(post("/keep", "content-length: 9", "expect: 100-continue"))
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (413, "close")
        await client.send(SMUGGLED.encode())
        assert await client.closed() == b""
        server.later(2.1)


async def test_who_waits_for_100_continue_is_told_to_go_on(server: Server) -> None:
    async with wired(server) as client:
        for _ in range(2):
            await client.send(post("/a", "content-length: 5", "expect: 100-continue"))
            assert (await client.answer())[0] == 100
            await client.send(b"hello")
            status, _, told = await client.answer()
            assert (status, told["length"]) == (200, 5)


# --- every instant ------------------------------------------------------------------------------


async def test_a_client_may_leave_at_any_byte(server: Server) -> None:
    whole = post("/x", "transfer-encoding: chunked", body=b"5\r\nhello\r\n0\r\na: b\r\n\r\n")
    for cut in range(0, len(whole), 3):
        async with wired(server) as client:
            await client.send(whole[:cut])
    await until(lambda: not server.guard.connections, "every connection is forgotten")
    server.later(100)


async def test_the_wait_for_the_handler_starts_when_the_head_is_whole() -> None:
    seen: list[float] = []

    async def tell(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            seen.append(scope["state"][wire.ARRIVED])
            await app(scope, receive, send)

    clock = Clock()
    guard = Guard(LIMITS, clock=clock)
    async with running(tell, guard) as url:
        server = Server(url, guard, clock, CollectorRegistry())
        async with wired(server) as client:
            await client.send(b"GET / HTTP/1.1\r\n")
            (connection,) = await _one(server)
            await until(lambda: connection.headers is not None, "the first line is read")
            clock.now += 5
            await client.send(b"host: a\r\n\r\n")
            await client.answer()
    assert seen == [1005.0]
