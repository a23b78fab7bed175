"""Who may do what at the gateway: every route with every kind of key, over real HTTP."""

import asyncio
import itertools
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio
from fastapi.routing import APIRoute
from gateway_rig import PATIENCE_S, Rig, body, gateway
from starlette.routing import Mount, Route

from backends.serving.access import Key, Right, digest_of, new_key

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRETS = {right: new_key(bytes([number]) * 32) for number, right in enumerate(Right)}
UNKNOWN = new_key(b"?" * 32)
OPEN = {"/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"}


def lines(rights: dict[str, tuple[Right, ...]]) -> str:
    keys = [
        Key(name, frozenset(held), digest_of(SECRETS[Right(name)])) for name, held in rights.items()
    ]
    return "".join(f"{key}\n" for key in keys)


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(lines({right: (right,) for right in Right}))
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory, keys_file: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path_factory.mktemp("gateway"), keys_file=keys_file) as rig:
        yield rig


@pytest.fixture
def rig(shared: Rig) -> Rig:
    shared.reset()
    return shared


def routes(rig: Rig) -> list[tuple[str, str]]:
    """List every route that the application has, found in the application itself."""
    found: list[tuple[str, str]] = []
    for route in rig.service.api.routes:
        if isinstance(route, Mount) and route.path == "/docs":
            found.append(("GET", "/docs/swagger/swagger-ui.css"))
            continue
        assert isinstance(route, APIRoute | Route), f"{route} needs a rule here"
        path = route.path.replace("{name}", "lvm").replace("{version}", "1")
        path = re.sub(r"\{[^}]*\}", "x", path)
        found += [(method, path) for method in sorted(route.methods or ()) if method != "HEAD"]
    assert len(found) > 15
    return found


def needed(path: str) -> Right | None:
    if path in OPEN or path.startswith("/docs/"):
        return None
    return Right.FEEDBACK if path == "/v1/feedback" else Right.PREDICT


async def test_every_route_lets_in_who_has_its_right_and_nobody_else(rig: Rig) -> None:
    shown: dict[str | None, dict[str, str]] = {
        None: {},
        UNKNOWN: bearer(UNKNOWN),
        **{s: bearer(s) for s in SECRETS.values()},
    }
    tried = 0
    for (method, path), secret in itertools.product(routes(rig), shown):
        response = await rig.client.request(method, path, headers=shown[secret])
        right = needed(path)
        told = f"{method} {path} with {secret}: {response.status_code}"
        assert response.status_code < 500, told
        if right is None or secret == SECRETS[right]:
            assert response.status_code not in {401, 403}, told
        else:
            expected = 403 if secret in SECRETS.values() else 401
            assert response.status_code == expected, told
            assert response.headers["www-authenticate"].startswith('Bearer realm="turnout"'), told
            assert list(response.json()) == ["error"]
            assert response.headers["x-request-id"]
        tried += 1
    assert tried > 100


async def test_a_missing_right_is_named(rig: Rig) -> None:
    response = await rig.client.post("/v1/feedback", headers=bearer(SECRETS[Right.PREDICT]))
    assert response.json() == {
        "error": 'the API key of "predict" lacks the right "feedback"; it has predict'
    }
    assert 'scope="feedback"' in response.headers["www-authenticate"]


async def test_a_refused_prediction_reaches_no_backend(rig: Rig) -> None:
    assert (await rig.predict()).status_code == 401
    assert rig.phase1.seen == []


async def test_a_key_never_travels_to_a_backend(rig: Rig) -> None:
    assert (await rig.predict(headers=bearer(SECRETS[Right.PREDICT]))).status_code == 200
    assert SECRETS[Right.PREDICT] not in str(rig.phase1.seen)
    assert "authorization" not in rig.phase1.seen[0]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/feedback%0A",
        "/v1/feedback%0a",
        "/v1/feedback%00",
        "/v1//feedback",
        "//v1/feedback",
        "/v1/./feedback",
        "/x/../v1/feedback",
        "/v1/feedback/",
        "/v1/feedback;x",
        "/V1/FEEDBACK",
        "/v2/health/live/../../v1/feedback",
        "/v2/health/live%2f..%2f..%2f..%2fv1%2ffeedback",
        "/docs/../v1/feedback",
        "/docs/%2e%2e/v1/feedback",
    ],
)
async def test_no_way_of_writing_a_path_gets_a_predict_key_to_the_feedback(
    rig: Rig, path: str
) -> None:
    url = httpx2.URL(str(rig.client.base_url)).copy_with(raw_path=path.encode())
    truth = {"id": "x", "target_id": 1}
    for headers in (bearer(SECRETS[Right.PREDICT]), {}):
        response = await rig.client.post(url, json=truth, headers=headers)
        assert response.status_code in {307, 400, 401, 403, 404, 405}
        assert "x-request-id" not in response.text, "the feedback itself answered"


async def test_an_override_needs_its_right(rig: Rig) -> None:
    arm = {"x-turnout-arm": "phase2"}
    response = await rig.predict(headers={**arm, **bearer(SECRETS[Right.PREDICT])})
    assert response.status_code == 403
    assert 'lacks the right "override"' in response.json()["error"]
    assert (
        await rig.predict(headers={**arm, **bearer(SECRETS[Right.OVERRIDE])})
    ).status_code == 403


async def test_a_line_that_is_changed_or_taken_away_counts_within_a_second(
    tmp_path: Path,
) -> None:
    path = tmp_path / "keys"
    path.write_text(lines({"predict": (Right.PREDICT,)}))
    arm = {"x-turnout-arm": "phase2", **bearer(SECRETS[Right.PREDICT])}
    async with gateway(tmp_path, keys_file=path) as rig:
        assert (await rig.predict(headers=arm)).status_code == 403
        path.write_text(lines({"predict": (Right.PREDICT, Right.OVERRIDE)}))
        await _until_status(rig, arm, 200)
        assert len(rig.phase2.seen) == 1
        path.write_text("")
        await _until_status(rig, arm, 401)


async def _until_status(rig: Rig, headers: dict[str, str], expected: int) -> None:
    limit = time.monotonic() + PATIENCE_S
    while (found := (await rig.predict(headers=headers)).status_code) != expected:
        assert time.monotonic() < limit, f"still {found}, not {expected}"
        await asyncio.sleep(0.05)


async def test_metrics_may_be_open_and_count_who_was_refused(
    tmp_path: Path, keys_file: Path
) -> None:
    async with gateway(tmp_path, keys_file=keys_file, open_metrics=True) as rig:
        await rig.predict()
        await rig.predict(headers=bearer(SECRETS[Right.FEEDBACK]))
        for status in ("401", "403"):
            assert await rig.metric("gateway_access_refused_total", status=status) == 1


async def test_without_keys_on_loopback_everybody_may_override(tmp_path: Path) -> None:
    async with gateway(tmp_path) as rig:
        response = await rig.predict(20, headers={"x-turnout-arm": "phase2"})
        assert response.headers["x-turnout-arm"] == "phase2"
        assert response.headers["x-turnout-reason"] == "override"
        wrong = await rig.predict(20, headers={"x-turnout-arm": "phase9"})
        assert wrong.status_code == 400
        assert "the arms with a backend are phase1, phase2" in wrong.json()["error"]
        asked = body(20)["context"]
        triton = {
            "inputs": [
                {"name": "CONTEXT", "shape": [1, 20, 768], "datatype": "FP32", "data": [asked]}
            ]
        }
        response = await rig.client.post(
            "/v2/models/lvm/infer", json=triton, headers={"x-turnout-arm": "phase2"}
        )
        assert response.headers["x-turnout-arm"] == "phase2"
