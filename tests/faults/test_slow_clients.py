"""Promise 17: slow clients are cut within 30 s, and nobody else waits for them.

Two gateways stand before one model server: one is attacked, the other is not. Requests go to both
in turn, so that whatever else the machine does meets both alike.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import CLOSED_S, Gateway, answer, connected, gateway, model_server, post, prediction

pytestmark = pytest.mark.faults

EACH = 100
"""Clients of each kind."""
BOUND_S = 30.0
WARM = 200

Attack = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


async def slow_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _drip(writer, post("/v1/predict")[:-2], b"x: y\r\n")


async def slow_body(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _drip(writer, post("/v1/predict", "content-length: 100000"), b" ")


async def slow_chunks(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _drip(writer, post("/v1/predict", "transfer-encoding: chunked"), b"1\r\n \r\n")


async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _drip(writer, b"", b"")


async def idle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n\r\n")
    await answer(reader)
    await _drip(writer, b"", b"")


async def empty_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n\r\n")
    await answer(reader)
    await _drip(writer, b"", b"\r\n")


async def _drip(writer: asyncio.StreamWriter, first: bytes, then: bytes) -> None:
    """Send a first part, and a piece every second."""
    writer.write(first)
    while True:
        await asyncio.sleep(1)
        writer.write(then)


ATTACKS: tuple[Attack, ...] = (slow_head, slow_body, slow_chunks, silent, idle, empty_lines)


async def attacked(edge: Gateway, attack: Attack) -> float:
    """Attack with one connection, and return after how many seconds the server closed it."""
    async with connected(edge.port) as (reader, writer):
        began = time.monotonic()
        attacking = asyncio.create_task(attack(reader, writer))
        try:
            async with asyncio.timeout(CLOSED_S):
                if attack in {idle, empty_lines}:  # the attack reads its first answer itself
                    await asyncio.sleep(1)
                while await reader.read(1 << 16):
                    pass
        except ConnectionError:
            pass
        finally:
            attacking.cancel()
            await asyncio.gather(attacking, return_exceptions=True)
    return time.monotonic() - began


async def test_slow_clients_are_cut_within_30_s_and_nobody_else_waits(tmp_path: Path) -> None:
    with (
        model_server(tmp_path / "backend") as url,
        gateway(tmp_path / "attacked", url) as attacked_one,
        gateway(tmp_path / "calm", url) as calm_one,
    ):
        stop = asyncio.Event()
        asking = asyncio.create_task(_compare(attacked_one, calm_one, stop))
        tasks = [
            asyncio.create_task(attacked(attacked_one, attack))
            for attack in ATTACKS
            for _ in range(EACH)
        ]
        lasted = await asyncio.gather(*tasks)
        stop.set()
        slow, calm = await asking
    for number, attack in enumerate(ATTACKS):
        of_kind = lasted[number * EACH : (number + 1) * EACH]
        print(
            f"\n{attack.__name__}: closed after {min(of_kind):.1f} to {max(of_kind):.1f} s", end=""
        )
    p99 = [1e3 * float(np.quantile(times, 0.99)) for times in (slow, calm)]
    print(
        f"\n{len(tasks)} slow clients; {len(slow)} requests each: p99 {p99[0]:.2f} ms under "
        f"attack, {p99[1]:.2f} ms without ({p99[0] / p99[1]:.2f}x)"
    )
    assert max(lasted) <= BOUND_S
    assert p99[0] <= 1.5 * p99[1]


async def _compare(
    first: Gateway, second: Gateway, stop: asyncio.Event
) -> tuple[list[float], list[float]]:
    """Ask two gateways in turn until told to stop; return the seconds of each."""
    times: tuple[list[float], list[float]] = ([], [])
    request = prediction()
    async with connected(first.port) as one, connected(second.port) as two:
        while not stop.is_set():
            for (reader, writer), found in ((one, times[0]), (two, times[1])):
                began = time.perf_counter()
                writer.write(request)
                assert (await answer(reader))[0] == 200
                found.append(time.perf_counter() - began)
            await asyncio.sleep(0.005)
    return times[0][WARM:], times[1][WARM:]
