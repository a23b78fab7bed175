"""Runs one ASGI app as a process: listens, answers, and leaves in order at a signal.

`serve` is what the three servers have in common after their objects are made: the address, the
limits of the process, the collector of garbage, and the end.
"""

import gc
import logging
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

import structlog
import uvicorn
from starlette.types import ASGIApp

from backends.serving import tracing, wire
from backends.serving.access import is_unix, path_of
from backends.serving.bounds import Guard
from backends.serving.heap import keep_freed_memory

SWITCH_S: Final = 0.0001
"""How soon a thread that reads a long body gives way to the event loop. A health check takes some
twenty turns of the interpreter: by default, 5 ms each, it waits until the body is read."""
DRAIN_S: Final = 10
BACKLOG: Final = 2048
MAX_FILES: Final = 65_536
YOUNG: Final = 10_000
"""Objects made, less objects gone, until the youngest are searched for cycles. Requests leave none,
connections one each; at CPython's 700 the search takes 5 % of a gateway's time."""

log = structlog.stdlib.get_logger("turnout")


class _Server(uvicorn.Server):
    """uvicorn's, which goes on for `leave_s` seconds after the first signal; a second ends it."""

    def __init__(
        self, config: uvicorn.Config, *, leave_s: float, on_leave: Callable[[], None] | None
    ) -> None:
        super().__init__(config)
        self._leave_s = leave_s
        self._on_leave = on_leave
        self._ends: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Leave, or end at once when leaving already."""
        if self._on_leave:
            self._on_leave()
        if self._ends is not None or self._leave_s == 0:
            super().handle_exit(sig, frame)
            return
        self._ends = time.monotonic() + self._leave_s
        log.info("leaving", listening_for_s=self._leave_s)

    async def on_tick(self, counter: int) -> bool:
        """Look ten times a second whether it is time to end."""
        if self._ends is not None and time.monotonic() >= self._ends:
            self.should_exit = True
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        settle()
        if self.started:
            for listener in sockets or ():
                log.info("listening", url=_url_of(listener))


def serve(
    app: ASGIApp,
    host: str,
    port: int,
    *,
    drain_s: int = DRAIN_S,
    guard: Guard | None = None,
    leave_s: float = 0.0,
    on_leave: Callable[[], None] | None = None,
) -> None:
    """Serve `app` on `host:port` until SIGTERM or SIGINT; then drain for at most `drain_s` seconds.

    A `host` as `unix:/path/to/socket` is a Unix socket, which has no port. One that a dead server
    left behind is taken over, and our own is taken away at the end.

    At the signal `on_leave` is called, and before anything is closed the server goes on listening
    and answering for `leave_s` seconds, unless a second signal comes.

    `guard` bounds the connections: see `backends/serving/bounds.py`.

    Returns when drained and when the last traces are sent, so that the process exits 0. Exits 1,
    after one log line that names the address, when the port cannot be had (in use, no right, no
    such address).
    """
    listener = _listen_on_path(host) if is_unix(host) else _listen(host, port)
    guard = guard or Guard()
    raise_file_limit()
    keep_freed_memory()
    sys.setswitchinterval(SWITCH_S)
    server = _Server(
        uvicorn.Config(
            app,
            loop="uvloop",
            http=wire.guarded(guard),
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=drain_s,
        ),
        leave_s=leave_s,
        on_leave=on_leave,
    )

    def on_signal(_: int, __: object) -> None:
        server.should_exit = True

    # uvicorn raises a signal again once it has drained: with these handlers under it, that is
    # harmless and the exit status is 0. They also catch a signal that comes before it listens.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    server.run(sockets=[listener])
    if is_unix(host):
        Path(path_of(host)).unlink(missing_ok=True)
    tracing.stop()
    log.info("stopped")


def raise_file_limit() -> None:
    """Allow this process as many open files, connections included, as the system lets it have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_FILES if hard == resource.RLIM_INFINITY else min(MAX_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def settle() -> None:
    """Leave what is there now out of every later garbage collection. Call it when all is loaded.

    A full collection looks at every object: with torch in memory that is 0.15 s in which nothing
    else runs, at any time. What a server has loaded stays until it ends.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)


def give_up() -> None:
    """Ask `serve` of this process to return, after the last word has been said: why."""
    for name in ("turnout", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)
    signal.raise_signal(signal.SIGTERM)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        log.error("cannot listen", address=f"{host}:{port}", reason=error.strerror or str(error))  # noqa: TRY400 - an operator's mistake needs no traceback
        raise SystemExit(1) from None
    return listener


def _listen_on_path(host: str) -> socket.socket:
    path = path_of(host)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_left_behind(path):
            Path(path).unlink()
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        log.error("cannot listen", address=host, reason=error.strerror or str(error))  # noqa: TRY400 - as above
        raise SystemExit(1) from None
    return listener


def _is_left_behind(path: str) -> bool:
    """Whether a Unix socket is there that nobody listens on."""
    if not Path(path).is_socket():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
    return False


def _url_of(listener: socket.socket) -> str:
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://{host}:{port}"
