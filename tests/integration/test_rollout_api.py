"""The controller's HTTP interface: every route with every kind of key, and every command."""

import itertools
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from starlette.routing import Mount, Route

from backends.serving.access import Key, Right, digest_of, new_key
from backends.serving.keyfile import KeyFile
from rollout.api import Api
from rollout.controller import Controller
from rollout.metrics import Metrics
from rollout.roles import RIGHTS
from rollout.snapshot import DEFAULT_TIERS
from rollout.store.memory import MemoryStore

SECRETS = {right: new_key(bytes([number]) * 32) for number, right in enumerate(Right)}
UNKNOWN = new_key(b"?" * 32)
WHY = {"actor": "somebody", "reason": "a test"}


class Rig:
    """One API over a store in memory, and a client of it."""

    def __init__(self, keys: KeyFile | None = None, *, open_metrics: bool = False) -> None:
        self.now = 1000.0
        self.store = MemoryStore(lambda: self.now)
        self.controller = Controller(self.store, DEFAULT_TIERS)
        metrics = Metrics(CollectorRegistry())
        self.api = Api(self.controller, metrics, keys=keys, open_metrics=open_metrics)
        transport = httpx2.ASGITransport(self.api.app)
        self.client = httpx2.AsyncClient(transport=transport, base_url="http://controller")

    async def command(self, verb: str, **more: Any) -> httpx2.Response:
        path = "/v1/rollouts" if verb == "start" else f"/v1/rollouts/current/{verb}"
        return await self.client.post(path, json={**WHY, **more})


