"""Promises 13, 14 and 15: deadlines hold all the way, who leaves is let go, overload is shed."""

import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gateway_rig import publish, snapshot
from hostile import connected
from load import Client, Shot, capacity, client, fire, p99_ms, request
from stage import ONE, SECONDS, Backend, Edge, applied, backend, edge, until, valkey

pytestmark = pytest.mark.faults

ABORTS = 10_000
AT_ONCE = 50


async def outlived(
    shots: Sequence[Shot], deadline_s: float, backends: list[Backend]
) -> list[float]:
    """By how many seconds each call to a backend outlived its client's deadline."""
    ended: dict[str, list[float]] = {}
    for each in backends:
        for name, times in (await each.seen())["ended"].items():
            ended.setdefault(name, []).extend(times)
    return [
        end - (shot.at + deadline_s)
        for shot in shots
        for end in ended.get(shot.headers.get("x-request-id", ""), ())
    ]


async def test_no_call_to_a_backend_outlives_its_clients_deadline(tmp_path: Path) -> None:
    deadline_ms = 300
    with (
        backend(tmp_path / "b", arm="phase1", service_s=5.0) as one,
        backend(tmp_path / "b", arm="phase2", status=503) as failing,
        backend(tmp_path / "b", arm="phase2", service_s=5.0) as slow,
        backend(tmp_path / "b") as idle,
        # It tells what the machine itself makes of any request meanwhile.
        edge(tmp_path / "calm", {"phase1": idle.url}, tiers=ONE) as calm,
        valkey() as store,
    ):
        split: dict[str, Any] = {"mode": "ab", "weight": 50, "scope": "all"}
        await publish(store.url, snapshot(**split))
        urls: dict[str, str | list[str]] = {"phase1": one.url, "phase2": [failing.url, slow.url]}
        with edge(tmp_path / "e", urls, redis_url=store.url) as on:
            await applied("1.1", on)
            content = request(timeout_ms=deadline_ms)
            shots, still = await asyncio.gather(
                fire(on.client, content, rate=40, seconds=SECONDS / 2),
                fire(calm.client, request(), rate=40, seconds=SECONDS / 2),
            )
            await asyncio.sleep(0.2)
            late = await outlived(shots, deadline_ms / 1e3, [one, failing, slow])
    answered = [shot.seconds - deadline_ms / 1e3 for shot in shots]
    slowest = max(shot.seconds for shot in still)
    print(
        f"\n{len(shots)} requests with a deadline of {deadline_ms} ms and backends of 5 s: "
        f"{len(late)} calls, which outlived it by {1e3 * max(late):.0f} ms at most (asked: 100); "
        f"the clients had their 504 {1e3 * max(answered):.0f} ms after it at most; a gateway that "
        f"has nothing to do took up to {1e3 * slowest:.0f} ms on this machine meanwhile"
    )
    assert len(late) >= len(shots)
    assert {shot.status for shot in shots} <= {502, 504}
    assert max(late) <= 0.1 + slowest


async def test_ten_thousand_clients_that_leave_leave_nothing_behind(tmp_path: Path) -> None:
    with (
        backend(tmp_path / "b", arm="phase1", service_s=0.02) as one,
        backend(tmp_path / "b", arm="phase2", service_s=0.02) as two,
        valkey() as store,
    ):
        split: dict[str, Any] = {"mode": "ab", "weight": 50, "scope": "all", "shadow_sample": 50}
        await publish(store.url, snapshot(**split))
        urls: dict[str, str | list[str]] = {"phase1": one.url, "phase2": two.url}
        with edge(tmp_path / "e", urls, redis_url=store.url) as on:
            await applied("1.1", on)
            async with client(on.port) as to:
                await capacity(to, request(), seconds=1, at_once=AT_ONCE)
            before = await left_over(on, [one, two])
            began = time.monotonic()
            await abort_many(on.port)
            lasted = time.monotonic() - began
            answers = [await on.client.ask(request()) for _ in range(100)]

            async def calm() -> bool:
                return (await left_over(on, [one, two]))["under way"] == 0

            await until(calm, "nothing is under way")
            after = await left_over(on, [one, two])
    print(
        f"\n{ABORTS} clients left in {lasted:.0f} s; then {sum(shot.ok for shot in answers)} of "
        f"100 answered; before {before}, after {after}"
    )
    assert not [(shot.status, shot.why) for shot in answers if not shot.ok]
    assert after["under way"] == after["mirrors"] == 0
    assert after["descriptors"] <= before["descriptors"] + 5
    assert after["upstream connections"] <= before["upstream connections"] + 5
    assert after["MiB"] <= before["MiB"] + 32


