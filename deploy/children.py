"""Child processes that are started, watched, restarted and stopped.

A child is started under `leash.py`, in a session of its own: Ctrl-C reaches only the supervisor,
which stops its children in order, and a supervisor that is killed takes them with it. A child that
dies before it was ever ready fails the start, with its last words. One that dies later is restarted
after a growing pause.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

LEASH: Final = Path(__file__).with_name("leash.py")
READY_POLL_S: Final = 0.1
DETAILS: Final = ("error", "reason", "exception")
"""Where our log lines say what went wrong."""
STEADY_S: Final = 60.0
"""A child that ran this long before it died starts over with the shortest pause."""


class Phase(StrEnum):
    """Where a child is in its life."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Spec:
    """What to run, and how to tell that it is ready."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    ready: Callable[[], Awaitable[bool]]
    url: str
    ready_within_s: float = 60.0
    stop_within_s: float = 15.0
    at_supervisors_death: signal.Signals = signal.SIGKILL
    plain_log: bool = False
    """Whether the child writes plain lines, which are then wrapped into JSON."""


class StartError(Exception):
    """A child that did not come up; the message says which, why, and where its log is."""


@dataclass(slots=True)
class Child:
    """One supervised process. `changed` is called with the child whenever its phase changes."""

    spec: Spec
    changed: Callable[["Child"], None]
    phase: Phase = Phase.WAITING
    restarts: int = 0
    why: str = ""
    ready_after_s: float = 0.0
    _process: asyncio.subprocess.Process | None = None
    _watch: asyncio.Task[None] | None = None
    _wrap: asyncio.Task[None] | None = None
    _recent: int = field(default=0, repr=False)

    @property
    def pid(self) -> int | None:
        """The process id, while one runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the process, wait until it is ready, then keep it running in the background.

        Raises StartError when it dies first, or is not ready in time.
        """
        began = time.monotonic()
        await self._spawn(Phase.STARTING)
        try:
            async with asyncio.timeout(self.spec.ready_within_s):
                await self._until_ready()
        except TimeoutError:
            raise StartError(
                f"{self.spec.name} was not ready after {self.spec.ready_within_s:.0f} s; "
                f"its log is {self.spec.log}"
            ) from None
        if self.pid is None:
            raise StartError(
                f"{self.spec.name} died while it started: {self._epitaph()}; "
                f"its log is {self.spec.log}"
            )
        self.ready_after_s = time.monotonic() - began
        self._enter(Phase.READY)
        self._watch = asyncio.create_task(self._keep_running(), name=f"watch {self.spec.name}")

    async def stop(self) -> None:
        """Ask the process to end, and kill it when it has not after `stop_within_s`."""
        if self._watch:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        if self._process and self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(self.spec.stop_within_s):
                    await self._process.wait()
            except TimeoutError:
                self.kill()
                await self._process.wait()
        if self._wrap:
            await self._wrap
        if self._process:
            self._enter(Phase.STOPPED)

    def kill(self) -> None:
        """End the process at once."""
        if self._process and self._process.returncode is None:
            self._process.kill()

    async def _spawn(self, phase: Phase) -> None:
        self.spec.log.parent.mkdir(parents=True, exist_ok=True)
        with self.spec.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *leashed(self.spec.command, self.spec.at_supervisors_death),
                env={**os.environ, **self.spec.environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if self.spec.plain_log else log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if self._process.stdout:
            self._wrap = asyncio.create_task(
                wrap_lines(self._process.stdout, self.spec.log, self.spec.name)
            )
        self._enter(phase)

    async def _until_ready(self) -> None:
        """Return when the process is ready, or has died."""
        while self.pid is not None and not await self.spec.ready():  # noqa: ASYNC110 - it asks another process
            await asyncio.sleep(READY_POLL_S)

    async def _keep_running(self) -> None:
        assert self._process is not None  # noqa: S101 - start() has spawned it
        while True:
            began = time.monotonic()
            await self._process.wait()
            self._recent = 0 if time.monotonic() - began > STEADY_S else self._recent + 1
            self.restarts += 1
            self.why = self._epitaph()
            pause = backoff_s(self._recent)
            self.why += f"; restarting in {pause:g} s"
            self._enter(Phase.RESTARTING)
            await asyncio.sleep(pause)
            await self._spawn(Phase.STARTING)
            await self._until_ready()
            if self.pid is not None:
                self._enter(Phase.READY)

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self.changed(self)

    def _epitaph(self) -> str:
        status = self._process.returncode if self._process else None
        words = last_words(tail(self.spec.log))
        return describe_exit(status) + (f" ({words})" if words else "")


def leashed(command: tuple[str, ...], at_death: signal.Signals) -> tuple[str, ...]:
    """Return the command that runs `command` bound to the life of this process."""
    return (
        sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), str(int(at_death)), *command,
    )  # fmt: skip


def backoff_s(deaths_in_a_row: int) -> float:
    """How long to wait before the next start: 0.5 s, doubled for every death, at most 30 s."""
    return float(min(30.0, 0.5 * 2 ** max(0, deaths_in_a_row - 1)))


def describe_exit(status: int | None) -> str:
    """Say in words how a process ended; `status` as subprocess reports it."""
    if status is None:
        return "still running"
    if status < 0:
        try:
            return f"killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"
    return f"ended with exit status {status}"


def last_words(log_tail: str) -> str:
    """Find the last error in a log of JSON lines; empty when there is none."""
    for line in reversed(log_tail.splitlines()):
        try:
            entry = json.loads(line)
        except ValueError:
            if line.strip():
                return line.strip()[:300]  # what a process says outside its log: a traceback
            continue
        if isinstance(entry, dict) and entry.get("level") in {"error", "critical"}:
            detail = next((entry[name] for name in DETAILS if entry.get(name)), "")
            lines = str(detail).strip().splitlines()
            return f"{entry.get('event', '')}{': ' + lines[-1] if lines else ''}"[:300]
    return ""


def tail(path: Path, size: int = 16_384) -> str:
    """Read the last `size` bytes of a file as text; empty when there is no file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


async def wrap_lines(lines: asyncio.StreamReader, path: Path, service: str) -> None:
    """Write plain log lines as JSON lines, one event each, until the stream ends."""
    with path.open("a", buffering=1) as log:
        async for raw in lines:
            text = raw.decode(errors="replace").strip()
            if text:
                stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                entry = {"timestamp": stamp, "level": "info", "service": service, "event": text}
                log.write(json.dumps(entry) + "\n")