def bearer(secret: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"} if secret else {}


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    path = tmp_path / "keys"
    path.write_text(
        "".join(f"{Key(f'the-{r}', frozenset({r}), digest_of(SECRETS[r]))}\n" for r in Right)
    )
    return KeyFile(path)


@asynccontextmanager
async def rigged(keys: KeyFile | None = None, *, open_metrics: bool = False) -> AsyncIterator[Rig]:
    rig = Rig(keys, open_metrics=open_metrics)
    async with rig.client:
        yield rig


def routes(rig: Rig) -> list[tuple[str, str]]:
    """List every route that the application has, found in the application itself."""
    found: list[tuple[str, str]] = []
    for route in rig.api.app.routes:
        if isinstance(route, Mount) and route.path == "/docs":
            found.append(("GET", "/docs/swagger/swagger-ui.css"))
            continue
        assert isinstance(route, APIRoute | Route), f"{route} needs a rule here"
        found += [(method, route.path) for method in sorted(route.methods or ())]
    return [(method, path) for method, path in found if method != "HEAD"]


async def test_no_route_is_missing_from_the_table_of_rights_and_none_is_invented() -> None:
    async with rigged() as rig:
        plain = {route for route in routes(rig) if not route[1].startswith("/docs/")}
    assert plain == set(RIGHTS)


async def test_every_route_lets_in_who_has_its_right_and_nobody_else(keys: KeyFile) -> None:
    stops = {Right.VIEWER, Right.STOPPER}
    implied = {Right.STOPPER: stops, Right.OPERATOR: stops, Right.APPROVER: stops}
    tried = 0
    async with rigged(keys) as rig:
        shown: list[tuple[Right | None, str | None]] = [(None, None), (None, UNKNOWN)]
        shown += list(SECRETS.items())
        for (method, path), (held, secret) in itertools.product(routes(rig), shown):
            right = RIGHTS.get((method, path))
            where = re.sub(r"\{[^}]*\}", "x", path)
            answer = await rig.client.request(method, where, headers=bearer(secret))
            told = f"{method} {where} with {held or secret}: {answer.status_code}"
            assert answer.status_code < 500, told
            if right is None or (held and right in {held} | implied.get(held, set())):
                assert answer.status_code not in {401, 403}, told
            else:
                assert answer.status_code == (403 if held else 401), told
                assert answer.headers["www-authenticate"].startswith('Bearer realm="turnout"')
                assert list(answer.json()) == ["error"]
                assert answer.headers["x-request-id"]
            tried += 1
    assert tried > 150


@pytest.mark.parametrize(
    "path",
    [
        "/v1/rollouts/current/promote%0A",
        "/v1/rollouts/current/promote%00",
        "/v1//rollouts/current/promote",
        "/v1/rollouts/current/./promote",
        "/v1/rollouts/x/../current/promote",
        "/v1/rollouts/current/promote/",
        "/v1/rollouts/current/promote;x",
        "/v1/rollouts/current/PROMOTE",
        "/docs/../v1/rollouts/current/promote",
        "/docs/%2e%2e/v1/rollouts/current/promote",
        "/v1/rollouts/current%2Fpromote",
    ],
)
async def test_no_way_of_writing_a_path_lets_an_operator_promote(keys: KeyFile, path: str) -> None:
    async with rigged(keys) as rig:
        await rig.client.post("/v1/rollouts", json=WHY, headers=bearer(SECRETS[Right.OPERATOR]))
        url = httpx2.URL("http://controller").copy_with(raw_path=path.encode())
        answer = await rig.client.post(url, json=WHY, headers=bearer(SECRETS[Right.OPERATOR]))
        assert answer.status_code in {400, 403, 404, 405}
        assert (await rig.store.load()).position == (1, 1)


async def test_who_acts_is_the_name_of_the_key_whatever_the_body_says(keys: KeyFile) -> None:
    async with rigged(keys) as rig:
        rig.client.headers |= bearer(SECRETS[Right.OPERATOR])
        await rig.command("start")
        rig.client.headers |= bearer(SECRETS[Right.APPROVER])
        await rig.command("promote")
        entries = (await rig.controller.journal()).entries
    assert [entry.actor for entry in entries] == ["the-operator", "the-approver"]


async def test_without_keys_who_acts_is_who_the_body_says() -> None:
    async with rigged() as rig:
        assert (await rig.command("start")).status_code == 201
        assert (await rig.client.get("/v1/audit")).json()[0]["actor"] == "somebody"


async def test_a_refusal_shows_no_key_in_answer_or_log(keys: KeyFile) -> None:
    secret = SECRETS[Right.VIEWER]
    async with rigged(keys) as rig:
        with structlog.testing.capture_logs() as logs:
            answer = await rig.client.post("/v1/rollouts", json=WHY, headers=bearer(secret))
    assert answer.json() == {
        "error": 'the API key of "the-viewer" lacks the right "operator"; it has viewer'
    }
    assert secret not in json.dumps(logs) + answer.text + str(answer.headers)


async def test_metrics_may_be_open_and_count_who_was_refused(keys: KeyFile) -> None:
    async with rigged(keys, open_metrics=True) as rig:
        await rig.command("abort")
        metrics = (await rig.client.get("/metrics")).text
    assert 'rollout_access_refused_total{status="401"} 1.0' in metrics


async def test_every_command_has_its_route() -> None:
    async with rigged() as rig:
        started = (await rig.command("start")).json()
        assert started["forecast"]["stages"][0]["stage"] == "shadow-5"
        states = {}
        for verb in ("pause", "resume", "promote", "approve", "abort", "retry", "abort"):
            answer = await rig.command(verb)
            assert answer.status_code == 200, answer.text
            states[verb] = answer.json()["state"]
        assert states == {
            "pause": "paused", "resume": "running", "promote": "running", "approve": "running",
            "abort": "aborted", "retry": "running",
        }  # fmt: skip
        await rig.command("retry")
        full = (await rig.command("promote", full=True)).json()
        assert full["stage"] == "ab-100"
        assert (await rig.command("promote")).json()["state"] == "succeeded"
        assert (await rig.command("undo")).json()["state"] == "undone"
        refused = await rig.command("advance")
        assert (refused.status_code, "illegal" in refused.json()["error"]) == (409, True)
        listed = (await rig.client.get("/v1/rollouts")).json()
        assert [one["attempt"] for one in listed] == [3, 2, 1]
        assert [one["state"] for one in listed] == ["undone", "aborted", "aborted"]
        oldest = listed[-1]["id"]
        shown = (await rig.client.get(f"/v1/rollouts/{oldest}")).json()
        assert [visit["stage"] for visit in shown["visits"]] == ["shadow-5", "ab-25"]
        audit = (await rig.client.get("/v1/audit", params={"rollout": oldest})).json()
        assert [entry["command"] for entry in audit] == [
            "start", "pause", "resume", "promote", "approve", "abort",
        ]  # fmt: skip


async def test_a_dry_run_of_every_command_changes_nothing() -> None:
    async with rigged() as rig:
        assert (await rig.command("start", dry_run=True)).json()["outcome"] == "dry_run"
        assert (await rig.store.load()).position is None
        await rig.command("start")
        for verb in ("pause", "promote", "approve", "abort"):
            answer = (await rig.command(verb, dry_run=True)).json()
            assert answer["outcome"] == "dry_run"
            assert "would be" in answer["message"] or "would enter" in answer["message"]
        assert (await rig.store.load()).position == (1, 1)


async def test_questions_about_what_is_not_there_are_answered_with_404() -> None:
    async with rigged() as rig:
        for path in ("", "/explain", "/report"):
            answer = await rig.client.get(f"/v1/rollouts/nothing{path}")
            assert answer.status_code == 404, path
            assert answer.json()["error"]
        assert (await rig.client.get("/v1/rollouts")).json() == []


async def test_the_schema_of_a_plan_and_the_document_of_the_interface_are_served() -> None:
    async with rigged() as rig:
        assert "stages" in (await rig.client.get("/v1/schema")).json()["properties"]
        page = (await rig.client.get("/docs")).text
        assert "/docs/swagger/swagger-ui-bundle.js" in page
        assert "https://" not in page
        viewer = await rig.client.get("/docs/swagger/swagger-ui-bundle.js")
        assert viewer.status_code == 200
        document = (await rig.client.get("/openapi.json")).json()
        assert "key" in document["components"]["securitySchemes"]
        paths = {path for _, path in RIGHTS if path.startswith(("/v1", "/health"))}
        assert set(document["paths"]) == paths
