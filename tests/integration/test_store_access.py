"""The store over TLS, and with users that may do no more than they need."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from gateway_rig import gateway
from module_process import ModuleProcess, started
from redis import Redis
from redis.exceptions import NoPermissionError
from secure_store import KINDS, Certificates, Kind, certificates, secured

from rollout.controller import Controller
from rollout.errors import StoreUnavailable
from rollout.feed import Feed, FeedUnavailable
from rollout.keys import Keys
from rollout.orders import Order
from rollout.plan import DEFAULT_PLAN
from rollout.reach import Tls
from rollout.snapshot import DEFAULT_TIERS, Batch, Cell, Heartbeat
from rollout.store.redis import RedisStore

ORDER = Order(actor="ann", reason="a test")
KEYS = Keys()
Serve = Callable[..., str]
"""Serve a store over TLS, `asks` for a certificate, and give its URL."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=KINDS)
def serve(
    request: pytest.FixtureRequest,
    valkey_socket: Path,
    valkey_url: str,
    files: Certificates,
    tmp_path: Path,
) -> Iterator[Serve]:
    assert valkey_url, "it is empty"
    kind: Kind = request.param
    with ExitStack() as stack:

        def over_tls(*, asks: bool = False, user: str = "", host: str = "localhost") -> str:
            port = stack.enter_context(
                secured(kind, valkey_socket, files, tmp_path, asks=asks),
            )
            return f"rediss://{user}{host}:{port}/0"

        yield over_tls


def trusting(files: Certificates) -> Tls:
    return Tls(ca_file=files.authority)


async def test_controller_and_gateway_meet_in_a_store_behind_tls(
    serve: Serve, files: Certificates
) -> None:
    url, tls = serve(), trusting(files)
    store, feed = RedisStore(url, tls=tls), Feed(url, tls=tls, timeout_s=10)
    begun = await Controller(store, DEFAULT_TIERS).start(DEFAULT_PLAN, ORDER)
    seen = await feed.snapshot()
    assert seen is not None
    assert seen.rollout is not None
    assert seen.rollout.id == begun.rollout
    await feed.beat(Heartbeat(boot="b", at=time.time(), epoch=1, version=1, held=False))
    cell = Cell(begun.rollout, 1, "shadow-5", 1, "101-200")
    assert await feed.flush(Batch("b", 1, {cell: {"assigned.incumbent": 3}}))
    found = await store.observations(begun.rollout, 1, ["shadow-5"])
    assert found.counts["shadow-5"] == {"-|101-200|assigned.incumbent": 3}
    changes = feed.changes()
    assert (await anext(changes)) == seen
    await changes.aclose()  # type: ignore[attr-defined] # it is an async generator
    await feed.close()
    await store.close()


async def test_a_store_whose_certificate_nobody_vouches_for_is_not_spoken_to(
    serve: Serve, files: Certificates
) -> None:
    url = serve()
    doubting = RedisStore(url)
    with pytest.raises(StoreUnavailable, match="certificate"):
        await doubting.load()
    await doubting.close()
    other_name = Feed(url.replace("localhost", "127.0.0.1"), tls=trusting(files), timeout_s=10)
    with pytest.raises(FeedUnavailable, match=r"127\.0\.0\.1"):
        await other_name.snapshot()
    await other_name.close()


async def test_a_store_that_asks_for_a_certificate_gets_the_clients_own(
    serve: Serve, files: Certificates
) -> None:
    url = serve(asks=True)
    nameless = RedisStore(url, tls=trusting(files))
    with pytest.raises(StoreUnavailable):
        await nameless.load()
    await nameless.close()
    known = RedisStore(url, tls=Tls(files.authority, files.client, files.client_key))
    assert (await known.load()).snapshot is None
    await known.close()


