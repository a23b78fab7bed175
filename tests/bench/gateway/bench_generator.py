"""The load of the gateway's bench: connections kept busy from one event loop, in its own process.

`python bench_generator.py --port N --connections N --request FILE (--seconds S | --requests N)`

A closed loop: each connection sends the same prepared bytes again when it has its answer, so what
is measured is not this: its ceiling is found by asking the backend itself. Writes one line of JSON:
answers, how many of them were not 200, and the seconds that they took.
"""

import argparse
import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from typing import Final, cast

import uvloop

END_OF_HEAD: Final = b"\r\n\r\n"
LENGTH: Final = b"\r\ncontent-length:"
LAST_CHUNK: Final = b"0\r\n\r\n"


class Load:
    """What all connections share: the request, when to end, and what was answered."""

    def __init__(self, request: bytes, *, requests: int, seconds: float) -> None:
        self.request = request
        self.left = requests
        self.end = time.perf_counter() + seconds
        self.statuses: Counter[bytes] = Counter()
        self.lost = 0

    def more(self) -> bool:
        """Whether one more request is to be sent; counts it."""
        self.left -= 1
        return self.left >= 0 and time.perf_counter() < self.end


class Connection(asyncio.Protocol):
    """One kept-alive connection; `done` is set when it has nothing more to do."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._buffer = b""
        self._missing = -1
        self._waiting = False
        self._transport: asyncio.Transport
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._next()

    def connection_lost(self, _: Exception | None) -> None:
        self._load.lost += self._waiting
        if not self.done.done():
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._missing < 0:
            self._buffer = data = self._buffer + data
            end = data.find(END_OF_HEAD)
            if end < 0:
                return
            self._read_head(data[:end].lower(), len(data) - end - len(END_OF_HEAD))
        elif self._missing:
            self._missing -= len(data)
        if self._missing == 0 or (self._chunked and data.endswith(LAST_CHUNK)):
            self._next()

    def _read_head(self, head: bytes, beyond: int) -> None:
        self._load.statuses[head[9:12]] += 1
        found = head.find(LENGTH)
        self._chunked = found < 0
        if found < 0:
            self._missing = 1 << 62
        else:
            self._missing = int(head[found + len(LENGTH) :].split(b"\r\n", 1)[0]) - beyond

    def _next(self) -> None:
        self._buffer, self._missing, self._chunked = b"", -1, False
        self._waiting = self._load.more()
        if self._waiting:
            self._transport.write(self._load.request)
        else:
            self._transport.close()


async def run(options: argparse.Namespace) -> dict[str, float]:
    """Keep all connections busy until the end."""
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    load = Load(options.request.read_bytes(), requests=options.requests, seconds=options.seconds)
    opened = [
        await loop.create_connection(lambda: Connection(load), "127.0.0.1", options.port)
        for _ in range(options.connections)
    ]
    await asyncio.gather(*(connection.done for _, connection in opened))
    answers = load.statuses.total()
    return {
        "answers": answers,
        "bad": answers - load.statuses[b"200"] + load.lost,
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    """Load as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--request", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--requests", type=int, default=1 << 62)
    print(json.dumps(uvloop.run(run(parser.parse_args()))))  # noqa: T201 - what it is for


if __name__ == "__main__":
    main()
