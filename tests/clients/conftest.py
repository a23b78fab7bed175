"""Two real servers for the clients of others: a model server, and a gateway in front of it.

These tests run in an environment that has the clients and not the product; TURNOUT_PYTHON names the
interpreter that has the product.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0
VECTORS = np.random.default_rng(1).standard_normal((300, 768)).astype(np.float32)
BANK = VECTORS[:200]


def _event(log: Path, process: subprocess.Popen[bytes], name: str) -> dict[str, Any]:
    """Wait for a line of a server's log."""
    limit = time.monotonic() + DEADLINE_S
    while time.monotonic() < limit and process.poll() is None:
        for line in log.read_text().split("\n")[:-1]:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == name:
                return event
        time.sleep(0.02)
    raise AssertionError(f"no event {name!r} in {log.read_text()}")


class Server:
    """A module of ours in its own interpreter."""

    def __init__(self, module: str, folder: Path, **environment: str) -> None:
        python = os.environ.get("TURNOUT_PYTHON", str(ROOT / ".venv" / "bin" / "python"))
        self.log = folder / f"{module}.jsonl"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [python, "-m", module],
                env={**os.environ, **environment},
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def event(self, name: str) -> dict[str, Any]:
        return _event(self.log, self.process, name)

    @property
    def address(self) -> str:
        """Its `host:port`."""
        return str(self.event("listening")["url"]).removeprefix("http://")

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(DEADLINE_S)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("servers")
    np.savez(folder / "bank.npz", vectors=BANK, ids=np.arange(1000, 1200))
    settings = {"ARM": "both", "PORT": "0", "MAX_LENGTH": "100", "BANK": str(folder / "bank.npz")}
    backend = Server("backends", folder, **{f"BACKEND_{key}": one for key, one in settings.items()})
    gateway = None
    try:
        url = f"http://{backend.address}"
        backend.event("ready")
        gateway = Server(
            "router",
            folder,
            ROUTER_PORT="0",
            ROUTER_STATE_DIR=str(folder),
            ROUTER_BACKENDS=json.dumps({"phase1": url, "phase2": url}),
        )
        yield {"backend": backend.address, "gateway": gateway.address}
    finally:
        if gateway:
            gateway.end()
        backend.end()


@pytest.fixture(params=["backend", "gateway"])
def address(request: pytest.FixtureRequest, servers: dict[str, str]) -> str:
    """Each server's address in turn: both speak the same protocol."""
    return servers[request.param]


@pytest.fixture
def context() -> Any:
    """A context of 20 of the bank's vectors, float32 `[1, 20, 768]`."""
    return VECTORS[np.newaxis, 100:120]
