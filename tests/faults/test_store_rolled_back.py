"""Promises 7 and 8: a store that lost its memory is told, and an outage promotes nobody."""

import asyncio
import itertools
import json
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from desk import Desk, desk, quick
from load import Client, Shot, client, fire, request
from redis import Redis
from stage import Edge, Valkey, applied, backend, edge, until, valkey

from rollout.keys import Keys
from router.snapshots import HOLD_FILE

pytestmark = pytest.mark.faults

POLL_S = 0.25
RATE = 100.0
STAGE_S = 3.0
OUTAGE_S = 6.0


def to_the_candidate(shots: list[Shot]) -> int:
    return sum(shot.headers.get("x-turnout-assigned") == "phase2" for shot in shots)


async def is_lost(controller: Desk) -> bool:
    return bool((await controller.status())["store_lost"])


async def refused_by(on: Edge) -> bool:
    lines = await on.process_log("configuration refused")
    return any(line["why"] == "regression" for line in lines)


def called(condition: Callable[..., Awaitable[bool]], *parts: Any) -> Callable[[], Awaitable[bool]]:
    return lambda: condition(*parts)


@pytest.mark.parametrize("memory", ["an old dump", "none"])
async def test_a_store_that_lost_its_memory_moves_nobody_and_an_abort_is_obeyed(
    tmp_path: Path, memory: str
) -> None:
    with (
        backend(tmp_path / "b", arm="phase1") as one,
        backend(tmp_path / "b", arm="phase2") as two,
        valkey() as store,
        desk(tmp_path / "c", store.url, tick_s="0.2", lease_s="2") as controller,
    ):
        urls: dict[str, str | list[str]] = {"phase1": one.url, "phase2": two.url}
        settings = {"redis_url": store.url, "poll_s": str(POLL_S)}
        with (
            edge(tmp_path / "0", urls, **settings) as left,
            edge(tmp_path / "1", urls, **settings) as right,
        ):
            await controller.start(quick(scope="all"))
            await until(called(in_stage, controller, "shadow-5"), "the first stage has settled")
            dump = dumped(store)
            for stage in ("ab-25", "ab-50"):
                await controller.do("promote")
                await until(called(in_stage, controller, stage), f"{stage} has settled")
            version = str((await controller.status())["version"])
            await applied(version, left, right)
            before = await fire(left.client, request(), rate=RATE, seconds=2)
            store.kill()
            if memory == "an old dump":
                (store.folder / "dump.rdb").write_bytes(dump)
            store.start()
            told_s = await until(called(is_lost, controller), "the controller knows")
            for on in (left, right):
                await until(called(refused_by, on), "a gateway says so")
            shots = await fire(left.client, request(), rate=RATE, seconds=2)
            for verb in ("promote", "pause", "advance", "start"):
                code, answer = await controller.order(verb)
                assert (code, "lost its memory" in answer["error"]) == (409, True), answer
            aborted = await controller.do("abort")
            began = time.monotonic()
            await applied(aborted["version"], left, right)
            obeyed_s = time.monotonic() - began
            after = await fire(left.client, request(), rate=RATE, seconds=1)
            assert not await is_lost(controller)
    shares = [to_the_candidate(found) / len(found) for found in (before, shots, after)]
    print(
        f"\nstore at {version} came up with {memory}: the controller said so after {told_s:.1f} s; "
        f"{len({shot.headers['x-turnout-version'] for shot in shots})} version served, "
        f"{shares[1]:.0%} to the candidate as before ({shares[0]:.0%}); an abort made "
        f"{aborted['version']}, obeyed after {obeyed_s:.2f} s: {shares[2]:.0%}"
    )
    assert all(shot.ok for shot in (*before, *shots, *after))
    assert {shot.headers["x-turnout-version"] for shot in shots} == {version}
    assert abs(shares[0] - 0.5) < 0.15
    assert abs(shares[1] - 0.5) < 0.15
    assert aborted["version"] == "2.1"
    assert shares[2] == 0


