"""What the gateway's log says of one request: whoever comes with an x-request-id finds it there."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from gateway_rig import gateway, publish, snapshot, until

from rollout.snapshot import DEFAULT_TIERS

pytestmark = pytest.mark.asyncio
Lines = list[dict[str, Any]]


@pytest.fixture
def log() -> Iterator[Lines]:
    with structlog.testing.capture_logs() as lines:
        yield lines  # type: ignore[misc] # structlog's own type of a line is wider


async def about(log: Lines, name: str) -> dict[str, Any]:
    """Wait for the only line about a request."""
    await until(lambda: any(line.get("request_id") == name for line in log), f"a line on {name}")
    (found,) = (line for line in log if line.get("request_id") == name)
    return found


async def test_a_fallback_is_told_with_who_was_to_answer_who_did_and_why(
    tmp_path: Path, valkey_url: str, log: Lines
) -> None:
    await publish(valkey_url, snapshot(mode="ab", weight=100))
    async with gateway(tmp_path, redis_url=valkey_url, tiers=DEFAULT_TIERS) as rig:
        rig.phase2.status = 500
        response = await rig.predict(120)
        assert (response.status_code, response.headers["x-turnout-arm"]) == (200, "phase1")
        line = await about(log, response.headers["x-request-id"])
        assert (line["log_level"], line["event"]) == ("warning", "the assigned arm failed")
        assert (line["assigned"], line["answered"], line["status"]) == ("phase2", "phase1", 200)
        assert (line["kind"], line["reason"]) == ("status", "bucket-in")
        assert line["error"] == "the phase2 backend answered with status 500"
        assert line["ms"] > 0


async def test_an_answer_of_5xx_is_told_and_one_of_200_is_not(tmp_path: Path, log: Lines) -> None:
    async with gateway(tmp_path) as rig:
        good = await rig.predict()
        rig.phase1.hold = asyncio.Event()
        late = await rig.predict(headers={"x-request-timeout-ms": "50"})
        assert late.status_code == 504
        line = await about(log, late.headers["x-request-id"])
        assert (line["assigned"], line["answered"], line["status"]) == ("phase1", "-", 504)
        assert line["kind"] == "timeout"
        assert not [one for one in log if one.get("request_id") == good.headers["x-request-id"]]


async def test_feedback_without_a_store_is_refused_for_good_and_told(
    tmp_path: Path, log: Lines
) -> None:
    async with gateway(tmp_path) as rig:
        name = (await rig.predict()).headers["x-request-id"]
        refused = await rig.client.post("/v1/feedback", json={"id": name, "target_id": 1})
        assert refused.status_code == 503
        assert "retry-after" not in refused.headers
        assert rig.phase1.seen[1:] == [], "no backend is asked for nothing"
        line = await about(log, refused.headers["x-request-id"])
        assert (line["event"], line["status"]) == ("not answered", 503)
        assert line["error"] == refused.json()["error"]


async def test_at_level_debug_every_request_has_its_line(
    tmp_path: Path, log: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.Logger, "isEnabledFor", lambda *_: True)
    async with gateway(tmp_path) as rig:
        name = (await rig.predict()).headers["x-request-id"]
        line = await about(log, name)
        assert (line["log_level"], line["event"]) == ("debug", "answered")
        assert (line["assigned"], line["answered"], line["status"]) == ("phase1", "phase1", 200)
