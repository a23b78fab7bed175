"""Promise 16: bodies are bounded, one and all together."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import Gateway, answer, connected, gateway, model_server, post, prediction

from backends.serving.content import MIB

pytestmark = pytest.mark.faults

LIMIT_MB = 64
HUGE_MB = 300
HELD_MB = 128
PIECE = bytes(MIB)


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Gateway]:
    limits = {"ROUTER_MAX_BODY_MB": str(LIMIT_MB), "ROUTER_MAX_HELD_MB": str(HELD_MB)}
    with (
        model_server(tmp_path / "backend") as url,
        gateway(tmp_path / "gateway", url, **limits) as edge,
    ):
        yield edge


async def predicts(edge: Gateway) -> bool:
    async with connected(edge.port) as (reader, writer):
        writer.write(prediction())
        return (await answer(reader))[0] == 200


async def send_all(writer: asyncio.StreamWriter, *, chunked: bool, mib: int = HUGE_MB) -> int:
    """Send MiB after MiB, until all is sent or the server has closed; return how many went."""
    for sent in range(mib):
        try:
            writer.write(b"100000\r\n" + PIECE + b"\r\n" if chunked else PIECE)
            await writer.drain()
        except ConnectionError:
            return sent
    return mib


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_of_300_mib_is_413_and_costs_less_than_twice_the_limit(
    edge: Gateway, chunked: bool
) -> None:
    assert await predicts(edge)
    framing = "transfer-encoding: chunked" if chunked else f"content-length: {HUGE_MB * MIB}"
    before = edge.forget_peak()
    async with connected(edge.port) as (reader, writer):
        writer.write(post("/v1/predict", framing))
        sending = asyncio.create_task(send_all(writer, chunked=chunked))
        status, _, body = await answer(reader)
        sent = await sending
    grown = (edge.memory() - before) / MIB
    print(f"\n{framing}: {status} {body!r} after {sent} of {HUGE_MB} MiB; memory +{grown:.1f} MiB")
    assert status == 413
    assert grown <= 2 * LIMIT_MB
    assert await predicts(edge)


async def test_an_announced_300_mib_is_413_before_a_byte_is_sent(edge: Gateway) -> None:
    expecting = (f"content-length: {HUGE_MB * MIB}", "expect: 100-continue")
    async with connected(edge.port) as (reader, writer):
        writer.write(post("/v1/predict", *expecting))
        status, headers, _ = await answer(reader)
    assert (status, headers["connection"]) == (413, "close")


async def test_many_stalled_uploads_share_one_bound_and_predictions_go_on(edge: Gateway) -> None:
    assert await predicts(edge)
    before = edge.forget_peak()
    async with contextlib.AsyncExitStack() as stack:
        stalled = [await stack.enter_async_context(connected(edge.port)) for _ in range(12)]
        for _, writer in stalled:
            writer.write(post("/v1/predict", f"content-length: {62 * MIB}"))
        sent = await asyncio.gather(
            *(send_all(writer, chunked=False, mib=61) for _, writer in stalled)
        )
        answering = [asyncio.create_task(answer(reader)) for reader, _ in stalled]
        refused, held = await asyncio.wait(answering, timeout=2)
        for task in held:
            task.cancel()
        statuses = [task.result()[0] for task in refused]
        assert await predicts(edge)
    grown = (edge.memory() - before) / MIB
    print(
        f"\n12 stalled uploads, {sum(sent)} MiB sent, {HELD_MB} MiB may be held: "
        f"{len(statuses)} refused, memory +{grown:.1f} MiB"
    )
    assert set(statuses) == {503}
    assert len(statuses) == 12 - HELD_MB // 61
    assert grown <= 2 * HELD_MB
