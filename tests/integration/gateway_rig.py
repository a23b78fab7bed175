"""What the tests of the gateway share: servers in the test's own event loop, on real sockets.

`StubBackend` speaks the binary form like a real model server and fails as it is told; `running`
serves any ASGI app on a free port; `Rig` is a whole gateway with its backends and a client.
"""

import asyncio
import contextlib
import functools
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import orjson
import uvicorn
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from backends.answer import write_answer
from backends.idruns import IdRuns
from backends.metadata import model_metadata
from backends.protocol import (
    DIMENSION,
    HEADER_LENGTH,
    Floats,
    Prediction,
    PrefixOutcome,
    read_infer,
    read_lookup,
    version_of,
)
from backends.serving import bounds, wire
from rollout.keys import Keys
from rollout.snapshot import DEFAULT_TIERS, Live, Snapshot, Tier
from router.__main__ import Service
from router.settings import Settings

PATIENCE_S = 10.0
BOTH_ACTIVE = tuple(tier.model_copy(update={"active": True}) for tier in DEFAULT_TIERS)


def context(length: int, seed: int = 0) -> Floats:
    vectors = np.random.default_rng(seed).standard_normal((length, DIMENSION), dtype=np.float32)
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


@functools.cache
def _rows(length: int) -> list[list[float]]:
    rows: list[list[float]] = context(length).round(4).tolist()
    return rows


def body(length: int, **fields: Any) -> dict[str, Any]:
    return {"context": _rows(length), **fields}


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait, within bounds, for something that another task or process brings about."""
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < limit, f"not within {PATIENCE_S:.0f} s: {what}"
        await asyncio.sleep(0.01)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # several servers share this process: none of them owns its signals

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            await asyncio.sleep(0.01)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's signature
        # uvicorn's own waits for tenths of seconds, and these tests end often
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await asyncio.sleep(0.01)
        await self.lifespan.shutdown()


@contextlib.asynccontextmanager
async def running(app: ASGIApp, guard: bounds.Guard | None = None) -> AsyncIterator[str]:
    """Serve an app, and give its URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app,
            http=wire.guarded(guard or bounds.Guard()),
            ws="none",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await until(lambda: server.started or serving.done(), "the server listens")
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


class _Cut(Response):
    """An answer that announces more than it sends: the server cuts the connection after it."""

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        headers = [(b"content-length", b"100")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})


