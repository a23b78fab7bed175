"""Promise 21: gateways are replaced under load and nobody notices; a soak stays flat."""

import asyncio
import contextlib
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from load import Client, Shot, request
from stage import ONE, Edge, backend, edge

pytestmark = pytest.mark.faults

PROBE_S = 0.1
LEAVE_S = 1.0
ROUNDS = 3
AT_ONCE = 8
SOAK_S = float(os.environ.get("TURNOUT_SOAK_S", "30"))


@dataclass
class Balancer:
    """Asks gateways whether they are ready, and sends to those that are."""

    edges: list[Edge] = field(default_factory=list)
    ready: dict[int, Client] = field(default_factory=dict)
    gone: list[Client] = field(default_factory=list)
    unready_at: dict[int, float] = field(default_factory=dict)
    shut_at: dict[int, float] = field(default_factory=dict)

    async def probe(self, one: Edge) -> None:
        """Ask one gateway, again and again, until it does not listen any more."""
        while True:
            probing = Client(one.port)
            try:
                status = (await probing.exchange(_PROBE))[0]
            except (OSError, asyncio.IncompleteReadError):
                self.shut_at[one.port] = time.monotonic()
                self.drop(one)
                return
            finally:
                probing.close()
            if status == 200 and one.port not in self.ready:
                self.ready[one.port] = Client(one.port)
            elif status != 200:
                self.unready_at.setdefault(one.port, time.monotonic())
                self.drop(one)
            await asyncio.sleep(PROBE_S)

    def drop(self, one: Edge) -> None:
        """Send nothing more to a gateway; what it is asked already, it answers."""
        if (gone := self.ready.pop(one.port, None)) is not None:
            self.gone.append(gone)

    def close(self) -> None:
        for to in (*self.ready.values(), *self.gone):
            to.close()

    async def ask(self, content: bytes, number: int) -> Shot:
        able = list(self.ready.values())
        return await able[number % len(able)].ask(content)


_PROBE = b"GET /v2/health/ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"


async def test_gateways_that_are_replaced_under_load_lose_nothing(tmp_path: Path) -> None:
    balancer = Balancer()
    shots: list[asyncio.Task[Shot]] = []
    stop = asyncio.Event()

    async def load() -> None:
        content, number = request(), 0
        while not stop.is_set():
            shots.append(asyncio.create_task(balancer.ask(content, number)))
            number += 1
            await asyncio.sleep(0.006)

    with (
        contextlib.ExitStack() as stack,
        backend(tmp_path / "b", service_s=0.03) as one,
    ):
        probing: list[asyncio.Task[None]] = []

        async def add(number: int) -> Edge:
            made = await asyncio.to_thread(
                lambda: stack.enter_context(
                    edge(
                        tmp_path / str(number), {"phase1": one.url}, tiers=ONE, leave_s=f"{LEAVE_S}"
                    )
                )
            )
            probing.append(asyncio.create_task(balancer.probe(made)))
            while made.port not in balancer.ready:
                await asyncio.sleep(0.02)
            return made

        old = [await add(0), await add(1)]
        loading = asyncio.create_task(load())
        for number in range(2, 2 + ROUNDS):
            fresh = await add(number)
            leaving = old.pop(0)
            leaving.process.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(leaving.process.process.wait, 20) == 0
            old.append(fresh)
        stop.set()
        await loading
        ended = await asyncio.gather(*shots)
        for task in probing:
            task.cancel()
        await asyncio.gather(*probing, return_exceptions=True)
        balancer.close()
    failed = [shot for shot in ended if not shot.ok]
    ahead = [balancer.shut_at[port] - at for port, at in balancer.unready_at.items()]
    print(
        f"\n{ROUNDS} gateways replaced under load, one after the other: {len(failed)} of "
        f"{len(ended)} requests failed (asked: 0); each was not ready {min(ahead):.2f} s or more "
        f"before it stopped to listen (ROUTER_LEAVE_S={LEAVE_S:g})"
    )
    assert not failed, [(shot.status, shot.why) for shot in failed[:5]]
    assert len(ahead) == ROUNDS
    assert min(ahead) >= LEAVE_S / 2


async def test_the_memory_of_a_gateway_under_load_stays_flat(tmp_path: Path) -> None:
    grown: list[tuple[float, float]] = []
    with (
        backend(tmp_path / "b") as one,
        edge(tmp_path / "e", {"phase1": one.url}, tiers=ONE) as on,
    ):
        content = request(20)
        await fire_on(on.client, content, SOAK_S / 3)  # what there is once
        began = time.monotonic()
        loading = asyncio.create_task(fire_on(on.client, content, SOAK_S))
        while not loading.done():
            grown.append((time.monotonic() - began, on.status.memory_info().rss / 1024**2))
            await asyncio.sleep(0.25)
        requests = await loading
    times, sizes = np.array(grown).T
    slope = 600 * float(np.polyfit(times, sizes, 1)[0])
    rise = float(np.median(sizes[-len(sizes) // 5 :]) - np.median(sizes[: len(sizes) // 5]))
    print(
        f"\n{requests} requests in {SOAK_S:g} s: resident memory {np.median(sizes):.1f} MiB, "
        f"{rise:+.2f} MiB from the first fifth to the last, a slope of {slope:+.1f} MiB in 10 "
        "minutes (asked: 1 MiB over an hour; TURNOUT_SOAK_S=3600)"
    )
    # A short soak cannot tell a slope of a MiB in ten minutes from the allocator's steps.
    assert rise <= max(1.0, SOAK_S / 600)


async def fire_on(to: Client, content: bytes, seconds: float) -> int:
    """Ask on, a few at once and about 200 a second; return the number of requests.

    Never more than a few: a machine that stands still for a second would else be met by a crowd
    when it goes on, and memory keeps the trace of the largest crowd there was.
    """
    until, done = time.monotonic() + seconds, 0

    async def ask_on() -> None:
        nonlocal done
        while time.monotonic() < until:
            shot = await to.ask(content)
            assert shot.ok, shot
            done += 1
            await asyncio.sleep(AT_ONCE / 200)

    await asyncio.gather(*(ask_on() for _ in range(AT_ONCE)))
    return done
