"""Health checks stay quick beside long JSON bodies: beside one that reads these on its loop.

Both servers are asked in turns in the same run, so that other work on the machine slows both.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

import httpx2
import numpy as np
import orjson
import pytest
from module_process import DEADLINE_S, ModuleProcess, started

ROUNDS: Final = 7
BODY_BYTES: Final = 10_000_000
VECTORS: Final = np.random.default_rng(1).standard_normal((700, 768))
INFER: Final = "/v2/models/lvm/infer"


@pytest.fixture(scope="module")
def long_body() -> bytes:
    """Write 10 MB of numbers in all their digits, each vector a list: the costliest to read."""
    tensor = {
        "name": "CONTEXT",
        "shape": [1, *VECTORS.shape],
        "datatype": "FP32",
        "data": VECTORS[np.newaxis],
    }
    body = orjson.dumps({"inputs": [tensor]}, option=orjson.OPT_SERIALIZE_NUMPY)
    assert len(body) > BODY_BYTES
    return body


@contextlib.contextmanager
def serving(module: str, folder: Path) -> Iterator[int]:
    """Run a model server whose engine has next to nothing to do: its window is one vector."""
    bank = folder / "bank.npz"
    np.savez(bank, vectors=VECTORS[:20].astype(np.float32), ids=np.arange(20))
    settings = {"ARM": "phase1", "PORT": "0", "MAX_LENGTH": "1", "BANK": str(bank)}
    environment = {f"BACKEND_{name}": value for name, value in settings.items()}
    environment["PYTHONPATH"] = f"{Path(__file__).parents[2]}:{Path(__file__).parent}"
    with started(module, folder / f"{module}.log", **environment) as process:
        process.event("ready")
        yield port_of(process)


def port_of(process: ModuleProcess) -> int:
    port = httpx2.URL(process.event("listening")["url"]).port
    assert port is not None
    return port


@contextlib.contextmanager
def connected(port: int) -> Iterator[HTTPConnection]:
    with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)) as connection:
        yield connection


def status(connection: HTTPConnection, method: str, path: str, body: bytes | None = None) -> int:
    connection.request(method, path, body)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def longest_check_s(port: int, body: bytes) -> float:
    """Check a server's health without a pause while it reads a body; return the longest's time."""
    statuses: list[int] = []
    longest = 0.0
    with connected(port) as posted, connected(port) as checked:
        posting = threading.Thread(
            target=lambda: statuses.append(status(posted, "POST", INFER, body))
        )
        posting.start()
        while posting.is_alive():
            began = time.perf_counter()
            assert status(checked, "GET", "/v2/health/live") == 200
            longest = max(longest, time.perf_counter() - began)
        posting.join()
    assert statuses == [200]
    return longest


def test_health_checks_do_not_wait_for_a_body_of_10_mb(tmp_path: Path, long_body: bytes) -> None:
    with serving("backends", tmp_path) as ours, serving("eager_reader", tmp_path) as eager:
        pairs = [
            (longest_check_s(ours, long_body), longest_check_s(eager, long_body))
            for _ in range(ROUNDS)
        ]
    # The least: other work can make any check long, and none behind a body short.
    beside, behind = (min(longest) for longest in zip(*pairs, strict=True))
    assert beside < behind / 2, pairs