@dataclass
class StubBackend:
    """A model server whose neighbours are `ids`, and whose faults are set by the test."""

    arm: str
    window: int
    ids: tuple[int, ...] = tuple(range(100, 130))
    status: int = 200
    retry_after: str | None = None
    junk: bytes | None = None
    ready: bool = True
    cut: bool = False
    hold: asyncio.Event | None = None
    bank: dict[int, int] = field(default_factory=dict)
    listed: tuple[int, ...] | None = None
    """The ids that its bank says it has; None for a backend that lists none."""
    vectors: dict[int, Floats] = field(default_factory=dict)
    """Those of its bank, by id."""
    answer: Floats | None = None
    """What it predicts; None for the last vector of the context."""
    bank_name: str = "a-bank"
    prefix: PrefixOutcome | None = None
    """What its known prefixes did, as it tells; None for one of an older version."""
    left: int = 0
    seen: list[dict[str, str]] = field(default_factory=list)
    top_k: list[int] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    def reset(self) -> None:
        """Be well again, and forget."""
        self.__init__(self.arm, self.window)  # type: ignore[misc] # a dataclass can be born again

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v2/health/ready", self._ready),
                Route("/v2/models/lvm", self._model),
                Route("/v2/models/lvm/ids", self._ids),
                Route("/v2/models/lvm/vectors/{id:int}", self._vector),
                Route("/v2/models/lvm/infer", self._infer, methods=["POST"]),
                Route("/v2/models/lvm/lookup", self._lookup, methods=["POST"]),
            ]
        )

    async def _ready(self, _: Request) -> Response:
        return JSONResponse({"ready": self.ready}, 200 if self.ready else 503)

    async def _model(self, _: Request) -> Response:
        identity = {"checkpoint": f"{self.arm}-checkpoint", "bank": self.bank_name}
        return JSONResponse(model_metadata([version_of(identity["checkpoint"])], identity))

    async def _ids(self, _: Request) -> Response:
        if self.listed is None:
            return JSONResponse({"error": "no list"}, 404)
        return Response(IdRuns.of(np.array(self.listed, np.int64)).write())

    async def _vector(self, request: Request) -> Response:
        found = self.vectors.get(request.path_params["id"])
        return JSONResponse({"vector": None if found is None else found.tolist()})

    async def _held(self, request: Request, hold: asyncio.Event) -> bool:
        """Wait until the test lets the answer go; False when the asker left before."""
        going = asyncio.create_task(hold.wait())
        leaving = asyncio.ensure_future(request.receive())
        await asyncio.wait((going, leaving), return_when=asyncio.FIRST_COMPLETED)
        self.left += not going.done()
        going.cancel()
        leaving.cancel()
        return going.done()

    async def _lookup(self, request: Request) -> Response:
        vector = read_lookup(await request.body())
        return JSONResponse({"id": self.bank.get(round(float(vector[0])))})

    async def _infer(self, request: Request) -> Response:
        hold = self.hold  # as it is when the request is seen, whatever the test does then
        self.seen.append(dict(request.headers))
        question = read_infer(
            await request.body(), request.headers.get(HEADER_LENGTH), max_length=5000
        )
        self.top_k.append(question.top_k)
        self.keys.append(question.key)
        if hold and not await self._held(request, hold):
            return Response()
        if self.cut:
            return _Cut()
        if self.status != 200:
            headers = {"retry-after": self.retry_after} if self.retry_after else {}
            error = {"error": f"{self.arm} says {self.status}"}
            return JSONResponse(error, self.status, headers)
        if self.junk is not None:
            return Response(self.junk)
        ids = np.asarray(self.ids[: question.top_k], np.int64)
        answer = Prediction(
            vector=question.context[-1] if self.answer is None else self.answer,
            ids=ids,
            scores=np.linspace(1, 0.5, len(ids), dtype=np.float32),
            length=question.length,
            window=min(question.length, self.window),
            checkpoint=f"{self.arm}-checkpoint",
            bank="a-bank",
        )
        extra = {"prefix": self.prefix} if self.prefix else {}
        message = write_answer(answer, question, extra=extra)
        return Response(message.body, headers=dict(message.headers))