async def left_over(on: Edge, backends: list[Backend]) -> dict[str, float]:
    return {
        "under way": await on.metric("gateway_requests_in_flight"),
        "mirrors": await on.metric("gateway_mirrors_in_flight"),
        "descriptors": on.status.num_fds(),
        "upstream connections": sum([(await each.seen())["open"] for each in backends]),
        "MiB": round(on.status.memory_info().rss / 1024**2),
    }


async def abort_many(port: int) -> None:
    """Leave at a random moment: while sending, before the answer, in the middle of it."""
    content = request(20)
    chance = random.Random(1)  # noqa: S311 - no secret

    async def abort_one() -> None:
        async with connected(port) as (_, writer):
            part = chance.random()
            writer.write(content if part > 0.3 else content[: int(len(content) * part / 0.3)])
            await asyncio.sleep(chance.random() * 0.04)

    async def abort_on(count: int) -> None:
        for _ in range(count):
            await abort_one()

    await asyncio.gather(*(abort_on(ABORTS // AT_ONCE) for _ in range(AT_ONCE)))


async def test_overload_is_shed_at_once_and_what_is_let_in_is_answered(tmp_path: Path) -> None:
    content = request()
    with (
        backend(tmp_path / "b", slots=4, service_s=0.04, queue=64) as one,
        backend(tmp_path / "b") as idle,
        backend(tmp_path / "b", slots=4, service_s=0.04, queue=64) as likewise,
        # Asked now and then meanwhile, it tells what the machine itself makes of any request;
        edge(tmp_path / "calm", {"phase1": idle.url}, tiers=ONE) as calm,
        # and this one, asked for all that it is able to, what the machine has left for a capacity.
        edge(tmp_path / "even", {"phase1": likewise.url}, tiers=ONE) as even,
    ):
        # Room for more than the backend works at, and for less than its queue: the gateway sheds.
        with edge(tmp_path / "e", {"phase1": one.url}, tiers=ONE, max_in_flight="16") as on:
            able = await capacity(on.client, content, seconds=3, at_once=8)
            overload, still, as_able = await overloaded(on, calm, even, able)
            ended = time.monotonic()
            recovered_s = await recovery(on.client, content) - ended
            shed_by_gateway = await on.metric("gateway_shed_total")
        judge("gateway", overload, still, min(able, as_able))
        # The other way round: the backend sheds, and the gateway passes that on.
        with edge(tmp_path / "f", {"phase1": one.url}, tiers=ONE, max_in_flight="2000") as on:
            passed_on, still, as_able = await overloaded(on, calm, even, able)
            openings = await on.metric("gateway_replica_ejections_total")
        judge("backend", passed_on, still, min(able, as_able))
    print(f"recovered {max(recovered_s, 0):.2f} s after the overload (asked: 5 s)")
    assert recovered_s <= 5
    assert shed_by_gateway == sum(shot.status == 503 for shot in overload)
    assert openings == 0, "a backend with too much to do is no broken one"


async def overloaded(
    on: Edge, calm: Edge, even: Edge, able: float
) -> tuple[list[Shot], list[Shot], float]:
    """Ask one gateway for three times what it is able to, one for little, one for as much.

    Also return how many of the latter's answers there were in a second.
    """
    return await asyncio.gather(
        fire(on.client, request(), rate=3 * able, seconds=SECONDS),
        fire(calm.client, request(), rate=30, seconds=SECONDS),
        capacity(even.client, request(), seconds=SECONDS, at_once=8),
    )


def judge(who: str, shots: list[Shot], still: list[Shot], able: float) -> None:
    goodput = sum(shot.ok for shot in shots) / SECONDS
    shed = [shot for shot in shots if shot.status == 503]
    print(
        f"\n{who} sheds, {len(shots) / SECONDS:.0f}/s for a capacity of {able:.0f}/s: goodput "
        f"{goodput / able:.0%} of it (asked: 90 %), {len(shed)} times 503, in "
        f"{1e3 * float(np.median([shot.seconds for shot in shed])):.1f} ms (median) and "
        f"{p99_ms(shed):.1f} ms (p99; asked: 50 ms; a gateway that has nothing to do took "
        f"{p99_ms(still):.1f} ms on this machine meanwhile)"
    )
    assert goodput >= 0.9 * able
    assert {shot.status for shot in shots} == {200, 503}
    assert all("retry-after" in shot.headers for shot in shed)
    assert p99_ms(shed) <= 50 + p99_ms(still)


async def recovery(to: Client, content: bytes) -> float:
    """Return when ten requests in a row had been answered as fast as a lone one is."""
    good = 0
    while good < 10:
        shot = await to.ask(content)
        good = good + 1 if shot.ok and shot.seconds < 0.2 else 0
    return time.monotonic()