@pytest.mark.parametrize("serve", ["relay"], indirect=True)
async def test_processes_reach_a_store_behind_tls_by_their_settings(
    serve: Serve, files: Certificates, tmp_path: Path
) -> None:
    settings = {
        "TURNOUT_REDIS_URL": serve(asks=True),
        "TURNOUT_REDIS_CA_FILE": str(files.authority),
        "TURNOUT_REDIS_CERT_FILE": str(files.client),
        "TURNOUT_REDIS_KEY_FILE": str(files.client_key),
    }
    named: dict[str, Any] = {
        name.removeprefix("TURNOUT_").lower(): value for name, value in settings.items()
    }

    def ready(process: ModuleProcess) -> str:
        url = str(process.event("listening")["url"])
        assert httpx2.get(f"{url}/health/ready").status_code == 200
        return url

    environment = {**settings, "ROLLOUT_PORT": "0"}
    with started("rollout", tmp_path / "log", **environment) as controller:
        url = await asyncio.to_thread(ready, controller)
        async with gateway(tmp_path / "gateway", **named), httpx2.AsyncClient() as client:

            async def alive() -> int:
                return len((await client.get(f"{url}/v1/rollouts/current")).json()["gateways"])

            limit = time.monotonic() + 10
            while not await alive():
                assert time.monotonic() < limit, "no gateway came"
                await asyncio.sleep(0.05)
        assert await asyncio.to_thread(controller.end) == 0


# --- users ---------------------------------------------------------------------------------------


@pytest.fixture
def gateway_user(valkey_url: str, valkey_users: dict[str, str]) -> Iterator[Redis]:
    assert valkey_url, "it is empty"
    with Redis.from_url(valkey_users["gateway"]) as client:
        yield client


@pytest.fixture
def controller_user(valkey_url: str, valkey_users: dict[str, str]) -> Iterator[Redis]:
    assert valkey_url, "it is empty"
    with Redis.from_url(valkey_users["controller"]) as client:
        yield client


def refused(client: Redis, *words: str | int) -> None:
    with pytest.raises(NoPermissionError):
        client.execute_command(*words)  # type: ignore[no-untyped-call] # redis-py left it untyped


def test_a_gateways_user_can_move_no_rollout(gateway_user: Redis) -> None:
    for words in (
        ("SET", KEYS.snapshot, "x"),
        ("GET", KEYS.record),
        ("HSET", KEYS.records, "r1", "x"),
        ("SET", KEYS.lease, "me:1"),
        ("XADD", KEYS.audit, "*", "entry", "x"),
        ("PUBLISH", KEYS.changed, "x"),
        ("SUBSCRIBE", "another"),
        ("EVAL", "return redis.call('SET', KEYS[1], 'x')", 1, KEYS.snapshot),
    ):
        refused(gateway_user, *words)
    gateway_user.eval("return redis.call('SET', KEYS[1], 1)", 1, KEYS.sequence("b"))


def test_a_controllers_user_can_count_nothing(controller_user: Redis) -> None:
    counts = KEYS.counts("r1", 1, "shadow-5")
    for words in (
        ("HINCRBY", counts, "-|101-200|assigned.candidate", 1),
        ("HSET", counts, "-|101-200|assigned.candidate", 1),
        ("DEL", counts),
        ("SET", KEYS.pending("q"), "{}"),
    ):
        refused(controller_user, *words)
    controller_user.hgetall(counts)


def test_neither_user_can_look_at_or_change_anything_else(
    gateway_user: Redis, controller_user: Redis
) -> None:
    for client in (gateway_user, controller_user):
        for words in (
            ("GET", "another"),
            ("SET", "{another}:snapshot", "x"),
            ("KEYS", "*"),
            ("FLUSHALL",),
            ("CONFIG", "GET", "*"),
            ("ACL", "LIST"),
            ("MONITOR",),
            ("SCRIPT", "FLUSH"),
        ):
            refused(client, *words)


async def test_a_wrong_password_is_told_and_written_nowhere(
    valkey_socket: Path, valkey_users: dict[str, str]
) -> None:
    assert valkey_users
    store = RedisStore(f"unix://turnout-gateway:not-it@{valkey_socket}")
    with pytest.raises(StoreUnavailable, match="invalid username-password pair") as caught:
        await store.load()
    assert "not-it" not in str(caught.value)
    await store.close()