@dataclass
class Rig:
    """A gateway under test: its client, its backends, its settings."""

    client: httpx2.AsyncClient
    phase1: StubBackend
    phase2: StubBackend
    settings: Settings
    service: Service

    def reset(self) -> None:
        """Make the backends well again."""
        self.release()
        self.phase1.reset()
        self.phase2.reset()

    def release(self) -> None:
        """Let held answers go."""
        for backend in (self.phase1, self.phase2):
            if backend.hold:
                backend.hold.set()

    async def predict(
        self, length: int = 20, *, headers: dict[str, str] | None = None, **fields: Any
    ) -> httpx2.Response:
        content = orjson.dumps(body(length, **fields))
        return await self.client.post("/v1/predict", content=content, headers=headers)

    async def metric(self, name: str, **labels: str) -> float:
        """Read one sample of `/metrics`; 0 where there is none yet."""
        text = (await self.client.get("/metrics")).text
        wanted = name + (
            "{" + ",".join(f'{key}="{value}"' for key, value in sorted(labels.items())) + "}"
            if labels
            else ""
        )
        for line in text.splitlines():
            series, _, value = line.rpartition(" ")
            if series == wanted:
                return float(value)
        return 0.0

    async def until_metric(self, least: float, name: str, **labels: str) -> None:
        """Wait, within bounds, until a sample of `/metrics` has reached `least`."""
        limit = time.monotonic() + PATIENCE_S
        while (found := await self.metric(name, **labels)) < least:
            assert time.monotonic() < limit, f"{name} {labels} is {found}, not {least}"
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def sent(rig: Rig, document: dict[str, Any], padding: int = 0) -> AsyncIterator[None]:
    """Send a prediction request by hand, and cut the connection at the end of the block."""
    url = rig.client.base_url
    content = orjson.dumps(document)
    head = (
        f"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content) + padding}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection(url.host, url.port)
    try:
        writer.write(head.encode() + content)
        for _ in range(0, padding, 1 << 16):
            writer.write(b" " * (1 << 16))
            await writer.drain()
        yield
    finally:
        writer.transport.abort()


@contextlib.asynccontextmanager
async def gateway(
    folder: Path,
    *,
    redis_url: str | None = None,
    tiers: tuple[Tier, ...] = BOTH_ACTIVE,
    **settings: Any,
) -> AsyncIterator[Rig]:
    """Run a gateway with two stub backends."""
    phase1, phase2 = StubBackend("phase1", 100), StubBackend("phase2", 500)
    async with running(phase1.app) as url1, running(phase2.app) as url2:
        wanted = {
            "state_dir": folder,
            "backends": {"phase1": url1, "phase2": url2},
            "tiers": tiers,
            "redis_url": redis_url,
            "poll_s": 0.05,
            "flush_s": 0.02,
        }
        chosen = Settings(**{**wanted, **settings})
        service = Service(chosen)
        async with (
            running(service.app, service.guard) as url,
            httpx2.AsyncClient(base_url=url) as client,
        ):
            rig = Rig(client, phase1, phase2, chosen, service)
            try:
                yield rig
            finally:
                rig.release()


def snapshot(version: int = 1, *, epoch: int = 1, **live: Any) -> Snapshot:
    """Make a snapshot of the default table, with a rollout when `live` says anything."""
    facts = {
        "id": "r1",
        "candidate": "phase2",
        "incumbent": "phase1",
        "scope": "long",
        "unit": "request",
        "salt": "salt",
        "evidence_epoch": 1,
        "stage": "the-stage",
        "mode": "ab",
        "weight": 0,
        "shadow_sample": 0,
        "label_window_s": 3600,
    }
    rollout = Live(**{**facts, **live}) if live else None
    return Snapshot(epoch=epoch, version=version, tiers=DEFAULT_TIERS, rollout=rollout)


async def publish(url: str, offered: Snapshot, *, silently: bool = False) -> None:
    """Put a snapshot into the store, as the controller's transition does."""
    keys = Keys()
    async with Redis.from_url(url) as redis:
        await redis.set(keys.snapshot, offered.model_dump_json())
        if not silently:
            await redis.publish(keys.changed, offered.model_dump_json())


async def counts(url: str, stage: str = "the-stage") -> dict[str, int]:
    """Read a stage's counters, added up over minutes and strata."""
    sums: dict[str, int] = {}
    async with Redis.from_url(url, decode_responses=True) as redis:
        found = await redis.hgetall(Keys().counts("r1", 1, stage))
    for name, by in found.items():
        counter = str(name).split("|")[2]
        sums[counter] = sums.get(counter, 0) + int(by)
    return sums


async def counts_with(url: str, **wanted: int) -> dict[str, int]:
    """Wait until the store's counters reach what is wanted (`_` for `.`), and return them all."""
    names = {name.replace("_", "."): by for name, by in wanted.items()}
    limit = time.monotonic() + PATIENCE_S
    while True:
        found = await counts(url)
        if all(found.get(name, 0) >= by for name, by in names.items()):
            return found
        assert time.monotonic() < limit, f"{names} not in {found}"
        await asyncio.sleep(0.01)
