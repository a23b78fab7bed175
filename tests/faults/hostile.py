"""What the tests of hostile clients share: real processes, and clients that speak by hand."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from module_process import ModuleProcess, started

from backends.protocol import Request, write_request

TIERS = '[{"arm": "phase1", "max_length": 100}]'
CONTEXT = np.random.default_rng(1).standard_normal((100, 768)).astype(np.float32)
CLOSED_S = 40.0
"""Longer than any connection may stay: who waits for its end waits no longer."""


@dataclass(frozen=True)
class Gateway:
    """A gateway's process, where it listens, and how to ask it."""

    process: ModuleProcess
    port: int

    @property
    def pid(self) -> int:
        return self.process.process.pid

    def forget_peak(self) -> int:
        """Let the kernel measure the peak of the memory anew; return what is resident, in bytes."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        return self.memory("VmRSS")

    def memory(self, name: str = "VmHWM") -> int:
        """Read a line of /proc's status, in bytes: the peak since `forget_peak`, or VmRSS."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = next(line for line in status.splitlines() if line.startswith(f"{name}:"))
        return 1024 * int(found.split()[1])


@contextlib.contextmanager
def model_server(folder: Path) -> Iterator[str]:
    """Run a model server of untrained weights; give its URL."""
    folder.mkdir()
    np.savez(folder / "bank.npz", vectors=CONTEXT, ids=np.arange(100))
    settings = {"ARM": "phase1", "PORT": "0", "MAX_LENGTH": "100", "BANK": str(folder / "bank.npz")}
    named = {f"BACKEND_{name}": value for name, value in settings.items()}
    with started("backends", folder / "log", **named) as process:
        process.event("ready")
        yield str(process.event("listening")["url"])


@contextlib.contextmanager
def gateway(folder: Path, backend: str, **environment: str) -> Iterator[Gateway]:
    """Run a gateway in front of a model server."""
    folder.mkdir()
    settings = {
        "ROUTER_PORT": "0",
        "ROUTER_STATE_DIR": str(folder),
        "ROUTER_BACKENDS": json.dumps({"phase1": backend}),
        "TURNOUT_TIERS": TIERS,
        **environment,
    }
    with started("router", folder / "log", **settings) as process:
        url = str(process.event("listening")["url"])
        yield Gateway(process, int(url.rpartition(":")[2]))
        assert process.process.poll() is None, "the gateway is still there"


def post(path: str, *lines: str) -> bytes:
    """Write the head of a request."""
    return "\r\n".join([f"POST {path} HTTP/1.1", "host: a", *lines, "", ""]).encode()


def prediction(length: int = 20) -> bytes:
    """Write a prediction request in the binary form."""
    message = write_request(Request(CONTEXT[:length]))
    lines = [f"{name}: {value}" for name, value in message.headers.items()]
    head = post("/v2/models/lvm/infer", *lines, f"content-length: {len(message.body)}")
    return head + message.body


@contextlib.asynccontextmanager
async def connected(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect, and cut the connection at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Read one answer, to anything but HEAD: status, headers, body."""
    async with asyncio.timeout(CLOSED_S):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:-2])
        assert headers.get("transfer-encoding") != "chunked", "every answer tells its length"
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return int(head[0].split()[1]), headers, body
