"""A real controller process, its API and its command line, over a real Valkey."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
from typer.testing import CliRunner

from rollout.feed import Feed
from rollout.plan import DEFAULT_PLAN
from rollout.planfile import write_plan
from rollout.snapshot import Batch, Cell, Counter
from rollout.terminal.cli import app

RUNNER = CliRunner()
START = ("start", "-", "--reason", "a test")
QUICK = re.sub(
    r"require: null",
    "require: []",
    re.sub(r"min_(duration_s|requests|pairs): \w+", r"min_\1: 0", write_plan(DEFAULT_PLAN)),
)


class Ran(NamedTuple):
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def process(valkey_socket: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start `python -m rollout` on a free port."""
    environment = os.environ | {"TURNOUT_REDIS_URL": f"unix://{valkey_socket}", "ROLLOUT_PORT": "0"}
    started = subprocess.Popen(
        [sys.executable, "-m", "rollout"], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    try:
        events = (json.loads(line) for line in started.stdout)
        url = next(event["url"] for event in events if event["event"] == "listening")
        yield started, url
    finally:
        started.send_signal(signal.SIGTERM)
        rest, _ = started.communicate(timeout=10)
    assert all(json.loads(line)["level"] != "error" for line in rest.splitlines())
    assert started.returncode == 0


@pytest.fixture
def url(process: tuple[subprocess.Popen[str], str], valkey_url: str) -> str:
    """Give the controller's URL, over an empty store."""
    assert valkey_url
    return process[1]


def run(*words: str, url: str) -> Ran:
    environment = {"TURNOUT_CONTROLLER_URL": url, "COLUMNS": "200"}
    plan = write_plan(DEFAULT_PLAN)
    result = RUNNER.invoke(app, list(words), env=environment, input=plan)
    return Ran(result.exit_code, result.stdout, result.stderr)


def serve(valkey_url: str, rollout: str, stage: str, *, candidate: int) -> None:
    """Count 200 requests and 10 pairs in a stage, as a gateway would."""
    counts = {
        Counter.assigned("incumbent"): 200 - candidate,
        Counter.assigned("candidate"): candidate,
        Counter.MIRROR_INTENDED: 10,
        Counter.MIRROR_COMPARED: 10,
        Counter.pair_error(incumbent=False, candidate=False): 10,
    }

    async def flush() -> None:
        feed = Feed(valkey_url)
        assert await feed.flush(Batch(stage, 1, {Cell(rollout, 1, stage, 1, "101-200"): counts}))
        await feed.close()

    asyncio.run(flush())


def test_the_command_line_walks_a_rollout_to_success_and_writes_its_report(
    url: str, valkey_url: str, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(QUICK)
    assert "no rollout yet" in run("status", url=url).out
    started = json.loads(run("start", str(plan), "--reason", "why not", "--json", url=url).out)
    assert (started["outcome"], started["version"]) == ("applied", "1.1")
    shares = {"shadow-5": 0, "ab-25": 50, "ab-50": 100, "ab-100": 200}
    for stage, candidate in shares.items():
        assert f"stage {stage}" in run("status", url=url).out
        serve(valkey_url, started["rollout"], stage, candidate=candidate)
        assert run("advance", url=url).code == 0
    ended = run("status", url=url)
    assert "succeeded" in ended.out
    assert ended.out.count("left on PASS") == 4
    assert run("report", "-o", str(tmp_path / "report.html"), url=url).code == 0
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    report = json.loads(run("report", url=url).out)
    assert report["headline"]["state"] == "succeeded"
    assert report["totals"]["requests"] == 800
    audit = httpx2.get(f"{url}/v1/audit").json()
    assert [entry["reason"] for entry in audit][:2] == ["why not", "no reason given"]


def test_a_stale_version_is_refused_with_1_and_nothing_changes(url: str) -> None:
    run(*START, url=url)
    refused = run("pause", "--expect-version", "1.7", url=url)
    assert (refused.code, refused.out) == (1, "")
    assert "at version 1.1, but version 1.7 was expected: nothing was changed" in refused.err
    assert json.loads(run("status", "--json", url=url).out)["version"] == "1.1"


def test_a_closed_gate_is_refused_with_1_and_its_figures(url: str) -> None:
    run(*START, url=url)
    refused = run("advance", url=url)
    assert refused.code == 1
    assert "0 of 1000 requests in scope" in refused.err
    answer = json.loads(run("advance", "--json", url=url).out)
    assert answer["verdict"]["kind"] == "INCONCLUSIVE"


def test_a_malformed_plan_is_told_by_file_and_line_with_2_and_nothing_starts(
    url: str, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("name: Bad\ncandidate: phase2\nstages: []\n")
    told = run("start", str(plan), url=url)
    assert told.code == 2
    assert f"{plan}:1 name: must match" in told.err
    assert f"{plan}:3 stages: is empty" in told.err
    assert json.loads(run("status", "--json", url=url).out)["version"] is None


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (("status", "--url", "http://127.0.0.1:1"), 3, "no controller at http://127.0.0.1:1"),
        (("abort", "--url", "nonsense"), 2, "the controller's URL 'nonsense' is none"),
        (("start", "no such file.yaml"), 2, "no such file.yaml: No such file or directory"),
        (("abort",), 1, "there is no rollout yet"),
        (("abort", "--reason", ""), 2, "reason: String should have at least 1 character"),
    ],
)
def test_what_cannot_be_done_says_why_and_ends_with_its_code(
    url: str, words: tuple[str, ...], code: int, part: str
) -> None:
    ran = run(*words, url=url)
    assert ran.code == code
    assert part in ran.err


def test_a_command_that_is_sent_again_with_its_key_happens_once(url: str) -> None:
    first = run(*START, "--idempotency-key", "k1", url=url)
    again = run(*START, "--idempotency-key", "k1", url=url)
    assert again == (0, f"done before: {first.out}", "")


def test_the_default_plan_is_printed_as_it_can_be_read(tmp_path: Path, url: str) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(run("plan", url=url).out)
    assert run("start", str(plan), "--dry-run", url=url).out.startswith("dry run, nothing changed")


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        (b'{"actor":', 422, "is no JSON"),
        (b"[]", 422, "must be a JSON object"),
        (b'{"actor": "a", "reason": "b", "colour": 3}', 422, "colour"),
        (b'{"actor": "a", "reason": "b", "expected_version": "new"}', 422, "expected_version"),
        (b'{"actor": "a", "reason": "b", "plan": {"name": "x"}}', 422, "stages: is missing"),
        (b'"' + b"x" * 2_000_000 + b'"', 413, "reads at most"),
    ],
)
def test_a_malformed_body_gets_one_sentence_in_json(
    url: str, body: bytes, status: int, part: str
) -> None:
    answer = httpx2.post(
        f"{url}/v1/rollouts", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == status
    told: dict[str, Any] = answer.json()
    assert part in told["error"]
    assert httpx2.get(f"{url}/v1/rollouts/current").json()["version"] is None


def test_a_chunked_body_is_bounded_too(url: str) -> None:
    chunks = (b"x" * 65_536 for _ in range(40))
    answer = httpx2.post(
        f"{url}/v1/rollouts", content=chunks, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413
    assert "error" in answer.json()


def test_health_and_metrics_answer(url: str) -> None:
    assert httpx2.get(f"{url}/health/live").status_code == 200
    assert httpx2.get(f"{url}/health/ready").json() == {"ready": True}
    metrics = httpx2.get(f"{url}/metrics").text
    assert 'rollout_commands_total{command="abort",outcome="conflict"}' in metrics
    unknown = httpx2.get(f"{url}/v1/nothing")
    assert (unknown.status_code, unknown.json()) == (404, {"error": "Not Found"})
