"""The client of the benches: HTTP/1.1 over blocking sockets, with next to no cost of its own.

A request's bytes are made before the clock starts; an exchange is `sendmsg` and `recv_into`, which
let other threads run. A general client would cost more than the server's whole overhead allows.
"""

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from backends.protocol import MODEL, Floats, Request, write_request

PATH: Final = f"/v2/models/{MODEL}/infer"
TIMEOUT_S: Final = 120.0
CHUNK: Final = 1 << 16
LAST_CHUNK: Final = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Posted:
    """A request as it goes over the wire."""

    head: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, and the seconds from the first byte sent to the last byte received."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


class WireError(Exception):
    """The server answered something else than 200, or closed; the message has its words."""


def binary_request(context: Floats) -> Posted:
    """Ask our model server: the protocol's binary form, float32 [n, 768]."""
    message = write_request(Request(context))
    return posted(message.body, message.headers)


def posted(body: bytes, headers: Mapping[str, str], path: str = PATH) -> Posted:
    """Write a request's head."""
    lines = [f"POST {path} HTTP/1.1", "host: bench", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return Posted("\r\n".join([*lines, "", ""]).encode(), body)


class Connection:
    """One kept-alive connection to 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def post(self, request: Posted) -> Answer:
        """Exchange one request for its answer. Raises WireError unless the status is 200."""
        began = time.perf_counter()
        sent = self._socket.sendmsg([request.head, request.body])
        rest = sent - len(request.head)
        if rest < len(request.body):
            self._socket.sendall(memoryview(request.body)[rest:])
        answer = self._receive(began)
        if answer.status != 200:
            raise WireError(f"{answer.status}: {answer.body[:300].decode(errors='replace')}")
        return answer

    def get(self, path: str) -> Answer:
        """Fetch `path`."""
        began = time.perf_counter()
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n".encode())
        return self._receive(began)

    def _receive(self, began: float) -> Answer:
        received = bytearray()
        end = -1
        while end < 0:
            received += self._chunk()
            end = received.find(b"\r\n\r\n")
        status, *lines = received[:end].decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        start = end + 4
        if "content-length" in headers:
            while len(received) < start + int(headers["content-length"]):
                received += self._chunk()
        else:
            while not received.endswith(LAST_CHUNK):
                received += self._chunk()
        seconds = self._received_at - began
        body = bytes(received[start:])
        if "content-length" not in headers:
            body = _joined(body)
        return Answer(int(status.split(" ")[1]), headers, body, seconds)

    def _chunk(self) -> bytes:
        chunk = self._socket.recv(CHUNK)
        if not chunk:
            raise WireError("the server closed the connection in mid-answer")
        self._received_at = time.perf_counter()  # reading what came is not the server's time
        return chunk


def _joined(body: bytes) -> bytes:
    """Join the chunks of a chunked body."""
    parts: list[bytes] = []
    size, _, rest = body.partition(b"\r\n")
    while count := int(size, 16):
        parts.append(rest[:count])
        size, _, rest = rest[count + 2 :].partition(b"\r\n")
    return b"".join(parts)
