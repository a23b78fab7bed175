"""The short way past the application, on real sockets: what takes it, and that nobody can tell."""

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest
from gateway_rig import StubBackend, body, context, gateway, running, until
from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope, Send

from backends.protocol import Request, write_request
from backends.serving import direct
from backends.serving.bounds import Guard, Limits
from backends.serving.direct import Answer, Call, Work


class Server:
    """One path, `/p`, whose handler says what it does with a body; an application behind it."""

    def __init__(self) -> None:
        self.guard = Guard(Limits(), registry=CollectorRegistry())
        self.guard.direct = {b"/p": self.take}
        self.seen: list[tuple[str, bytes]] = []
        self.hold = asyncio.Event()
        self.cancelled = 0
        self.port = 0

    def take(self, call: Call) -> Work | None:
        whole = call.body()
        if whole == b"leave":
            return None
        if whole == b"break":
            raise RuntimeError("a handler broke")
        call.request_id = "a-name"
        return self.work(call, whole)

    async def work(self, call: Call, whole: bytes) -> Answer:
        self.seen.append(("short", whole))
        try:
            if whole == b"hold!":
                await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled += call.disconnected
            raise
        if whole == b"fail!":
            raise RuntimeError("the work broke")
        return Answer(200, b"x-way: short\r\n", whole)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        whole, more = b"", True
        while more:
            message = await receive()
            whole += message.get("body", b"")
            more = message.get("more_body", False)
        self.seen.append(("long", whole))
        headers = [(b"x-way", b"long"), (b"content-length", b"%d" % len(whole))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": whole})

    async def ask(self, *pieces: bytes) -> bytes:
        """Send pieces, each when the one before has arrived; return all that comes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.005)
            return await asyncio.wait_for(reader.read(), 5)
        finally:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    one = Server()
    async with running(one, one.guard) as url:
        one.port = int(url.rpartition(":")[2])
        yield one
        one.hold.set()
        await until(lambda: not one.guard.connections, "every connection is closed")
        assert one.guard.held == 0


def post(content: bytes, *, path: str = "/p", more: bytes = b"", last: bool = True) -> bytes:
    closing = b"connection: close\r\n" if last else b""
    head = b"POST %b HTTP/1.1\r\nhost: a\r\n%b%b" % (path.encode(), closing, more)
    return head + b"content-length: %d\r\n\r\n%b" % (len(content), content)


CHUNKED = (
    b"POST /p HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n0\r\n\r\n"
)


async def test_an_answer_of_the_short_way_has_the_servers_headers_and_its_requests_name(
    server: Server,
) -> None:
    answer = await server.ask(post(b"hello"))
    head, _, content = answer.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    names = [line.partition(b": ")[0] for line in lines]
    assert (first, content) == (b"HTTP/1.1 200 OK", b"hello")
    expected = {b"server", b"date", b"x-way", b"x-request-id", b"content-length", b"connection"}
    assert set(names) == expected
    assert len(names) == len(expected)
    assert b"x-request-id: a-name" in lines


@pytest.mark.parametrize(
    "sent",
    [
        post(b"hello", path="/p?q"),
        post(b"hello", path="/%70"),
        post(b"hello", path="http://elsewhere/p"),
        post(b"hello").replace(b"POST", b"PUT"),
        post(b"hello", more=b"expect: 100-continue\r\n"),
        post(b"leave"),
        post(b"break"),
        CHUNKED,
        post(bytes(300_000)),
    ],
    ids=["query", "escaped", "absolute", "put", "expect", "left", "broken", "chunked", "long"],
)
async def test_what_is_not_plain_or_is_left_reaches_the_application_whole(
    server: Server, sent: bytes
) -> None:
    answer = await server.ask(sent)
    ((way, whole),) = server.seen
    assert way == "long"
    assert b"x-way: long" in answer
    assert answer.endswith(whole)
    assert len(whole) in {5, 300_000}


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a moment be long: on a busy machine 20 ms pass between two pieces."""
    monkeypatch.setattr(direct, "MOMENT_S", 5.0)


@pytest.mark.usefixtures("patient")
async def test_a_body_in_pieces_is_waited_for_a_moment(server: Server) -> None:
    head, content = post(b"hello")[:-5], b"hello"
    assert b"x-way: short" in await server.ask(head, content[:2], content[2:])


async def test_a_body_that_stalls_is_the_applications_from_its_first_byte(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(post(b"hello")[:-3])
    await asyncio.sleep(0.1)  # the moment is over
    writer.write(b"llo")
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert server.seen == [("long", b"hello")]
    assert answer.endswith(b"hello")


async def test_a_client_that_leaves_ends_the_work(server: Server) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(post(b"hold!", last=False))
    await until(lambda: server.seen, "the work has begun")
    writer.transport.abort()
    await until(lambda: server.cancelled, "the work was cancelled")


async def test_a_client_that_leaves_in_the_middle_of_its_body_costs_nothing(server: Server) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(post(b"hello", last=False)[:-3])
    await until(lambda: server.guard.held, "some of it is there")
    writer.transport.abort()
    await until(lambda: not server.guard.connections, "the connection is closed")
    assert server.guard.held == 0
    assert server.seen == []


async def test_work_that_breaks_is_answered_with_500(server: Server) -> None:
    answer = await server.ask(post(b"fail!"))
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert answer.endswith(b'{"error": "internal error"}')


@pytest.mark.parametrize("waits", [False, True])
async def test_requests_that_come_at_once_are_answered_in_turn(
    server: Server, *, waits: bool
) -> None:
    first = b"hold!" if waits else b"hello"
    sent = post(first, last=False) + post(b"two", last=False) + post(b"three", path="/q")
    asking = asyncio.create_task(server.ask(sent))
    await until(lambda: server.seen, "the first is under way")
    server.hold.set()
    answer = await asking
    ends = [answer.index(content) for content in (first, b"two", b"three")]
    assert ends == sorted(ends)
    assert [whole for _, whole in server.seen] == [first, b"two", b"three"]
    assert [way for way, _ in server.seen] == ["short", "long" if waits else "short", "long"]


async def test_a_server_that_leaves_closes_the_connection_after_the_answer(server: Server) -> None:
    server.guard.leaving = True
    assert b"connection: close" in await server.ask(post(b"hello", last=False))


# --- long bodies ----------------------------------------------------------------------------------

LONG = bytes(range(256)) * 4096
"""1 MiB, of which no two neighbours are alike."""


@pytest.fixture
def roomy(server: Server) -> Server:
    server.guard.direct_bytes = len(LONG)
    return server


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("ends", [(0,), (1,), (300_000,), (5, 600_000), (len(LONG) - 1,)])
async def test_a_long_body_is_read_to_where_it_stays_and_the_next_request_after_it(
    roomy: Server, ends: tuple[int, ...]
) -> None:
    head = post(LONG, last=False)[: -len(LONG)]
    borders = [0, *ends, len(LONG)]
    pieces = [LONG[begin:end] for begin, end in pairwise(borders)]
    pieces[-1] += post(b"next", last=False) + post(LONG, more=b"x-more: yes\r\n")
    answer = await roomy.ask(head, *pieces)
    assert answer.count(b"x-way: short") == 3
    assert roomy.seen == [("short", LONG), ("short", b"next"), ("short", LONG)]


@pytest.mark.parametrize("first", [1, 700_000])
async def test_a_long_body_that_stalls_is_the_applications_from_its_first_byte(
    roomy: Server, first: int
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", roomy.port)
    sent = post(LONG)
    writer.write(sent[: first - len(LONG)])
    await asyncio.sleep(0.1)  # the moment is over
    writer.write(sent[first - len(LONG) :])
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert roomy.seen == [("long", LONG)]
    assert answer.endswith(LONG)


async def test_a_client_that_leaves_in_the_middle_of_a_long_body_costs_nothing(
    roomy: Server,
) -> None:
    for way in ("abort", "close"):
        _, writer = await asyncio.open_connection("127.0.0.1", roomy.port)
        writer.write(post(LONG, last=False)[:-5])
        await until(lambda: roomy.guard.held > len(LONG) / 2, "most of it is there")
        getattr(writer.transport, way)()
        await until(lambda: not roomy.guard.connections, "the connection is closed")
        assert roomy.guard.held == 0
    assert roomy.seen == []


async def test_a_long_body_that_finds_no_room_is_refused_while_it_comes(roomy: Server) -> None:
    roomy.guard.limits = Limits(held_bytes=600_000)
    answer = await roomy.ask(post(LONG, last=False))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"too many bytes are being received at once" in answer
    assert roomy.seen == []


async def test_a_long_body_that_no_handler_takes_reaches_the_application_whole(
    roomy: Server,
) -> None:
    roomy.guard.direct = {b"/p": lambda _: None}
    answer = await roomy.ask(post(LONG))
    assert roomy.seen == [("long", LONG)]
    assert answer.endswith(LONG)


# --- the gateway ----------------------------------------------------------------------------------

BINARY = write_request(Request(context(20)))
CUT = {**BINARY.headers, "inference-header-content-length": "99999999"}
INFER = "/v2/models/lvm/infer"


def busy(backend: StubBackend) -> None:
    backend.status, backend.retry_after = 503, "7"


def broken(backend: StubBackend) -> None:
    backend.junk = b"junk"


ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "binary": (INFER, {"content": BINARY.body, "headers": BINARY.headers}),
    "an arm": (
        INFER,
        {"content": BINARY.body, "headers": {**BINARY.headers, "x-turnout-arm": "phase2"}},
    ),
    "no arm": (
        INFER,
        {"content": BINARY.body, "headers": {**BINARY.headers, "x-turnout-arm": "phase9"}},
    ),
    "a wrong head": (INFER, {"content": BINARY.body, "headers": CUT}),
    "a wrong length": (
        INFER,
        {"content": BINARY.body, "headers": {**BINARY.headers, "x-context-length": "3"}},
    ),
    "a wrong deadline": (
        INFER,
        {"content": BINARY.body, "headers": {**BINARY.headers, "x-request-timeout-ms": "soon"}},
    ),
    "no JSON": (INFER, {"content": b"{"}),
    "predict": ("/v1/predict", {"json": body(3, id="mine", top_k=4)}),
    "no vectors": ("/v1/predict", {"json": {"context": []}}),
    "a strange field": ("/v1/predict", {"json": body(3, colour="red")}),
    "an unknown coding": ("/v1/predict", {"content": b"x", "headers": {"content-encoding": "br"}}),
}


@pytest.mark.parametrize("trouble", [None, busy, broken], ids=["well", "busy", "broken"])
async def test_nobody_can_tell_from_an_answer_which_way_its_request_took(
    tmp_path: Path, trouble: Callable[[StubBackend], None] | None
) -> None:
    async with gateway(tmp_path) as rig:
        for name, (path, asked) in ASKED.items():
            if trouble:
                trouble(rig.phase1)
            short = await rig.client.post(path, **asked)
            long = await rig.client.post(f"{path}?way=long", **asked)
            assert alike(short) == alike(long), name


def alike(answer: httpx2.Response) -> tuple[int, dict[str, str], bytes]:
    """Leave out what differs between any two requests."""
    headers = {name: value for name, value in answer.headers.items() if name != "date"}
    name = headers.pop("x-request-id")
    return answer.status_code, headers, answer.content.replace(name.encode(), b"NAME")


async def test_both_ways_are_counted_alike(tmp_path: Path) -> None:
    async with gateway(tmp_path) as rig:
        before = rig.service.guard.direct
        for routes in (before, {}):
            rig.service.guard.direct = routes
            for path, asked in (ASKED["binary"], ASKED["no JSON"], ASKED["predict"]):
                await rig.client.post(path, **asked)
        text = (await rig.client.get("/metrics")).text.splitlines()
        stats = (await rig.client.get("/v2/models/lvm/stats")).json()["model_stats"][0]
    counts = dict(line.rsplit(" ", 1) for line in text if not line.startswith("#"))
    route = 'http_request_duration_seconds_count{method="POST",route="%s",status="%d"}'
    assert counts[route % ("/v2/models/{name}/infer", 200)] == "2.0"
    assert counts[route % ("/v2/models/{name}/infer", 400)] == "2.0"
    assert counts[route % ("/v1/predict", 200)] == "2.0"
    assert counts['gateway_requests_total{arm="phase1",reason="tier",status="2xx"}'] == "4.0"
    assert counts["gateway_requests_in_flight"] == "0.0"
    assert stats["inference_stats"]["success"]["count"] == 2
    assert stats["inference_stats"]["fail"]["count"] == 2
