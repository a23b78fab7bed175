"""Promise 19: 100,000 random paths, models and headers leave no trace but counts.

Every request is sound as far as its framing goes, so that it reaches the application, fifty to a
connection at a time; framing that is not sound has a connection of its own. Chance has a seed.
"""

import asyncio
import random
import time
from pathlib import Path
from urllib.parse import quote_from_bytes

import httpx2
import pytest
from hostile import Gateway, answer, connected, gateway, model_server

from backends.serving.access import Key, Right, digest_of, new_key

pytestmark = pytest.mark.faults

REQUESTS = 100_000
WARM = 20_000
AT_ONCE = 50
KEY = new_key(bytes(range(32)))
NAMES = (
    *("x-request-id", "traceparent", "tracestate", "x-turnout-arm", "x-turnout-shadow"),
    *("x-request-timeout-ms", "authorization", "inference-header-content-length", "cookie"),
    *("x-forwarded-for", "forwarded", "content-encoding", "content-type", "accept", "te"),
    *("keep-alive", "proxy-authorization", "x-context-length", "expect", "range", "via"),
)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "TRACE", "REPORT")
TEMPLATES = (
    "/{}",
    "/v2/models/{}",
    "/v2/models/{}/infer",
    "/v2/models/lvm/versions/{}",
    "/v2/models/lvm/versions/{}/infer",
    "/v2/models/{}/versions/{}/ready",
    "/v1/predict?{}",
    "/v1/{}",
    "/docs/{}",
    "/metrics?{}",
)
UNSOUND = (
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    b"GET /\r\nx: y HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET / HTTP/1.1\nhost: a\n\n",
    b'GET / HTTP/1.1\r\nhost: a\r\nx: a\rb\n{"event": "forged"}\r\n\r\n',
    b"GET / HTTP/1.1\r\nhost: a\r\nx-request-id: a\x00b\r\n\r\n",
)


def words(chance: random.Random) -> bytes:
    """Make random bytes, some of them such as would break a line or a label."""
    kind = chance.random()
    if kind < 0.4:
        return chance.randbytes(chance.randint(0, 40))
    if kind < 0.8:  # what a path may hold: control characters are refused at the gate
        return bytes(byte for byte in chance.randbytes(40) if 32 <= byte < 127)
    start = chance.choice(
        (b'"}\n', b"\r\n", b"{{x}}", b"'; --", b"\x1b[2J", b"../..", b"%00", b"\xff")
    )
    return start + chance.randbytes(8)


def request(chance: random.Random) -> bytes:
    """Make a request whose framing is sound, and nothing else."""
    path = chance.choice(TEMPLATES)
    path = path.format(*(quote_from_bytes(words(chance), safe="") for _ in range(path.count("{}"))))
    lines = [f"{chance.choice(METHODS)} {path} HTTP/1.1".encode(), b"host: a"]
    mine = chance.random() < 0.8
    for _ in range(chance.randint(0, 6)):
        name = chance.choice(NAMES) if chance.random() < 0.7 else f"x-{chance.randbytes(4).hex()}"
        if name == "expect" or (mine and name == "authorization"):
            continue  # the one is answered in two parts: tests/integration/test_wire.py
        value = bytes(byte for byte in words(chance) if byte >= 32 and byte != 127)
        lines.append(name.encode() + b": " + value.strip())
    if mine:
        lines.append(b"authorization: Bearer " + KEY.encode())
    body = words(chance) if chance.random() < 0.5 else b""
    return b"\r\n".join([*lines, b"content-length: %d" % len(body), b"", body])


async def send(edge: Gateway, requests: int, seed: int) -> dict[int, int]:
    """Send random requests, and count the answers by status."""
    chance = random.Random(seed)  # noqa: S311 - chance has a seed
    found: dict[int, int] = {}
    left = requests
    while left:
        async with connected(edge.port) as (reader, writer):
            for _ in range(20):
                count = min(left, AT_ONCE)
                batch = [request(chance) for _ in range(count)]
                writer.write(b"".join(batch))
                for _ in batch:
                    status, headers, _ = await answer(reader)
                    found[status] = found.get(status, 0) + 1
                    assert headers["x-request-id"]
                    assert headers.get("connection") != "close"
                left -= count
    return found


def series(edge: Gateway) -> set[str]:
    """List every series that the metrics have."""
    headers = {"authorization": f"Bearer {KEY}"}
    text = httpx2.get(f"http://127.0.0.1:{edge.port}/metrics", headers=headers).text
    return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}


async def test_hostile_input_makes_no_series_forges_no_line_and_breaks_nothing(
    tmp_path: Path,
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(str(Key("ci", frozenset({Right.PREDICT, Right.OVERRIDE}), digest_of(KEY))))
    with (
        model_server(tmp_path / "backend") as url,
        gateway(tmp_path / "gateway", url, ROUTER_KEYS_FILE=str(keys)) as edge,
    ):
        await send(edge, WARM, seed=1)
        for unsound in UNSOUND:
            async with connected(edge.port) as (reader, writer):
                writer.write(unsound)
                assert (await answer(reader))[0] in {400, 505}
        before, memory = series(edge), edge.memory("VmRSS")
        began = time.monotonic()
        shares = await asyncio.gather(*(send(edge, REQUESTS // 4, seed) for seed in range(2, 6)))
        for unsound in UNSOUND * 20:
            async with connected(edge.port) as (reader, writer):
                writer.write(unsound)
                assert (await answer(reader))[0] in {400, 505}
        took = time.monotonic() - began
        after, log = series(edge), edge.process.log()  # every line of it is JSON
        grown = (edge.memory("VmRSS") - memory) / 1024**2
        text = edge.process.log_file.read_text()
    statuses = {
        status: sum(one.get(status, 0) for one in shares) for one in shares for status in one
    }
    print(
        f"\n{sum(statuses.values())} requests in {took:.0f} s: {dict(sorted(statuses.items()))}; "
        f"{len(before)} series before, {len(after)} after; {len(log)} log lines; "
        f"memory {grown:+.1f} MiB"
    )
    assert sum(statuses.values()) == REQUESTS
    assert not [status for status in statuses if status >= 500]
    assert after == before
    assert not [line for line in log if line["event"] == "forged"]
    assert {line["level"] for line in log} <= {"info", "warning"}
    assert KEY not in text
