"""One client, measured in a process of its own: writes what it found as one line of JSON.

`python bench_client_child.py NAME --port N --tls-port N --unix PATH --ca FILE --seconds S`
"""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

import psutil
import uvloop
from bench_http import CLIENTS, Client

PATH: Final = "/v2/models/lvm/infer"
SMALL, LARGE = os.urandom(10 * 3072), os.urandom(500 * 3072)
"""10 and 500 vectors of 768 float32."""
CHUNK: Final = 64 * 1024
CONNECTIONS: Final = 16
POOL, WORKERS, AFTER = 10, 30, 10
HEADERS: Final = {"content-type": "application/octet-stream", "x-request-id": "bench"}
MS: Final = 1e3


async def one_by_one(client: Client, body: bytes, seconds: float, *, stream: bool) -> float:
    """Give the median milliseconds of a request, one at a time; `stream` sends 64 KiB at a time."""
    taken: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        status, answer = await client.post(
            PATH,
            pieces(body) if stream else body,
            {**HEADERS, "content-length": str(len(body))} if stream else HEADERS,
        )
        taken.append(time.perf_counter() - began)
        assert status == 200 and answer, status  # noqa: PT018 - one fact
    return MS * median(taken)


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    """Give `body` as a server hands it on while it arrives."""
    for start in range(0, len(body), CHUNK):
        yield body[start : start + CHUNK]


async def rate(client: Client, seconds: float) -> float:
    """Count requests of 30 KB a second over 16 connections kept busy."""
    done = 0
    end = time.monotonic() + seconds

    async def work() -> None:
        nonlocal done
        while time.monotonic() < end:
            status, _ = await client.post(PATH, SMALL, HEADERS)
            assert status == 200
            done += 1

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return done / seconds


async def churn(make: Callable[[], Client], seconds: float) -> dict[str, Any]:
    """Cancel at random for a while: do all requests succeed after that, and is all given back?"""
    gc.collect()
    before = descriptors()
    chance = random.Random(1)  # noqa: S311 - no secret
    end = time.monotonic() + seconds
    client = make()
    cancelled = 0
    failures: dict[str, int] = {}

    async def work() -> None:
        nonlocal cancelled
        while time.monotonic() < end:
            headers = {**HEADERS, "x-bench-delay-ms": f"{chance.uniform(0.1, 20):.1f}"}
            try:
                async with asyncio.timeout(chance.uniform(0, 0.03)):
                    await client.post(PATH, SMALL, headers)
            except TimeoutError:
                cancelled += 1
            except Exception as error:  # noqa: BLE001 - counted by name
                name = type(error).__name__
                failures[name] = failures.get(name, 0) + 1

    await asyncio.gather(*(work() for _ in range(WORKERS)))
    good = await asyncio.gather(*(succeeds(client, PATH) for _ in range(AFTER)))
    peak = descriptors()
    await client.close()
    return {
        "cancelled": cancelled,
        "failures": failures,
        "good": f"{sum(good)}/{AFTER}",
        "descriptors at the end": peak - before,
        "left after close": await settles(lambda: descriptors() - before),
        "tasks left": len(asyncio.all_tasks()) - 1,
    }


async def succeeds(client: Client, path: str, headers: dict[str, str] | None = None) -> bool:
    """Whether a request is answered with 200 within two seconds."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(2):
            status, _ = await client.post(path, SMALL, {**HEADERS, **(headers or {})})
            return status == 200
    return False


async def settles(value: Callable[[], int]) -> int:
    """Give a count some time to come down to 0."""
    for _ in range(20):
        if value() <= 0:
            return 0
        gc.collect()
        await asyncio.sleep(0.05)
    return value()


def descriptors() -> int:
    """Count this process's open file descriptors."""
    return len(list(Path("/proc/self/fd").iterdir()))


# --- what a client can do -------------------------------------------------------------------------


