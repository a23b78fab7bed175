"""The backend of the gateway's bench: a fixed answer, as fast as an event loop can give it.

`python bench_backend.py --port N [--arm phase2] [--unix PATH] [--certificate FILE --key FILE]`

Every POST gets the same prediction in the protocol's binary form; its body is counted and dropped.
GET answers readiness, the model's metadata and `/counts`. Bodies may be of any length, announced or
chunked. What the benches of clients need besides:

- `x-bench-delay-ms` delays an answer by so many milliseconds; sent to `/hold`, all predictions;
- `/redirect` answers 307, `/stream` an answer in parts, `/then-close` closes once it has answered.
"""

import argparse
import asyncio
import json
import ssl
from typing import Final, cast

import httptools
import numpy as np
import uvloop

from backends.answer import write_answer
from backends.protocol import (
    MODEL,
    OUTPUTS,
    Prediction,
    Request,
)

INFER: Final = f"/v2/models/{MODEL}/infer"
PARTS: Final = 4
PART_S: Final = 0.05
END_OF_HEAD: Final = b"\r\n\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Counts:
    """What `/counts` tells.

    Connections open, requests, those whose client left before the answer, those that wait for it;
    and `hold`, the milliseconds by which predictions are delayed.
    """

    def __init__(self) -> None:
        self.open = self.left = self.requests = self.waiting = 0
        self.hold = 0.0


class Exchange(asyncio.Protocol):
    """One connection: requests in a row, the next read when the last is answered.

    A body of announced length is only counted; a chunked one goes through a parser.
    """

    def __init__(self, answers: dict[str, bytes], counts: Counts) -> None:
        self._answers = answers
        self._counts = counts
        self._head = b""
        self._path = ""
        self._headers: dict[str, str] = {}
        self._missing = 0
        self._chunks: httptools.HttpRequestParser | None = None
        self._waits: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._counts.open += 1

    def connection_lost(self, _: Exception | None) -> None:
        self._counts.open -= 1
        if self._missing or self._chunks or self._waits:
            self._counts.left += 1
        if self._waits:
            self._waits.cancel()
            self._counts.waiting -= 1

    def data_received(self, data: bytes) -> None:
        if self._chunks:
            self._chunks.feed_data(data)
        elif self._missing:
            self._took(len(data))
        else:
            self._read_head(self._head + data if self._head else data)

    def _read_head(self, data: bytes) -> None:
        end = data.find(END_OF_HEAD)
        if end < 0:
            self._head = data
            return
        first, *lines = data[:end].decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        self._head = b""
        self._path = first.split(" ")[1]
        self._headers = {name.lower(): value.strip() for name, _, value in pairs}
        if "expect" in self._headers:
            self._transport.write(CONTINUE)
        if "transfer-encoding" in self._headers:
            self._chunks = httptools.HttpRequestParser(self)
            self._chunks.feed_data(data)
            return
        self._missing = int(self._headers.get("content-length", 0))
        self._took(len(data) - end - len(END_OF_HEAD))

    def _took(self, count: int) -> None:
        self._missing -= count
        if self._missing <= 0:
            self._missing = 0
            self._answer()

    def on_message_complete(self) -> None:
        """The parser of a chunked body has seen its end."""
        self._chunks = None
        self._answer()

    def _answer(self) -> None:
        self._counts.requests += 1
        delay = float(self._headers.get("x-bench-delay-ms", 0))
        if self._path == "/hold":
            self._counts.hold = delay
        elif self._path == INFER:
            delay = delay or self._counts.hold
        if delay and self._path != "/hold":
            self._counts.waiting += 1
            self._waits = asyncio.get_running_loop().call_later(delay / 1e3, self._write_late)
        else:
            self._write()

    def _write_late(self) -> None:
        self._waits = None
        self._counts.waiting -= 1
        self._write()

    def _write(self) -> None:
        if self._path == "/counts":
            self._transport.write(_response(200, json.dumps(vars(self._counts)).encode()))
        elif self._path == "/framing":
            framing = "chunked" if "transfer-encoding" in self._headers else "length"
            self._transport.write(_response(200, framing.encode()))
        elif self._path == "/stream":
            self._transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            self._write_part(PARTS)
        else:
            self._transport.write(self._answers.get(self._path, self._answers["infer"]))
        if self._path == "/then-close":
            self._transport.close()

    def _write_part(self, left: int) -> None:
        if not left:
            self._transport.write(b"0\r\n\r\n")
            return
        self._transport.write(b"4\r\npart\r\n")
        asyncio.get_running_loop().call_later(PART_S, self._write_part, left - 1)


def fixed_answers(arm: str) -> dict[str, bytes]:
    """Write every answer, by path: "infer" is that of all others."""
    identity = {"checkpoint": f"bench-{arm}", "bank": "bench"}
    prediction = Prediction(
        vector=np.eye(1, 768, dtype=np.float32)[0],
        ids=np.arange(10),
        scores=np.linspace(1, 0.1, 10, dtype=np.float32),
        length=10,
        window=10,
        checkpoint=identity["checkpoint"],
        bank=identity["bank"],
    )
    asked = Request(np.zeros((1, 768), np.float32), binary_outputs=frozenset(OUTPUTS))
    message = write_answer(prediction, asked)
    model = {"name": MODEL, "platform": "bench", "parameters": identity}
    return {
        "infer": _response(200, message.body, **message.headers),
        "/v2/health/ready": _response(200, b'{"ready":true}'),
        "/v2/health/live": _response(200, b'{"live":true}'),
        f"/v2/models/{MODEL}": _response(200, json.dumps(model).encode()),
        "/redirect": _response(307, b"", location="/v2/health/ready"),
    }


def _response(status: int, body: bytes, **headers: str) -> bytes:
    found = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    lines = [f"{name}: {value}" for name, value in found.items()]
    return "\r\n".join([f"HTTP/1.1 {status} OK", *lines, "", ""]).encode() + body


async def serve(options: argparse.Namespace) -> None:
    """Listen wherever the options say, until the process is ended."""
    answers, counts = fixed_answers(options.arm), Counts()
    tls = None
    if options.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.certificate, options.key)

    def make() -> Exchange:
        return Exchange(answers, counts)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(make, "127.0.0.1", options.port, ssl=tls, backlog=1024)
    if options.unix:
        await loop.create_unix_server(make, options.unix)
    await server.serve_forever()


def main() -> None:
    """Serve as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--arm", default="phase1")
    parser.add_argument("--unix")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
