"""A model server that does no work and has every fault: `python -m stand_in`, a process of its own.

It answers the protocol's binary form with a fixed prediction. STAND_IN is a JSON object of
`Behaviour`; `POST /behave` takes another. `slots` answers are worked at at once, `queue` wait, and
what comes beyond gets 503 with Retry-After, as our model servers do. `GET /seen` tells, for every
request that came, its name and when it ended, on the system's monotonic clock.
"""

import asyncio
import json
import os
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backends.answer import write_answer
from backends.metadata import model_metadata
from backends.protocol import MODEL, OUTPUTS, Prediction, Request, version_of


@dataclass
class Behaviour:
    """How it answers."""

    arm: str = "phase1"
    port: int = 0
    slots: int = 1000
    queue: int = 1000
    service_s: float = 0.0
    status: int = 200
    failing: float = 1.0
    """Share of the requests that get `status`."""
    location: str = ""
    """Where a `status` of 3xx sends whoever asks."""
    version: str = "1"


@dataclass
class StandIn:
    """The server's state."""

    behaviour: Behaviour
    open: int = 0
    waiting: int = 0
    ended: dict[str, list[float]] = field(default_factory=dict)
    """Request -> when each of its calls ended."""
    infers: int = 0
    slots: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self.slots = asyncio.Semaphore(self.behaviour.slots)
        self._answers: dict[str, bytes] = {}
        self._chance = np.random.default_rng(1)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests in turn."""
        self.open += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ")
                headers = {
                    name.lower(): value
                    for name, _, value in (line.partition(": ") for line in head[1:-2])
                }
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                if path == f"/v2/models/{MODEL}/infer":
                    writer.write(await self._infer(reader, headers))
                else:
                    writer.write(self._other(method, path, body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def _infer(self, reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
        self.infers += 1
        name = headers.get("x-request-id", "")
        answering = asyncio.ensure_future(self._work())
        leaving = asyncio.ensure_future(reader.read(1))  # nothing comes before the answer
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise ConnectionResetError("the client left")
            return answering.result()
        finally:
            self.ended.setdefault(name, []).append(time.monotonic())
            answering.cancel()
            leaving.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    async def _work(self) -> bytes:
        behaviour = self.behaviour
        if behaviour.status != 200 and self._chance.random() < behaviour.failing:
            where = {"location": behaviour.location} if behaviour.location else {}
            return _response(behaviour.status, b'{"error": "as told"}', **where)
        if self.slots.locked() and self.waiting >= behaviour.queue:
            return _response(503, b'{"error": "the queue is full"}', **{"retry-after": "1"})
        self.waiting += 1
        try:
            await self.slots.acquire()
        finally:
            self.waiting -= 1
        try:
            if behaviour.service_s:
                await asyncio.sleep(behaviour.service_s)
        finally:
            self.slots.release()
        return self._answer()

    def _answer(self) -> bytes:
        name = f"{self.behaviour.arm}-{self.behaviour.version}"
        if name not in self._answers:
            prediction = Prediction(
                vector=np.eye(1, 768, dtype=np.float32)[0],
                ids=np.arange(10),
                scores=np.linspace(1, 0.1, 10, dtype=np.float32),
                length=10,
                window=10,
                checkpoint=name,
                bank="b",
            )
            asked = Request(np.zeros((1, 768), np.float32), binary_outputs=frozenset(OUTPUTS))
            message = write_answer(prediction, asked)
            self._answers[name] = _response(200, message.body, **message.headers)
        return self._answers[name]

    def _other(self, method: str, path: str, body: bytes) -> bytes:
        found: dict[str, Any]
        if method == "POST" and path == "/behave":
            self.behaviour = Behaviour(**{**vars(self.behaviour), **json.loads(body)})
            self.slots = asyncio.Semaphore(self.behaviour.slots)
            self.ended.clear()
            self.infers = 0
            found = {}
        elif path == "/seen":
            found = {"open": self.open, "infers": self.infers, "ended": self.ended}
        elif path == f"/v2/models/{MODEL}":
            name = f"{self.behaviour.arm}-{self.behaviour.version}"
            found = model_metadata([version_of(name)], {"checkpoint": name, "bank": "b"})
        else:
            found = {"ready": True}
        return _response(200, json.dumps(found).encode())


def _response(status: int, body: bytes, **headers: str) -> bytes:
    found = {"content-type": "application/json", **headers, "content-length": str(len(body))}
    lines = [f"{name}: {value}" for name, value in found.items()]
    return "\r\n".join([f"HTTP/1.1 {status} X", *lines, "", ""]).encode() + body


async def _main() -> None:
    behaviour = Behaviour(**json.loads(os.environ.get("STAND_IN", "{}")))
    stand_in = StandIn(behaviour)
    server = await asyncio.start_server(
        stand_in.serve, "127.0.0.1", behaviour.port, limit=1 << 20, backlog=1024
    )
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"event": "listening", "url": f"http://127.0.0.1:{port}"}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