async def abilities(options: argparse.Namespace, make: Callable[..., Client]) -> dict[str, str]:
    """Try what a gateway needs; a word each, "yes" being good."""
    plain = make()
    tried: dict[str, Callable[[], Awaitable[str]]] = {
        "Unix sockets": lambda: reached(lambda: make(unix=options.unix, base="http://backend")),
        "TLS, own authority": lambda: reached(
            lambda: make(base=f"https://localhost:{options.tls_port}", ca=options.ca)
        ),
        "TLS, unknown authority refused": lambda: refused(
            lambda: make(base=f"https://localhost:{options.tls_port}")
        ),
        "redirects off": lambda: said(plain, "/redirect", b"", 307),
        "environment's proxy ignored": lambda: reached(make),
        "100 Continue": lambda: reached(make, {"expect": "100-continue"}),
        "a stream keeps its length": lambda: framing(plain),
        "answer in parts": lambda: in_parts(plain),
        "after the backend closed": lambda: after_close(plain),
        "a cancel reaches the backend": lambda: cancel_seen(plain),
    }
    os.environ["HTTP_PROXY"] = os.environ["http_proxy"] = "http://127.0.0.1:9"
    found: dict[str, str] = {}
    for name, attempt in tried.items():
        try:
            found[name] = await attempt()
        except NotImplementedError:
            found[name] = "no"
        except Exception as error:  # noqa: BLE001 - the table says which
            found[name] = f"no: {type(error).__name__} {error}"[:90]
    await plain.close()
    return found


async def reached(make: Callable[[], Client], headers: dict[str, str] | None = None) -> str:
    client = make()
    try:
        async with asyncio.timeout(2):
            status, _ = await client.post(PATH, SMALL, {**HEADERS, **(headers or {})})
    finally:
        await client.close()
    return "yes" if status == 200 else f"no: {status}"


async def refused(make: Callable[[], Client]) -> str:
    client = make()
    try:
        async with asyncio.timeout(2):
            await client.post(PATH, SMALL, HEADERS)
    except TimeoutError:
        raise
    except Exception:  # noqa: BLE001 - each library has its own
        return "yes"
    finally:
        await client.close()
    return "no"


async def said(client: Client, path: str, body: bytes, status: int) -> str:
    found, _ = await client.post(path, body, HEADERS)
    return "yes" if found == status else f"no: {found}"


async def framing(client: Client) -> str:
    length = {**HEADERS, "content-length": str(len(LARGE))}
    _, answer = await client.post("/framing", pieces(LARGE), length)
    return "yes" if answer == b"length" else f"no: {answer.decode()}"


async def in_parts(client: Client) -> str:
    began = time.monotonic()
    arrived = [time.monotonic() - began async for _ in client.parts("/stream")]
    return "yes" if arrived[-1] - arrived[0] > 0.1 else "no"


async def after_close(client: Client) -> str:
    """Send when the backend has just closed the kept connection: how many of 20 succeed."""
    good = 0
    for _ in range(20):
        await client.post("/then-close", SMALL, HEADERS)
        await asyncio.sleep(0.02)
        good += await succeeds(client, PATH)
    return "yes" if good == 20 else f"{good}/20"


async def cancel_seen(client: Client) -> str:
    """Leave a request that would take long: the milliseconds until the backend knows."""
    before = json.loads((await client.post("/counts", b"", {}))[1])["left"]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await client.post(PATH, SMALL, {**HEADERS, "x-bench-delay-ms": "5000"})
    began = time.monotonic()
    while time.monotonic() - began < 2:
        if json.loads((await client.post("/counts", b"", {}))[1])["left"] > before:
            return "yes"
        await asyncio.sleep(0.005)
    return "no"


# --- all of it ------------------------------------------------------------------------------------


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what the options say."""
    kind = CLIENTS[options.name]
    base = f"http://127.0.0.1:{options.port}"

    def make(base: str = base, **more: Any) -> Client:
        return kind(base, connections=POOL, **more)

    if options.what == "able":
        return {
            "able": await abilities(options, make),
            "churn": await churn(make, options.churn_seconds),
        }
    process = psutil.Process()
    before_import = process.memory_info().rss
    client = kind(base, connections=100)
    await rate(client, 0.3)
    cpu = time.process_time()
    rps = await rate(client, options.seconds)
    busy = (time.process_time() - cpu) / options.seconds
    found = {
        "30 KB, 16 connections": rps,
        "CPU of one of those": 1e6 * busy / rps,
        "30 KB, one connection": await one_by_one(client, SMALL, options.seconds, stream=False),
        "1.5 MB, one connection": await one_by_one(client, LARGE, options.seconds, stream=False),
        "1.5 MB as a stream of 64 KiB": await one_by_one(
            client, LARGE, options.seconds, stream=True
        ),
        "memory that it took": (process.memory_info().rss - before_import) / 1e6,
    }
    await client.close()
    return found


def main() -> None:
    """Measure one client, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CLIENTS)
    parser.add_argument("what", choices=("fast", "able"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tls-port", type=int)
    parser.add_argument("--unix")
    parser.add_argument("--ca", type=Path)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--churn-seconds", type=float, default=5.0)
    print(json.dumps(uvloop.run(measure(parser.parse_args()))))  # noqa: T201 - what it is for


if __name__ == "__main__":
    main()
