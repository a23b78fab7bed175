"""A controller as a real process, and a person at its HTTP interface."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from load import Client
from module_process import ModuleProcess, started

from rollout.plan import DEFAULT_PLAN, Plan

PATIENCE_S = 10.0
"""More than a controller waits for its store, three times over."""


def quick(**more: Any) -> Plan:
    """Make a plan whose gates pass on the first request."""
    stages = tuple(
        stage.model_copy(
            update={"min_duration_s": 0.0, "min_requests": 1, "min_pairs": 0, "require": ()}
        )
        for stage in DEFAULT_PLAN.stages
    )
    return DEFAULT_PLAN.model_copy(update={"stages": stages, "watermark_s": 0.0, **more})


class Desk:
    """One controller's process."""

    def __init__(self, process: ModuleProcess) -> None:
        self.process = process
        url = str(process.event("listening")["url"])
        self.client = Client(int(url.rpartition(":")[2]))

    async def _exchange(self, head: str, body: str = "") -> tuple[int, Any]:
        lines = f"{head} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        content = f"{lines}content-length: {len(body)}\r\n\r\n{body}".encode()
        async with asyncio.timeout(PATIENCE_S):
            status, _, answer = await self.client.exchange(content)
        return status, json.loads(answer)

    async def order(self, verb: str, **body: Any) -> tuple[int, dict[str, Any]]:
        """Send a command: the answer's status and body. Raises OSError when nobody answers."""
        path = "/v1/rollouts" if verb == "start" else f"/v1/rollouts/current/{verb}"
        told = json.dumps({"actor": "ann", "reason": "a test", **body})
        try:
            return await self._exchange(f"POST {path}", told)
        except (asyncio.IncompleteReadError, TimeoutError) as error:
            raise ConnectionError(repr(error)) from error

    async def do(self, verb: str, **body: Any) -> dict[str, Any]:
        """Send a command that is carried out."""
        status, answer = await self.order(verb, **body)
        assert status in {200, 201}, answer
        return answer

    async def start(self, plan: Plan) -> str:
        """Start a rollout: its id."""
        found = await self.do("start", plan=plan.model_dump(mode="json"))
        return str(found["rollout"])

    async def status(self) -> dict[str, Any]:
        """Read where everything stands."""
        code, found = await self._exchange("GET /v1/rollouts/current")
        if code != 200:
            raise ConnectionError(str(found))
        assert isinstance(found, dict)
        return found

    async def audit(self) -> list[Mapping[str, Any]]:
        """Read every transition, oldest first."""
        code, found = await self._exchange("GET /v1/audit")
        assert code == 200
        assert isinstance(found, list)
        return found

    def kill(self) -> None:
        """End it without a word."""
        self.process.process.kill()
        self.process.process.wait()
        self.client.close()


@contextlib.contextmanager
def desk(folder: Path, redis_url: str, **settings: str) -> Iterator[Desk]:
    """Run a controller; `settings` are ROLLOUT_'s."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        "ROLLOUT_PORT": "0",
        "TURNOUT_REDIS_URL": redis_url,
        **{f"ROLLOUT_{name.upper()}": value for name, value in settings.items()},
    }
    log = folder / f"controller-{time.monotonic_ns()}.log"
    with started("rollout", log, **environment) as process:
        made = Desk(process)
        try:
            yield made
        finally:
            made.client.close()
