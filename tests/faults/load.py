"""Load from outside, by hand, and what is read off it.

Requests begin at a fixed rate whether or not earlier ones have been answered, and a time is counted
from when the request should have begun: a server that stalls cannot slow its own measurement down
("coordinated omission").

A machine that does other things too makes single figures worth little. So what is compared runs at
the same time, request by request in turn, and `slower` says by how much one is slower than the
other and how sure that is: a test fails when the promise is shown to be broken, not when the
machine had a bad second.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from hostile import CONTEXT, post

from backends.protocol import Request, write_request

GIVE_UP_S = 20.0
FAILED = 0
"""Stands for the status of a request that got no answer."""


@dataclass(frozen=True)
class Shot:
    """One request: when it should have begun (monotonic), after how long it ended, and how."""

    at: float
    seconds: float
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    why: str = ""

    @property
    def ok(self) -> bool:
        return self.status == 200


def request(length: int = 2, *, timeout_ms: int | None = None) -> bytes:
    """Write a prediction request in the binary form, 3 KB for each vector."""
    message = write_request(Request(CONTEXT[:length]))
    lines = [f"{name}: {value}" for name, value in message.headers.items()]
    if timeout_ms is not None:
        lines.append(f"x-request-timeout-ms: {timeout_ms}")
    head = post("/v2/models/lvm/infer", *lines, f"content-length: {len(message.body)}")
    return head + message.body


class Client:
    """Connections to one server, kept and used again."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, content: bytes, *, at: float | None = None) -> Shot:
        """Send one request and read its answer."""
        began = time.monotonic() if at is None else at
        try:
            async with asyncio.timeout(GIVE_UP_S):
                status, headers, _ = await self.exchange(content)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            return Shot(began, time.monotonic() - began, FAILED, why=repr(error))
        return Shot(began, time.monotonic() - began, status, headers)

    async def exchange(self, content: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send one request: the answer's status, headers and body."""
        reader, writer = await self._connection()
        kept = False
        try:
            writer.write(content)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:-2])
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            kept = headers.get("connection") != "close"
        finally:
            if kept:
                self._free.append((reader, writer))
            else:
                writer.close()
        return int(head[0].split()[1]), headers, body

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._free:
            reader, writer = self._free.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()  # the server closed it, because nothing was asked for long
        return await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22)

    async def get(self, path: str) -> bytes:
        return (await self.exchange(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode()))[2]

    async def metrics(self) -> dict[str, float]:
        """Read all series: name and labels, as they are written, and the value."""
        lines = (await self.get("/metrics")).decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def close(self) -> None:
        for _, writer in self._free:
            writer.close()
        self._free.clear()


@contextlib.asynccontextmanager
async def client(port: int) -> AsyncIterator[Client]:
    made = Client(port)
    try:
        yield made
    finally:
        made.close()


async def fire(to: Client, content: bytes, *, rate: float, seconds: float) -> list[Shot]:
    """Begin `rate` requests a second for `seconds`; return them when all have ended.

    Cancelled, it takes what is under way with it.
    """
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[Shot]] = []
        for number in range(int(rate * seconds)):
            at = began + number / rate
            if (wait := at - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            elif number % 8 == 0:
                await asyncio.sleep(0)
            tasks.append(group.create_task(to.ask(content, at=at)))
    return [task.result() for task in tasks]


async def capacity(to: Client, content: bytes, *, seconds: float, at_once: int) -> float:
    """Requests a second that are answered when `at_once` are always under way."""
    until = time.monotonic() + seconds
    done = 0

    async def ask_on() -> None:
        nonlocal done
        while time.monotonic() < until:
            shot = await to.ask(content)
            done += shot.ok

    await asyncio.gather(*(ask_on() for _ in range(at_once)))
    return done / seconds


def p99_ms(shots: Sequence[Shot]) -> float:
    return 1e3 * float(np.quantile([shot.seconds for shot in shots], 0.99))


@dataclass(frozen=True)
class Slower:
    """How many times slower at the 99th percentile; `least` with 99.5 % confidence."""

    ratio: float
    least: float

    def __str__(self) -> str:
        return f"{self.ratio:.2f}x (at least {self.least:.2f}x)"


def slower(one: Sequence[Shot], other: Sequence[Shot]) -> Slower:
    """Compare the p99 of two loads that ran at the same time.

    Bootstrapped over quarters of seconds, not over requests: neighbours wait for the same things.
    """
    first = min(shot.at for shot in (*one, *other))

    def blocks(shots: Sequence[Shot]) -> list[list[float]]:
        found: dict[int, list[float]] = {}
        for shot in shots:
            found.setdefault(int((shot.at - first) / 0.25), []).append(shot.seconds)
        return [found[at] for at in sorted(found)]

    ones, others = blocks(one), blocks(other)
    count = min(len(ones), len(others))
    generator = np.random.default_rng(1)

    def ratio(chosen: Sequence[int]) -> float:
        tails = [
            np.quantile(np.concatenate([of[i] for i in chosen]), 0.99) for of in (ones, others)
        ]
        return float(tails[0] / tails[1])

    again = [ratio(generator.integers(0, count, count).tolist()) for _ in range(400)]
    return Slower(ratio(range(count)), float(np.quantile(again, 0.005)))