def dumped(store: Valkey) -> bytes:
    with Redis.from_url(store.url) as to:
        to.save()
    return (store.folder / "dump.rdb").read_bytes()


def transitions(url: str) -> list[tuple[str, float, str]]:
    """List the transitions: the command, and when the store applied it; and the stage after."""
    with Redis.from_url(url, decode_responses=True) as to:
        found: Any = to.xrange(Keys().audit)
    entries = [(name, json.loads(fields["entry"])) for name, fields in found]
    return [
        (entry["command"], int(name.partition("-")[0]) / 1000, entry["stage_after"])
        for name, entry in entries
    ]


async def in_stage(controller: Desk, stage: str) -> bool:
    rollout = (await controller.status())["rollout"]
    return bool(rollout["stage"] == stage and rollout["visits"][-1]["settled_at"])


async def held_after(on: Edge, folder: Path) -> float:
    """Stop candidate traffic by hand; return how long it went on."""
    to = Client(on.port)
    began = time.monotonic()
    (folder / HOLD_FILE).touch()
    last = 0.0
    while time.monotonic() - began < 2.0:
        shot = await to.ask(request())
        if shot.headers.get("x-turnout-assigned") == "phase2":
            last = time.monotonic() - began
        await asyncio.sleep(0.005)
    to.close()
    (folder / HOLD_FILE).unlink()
    return last


async def test_an_outage_promotes_nobody_and_a_gateway_can_be_held_by_hand_in_it(
    tmp_path: Path,
) -> None:
    stages = tuple(stage.model_copy(update={"min_duration_s": STAGE_S}) for stage in quick().stages)
    plan = quick(scope="all", on_pass="advance", stages=stages)  # noqa: S106 - no password
    outages: list[tuple[float, float]] = []
    held: list[float] = []
    with (
        backend(tmp_path / "b", arm="phase1") as one,
        backend(tmp_path / "b", arm="phase2") as two,
        valkey() as store,
        desk(tmp_path / "c", store.url, tick_s="0.1", lease_s="2") as controller,
    ):
        urls: dict[str, str | list[str]] = {"phase1": one.url, "phase2": two.url}
        with edge(tmp_path / "e", urls, redis_url=store.url, flush_s="0.1") as on:
            async with client(on.port) as to:
                firing = asyncio.create_task(fire(to, request(), rate=RATE, seconds=60))
                await controller.start(plan)
                for stage in ("ab-25", "ab-50"):
                    await until(called(in_stage, controller, stage), f"{stage} has settled")
                    store.send(signal.SIGSTOP)
                    began = time.time()
                    held.append(await held_after(on, tmp_path / "e"))
                    await asyncio.sleep(max(0.0, OUTAGE_S - (time.time() - began)))
                    outages.append((began, time.time()))
                    store.go_on()
                await until(called(in_stage, controller, "ab-100"), "it goes on by itself")
                firing.cancel()
                await asyncio.gather(firing, return_exceptions=True)
        made = transitions(store.url)
    during = [one for one in made for began, ended in outages if began + 0.1 < one[1] < ended]
    advanced = [at for command, at, _ in made if command == "advance"]
    apart = min(later - at for at, later in itertools.pairwise(advanced))
    print(
        f"\n{len(outages)} outages of {OUTAGE_S:g} s, in which a stage of {STAGE_S:g} s was over: "
        f"{len(during)} transitions in them, {len(advanced)} advances in all, {apart:.1f} s apart "
        f"or more; held by hand in an outage, a gateway sent its last request to the candidate "
        f"after {max(held):.2f} s (asked: 1 s)"
    )
    assert during == []
    assert [one[2] for one in made if one[0] == "advance"] == ["ab-25", "ab-50", "ab-100"]
    assert apart >= STAGE_S  # nothing is made up for
    assert max(held) <= 1.0
