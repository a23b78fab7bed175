"""The command line's verbs for looking and deciding, against a real controller over Valkey."""

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from module_process import ModuleProcess, started
from pydantic import TypeAdapter
from redis import Redis
from typer.testing import CliRunner

from backends.serving.access import Key, Right, digest_of, new_key
from rollout.explanation import Explanation
from rollout.feed import Feed
from rollout.keys import Keys
from rollout.plan import DEFAULT_PLAN, Plan
from rollout.planfile import write_plan
from rollout.snapshot import Batch, Cell, Counter, Heartbeat, Position, Tier
from rollout.terminal.cli import app

RUNNER = CliRunner()
TURNOUT = Path(sys.executable).with_name("turnout")
SECRETS = {right: new_key(bytes([number]) * 32) for number, right in enumerate(Right)}


class Ran(NamedTuple):
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def controller(
    valkey_socket: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModuleProcess]:
    """Start `python -m rollout` with keys of every role, in a hurry."""
    folder = tmp_path_factory.mktemp("controller")
    keys = folder / "keys"
    keys.write_text(
        "".join(f"{Key(f'the-{r}', frozenset({r}), digest_of(SECRETS[r]))}\n" for r in Right)
    )
    settings = {
        "TURNOUT_REDIS_URL": f"unix://{valkey_socket}",
        "ROLLOUT_PORT": "0",
        "ROLLOUT_TICK_S": "0.05",
        "ROLLOUT_KEYS_FILE": str(keys),
    }
    with started("rollout", folder / "log", **settings) as process:
        process.event("listening")
        yield process
        assert process.end() == 0


@pytest.fixture
def url(controller: ModuleProcess, valkey_url: str) -> str:
    """Give the controller's URL, over an empty store."""
    assert valkey_url
    return str(controller.event("listening")["url"])


def run(*words: str, url: str, right: Right = Right.VIEWER, terminal: str = "200") -> Ran:
    environment = {
        "TURNOUT_CONTROLLER_URL": url,
        "TURNOUT_CONTROLLER_TOKEN": SECRETS[right],
        "COLUMNS": terminal,
    }
    if words[0] == "start":  # the default plan, and some reason
        words = ("start", "-", "--reason", "a test", *words[1:])
    result = RUNNER.invoke(app, list(words), env=environment, input=write_plan(DEFAULT_PLAN))
    return Ran(result.exit_code, result.stdout, result.stderr)


def operate(*words: str, url: str) -> Ran:
    return run(*words, url=url, right=Right.OPERATOR)


def explained(url: str) -> Explanation:
    return Explanation.model_validate_json(run("explain", "--json", url=url).out)


class Gateway:
    """A gateway as the store sees it."""

    def __init__(self, valkey_url: str) -> None:
        self.url = valkey_url
        self.sequence = 0

    def beat(self, version: str, *, held: bool = False) -> None:
        epoch, number = Position.parse(version)
        beat = Heartbeat(boot="gw-1", at=time.time(), epoch=epoch, version=number, held=held)
        with Redis.from_url(self.url) as client:
            client.hset(Keys().gateways, "gw-1", beat.model_dump_json())

    def serve(self, rollout: str, stage: str, requests: int) -> None:
        self.sequence += 1
        counts = {Counter.assigned("incumbent"): requests}
        cell = Cell(rollout, 1, stage, int(time.time() // 60) - 5, "101-200")

        async def send() -> None:
            feed = Feed(self.url)
            assert await feed.flush(Batch("gw-1", self.sequence, {cell: counts}))
            await feed.close()

        asyncio.run(send())


def until_settled(url: str, gateway: Gateway) -> Explanation:
    limit = time.monotonic() + 10
    while (seen := explained(url)).visit.settled_at is None:
        assert time.monotonic() < limit, seen
        gateway.beat(str(seen.version))
        time.sleep(0.05)
    gateway.beat(str(seen.version))
    return explained(url)


def test_explain_says_what_is_missing_and_who_acted_and_agrees_with_status(
    url: str, valkey_url: str
) -> None:
    operate("start", "--reason", "weights of May", url=url)
    gateway = Gateway(valkey_url)
    before = explained(url)
    names = {notice.name for notice in before.notices}
    assert {"no_gateway", "warm_up"} <= names
    seen = until_settled(url, gateway)
    gateway.serve(seen.rollout, "shadow-5", 400)
    seen = explained(url)
    assert seen.traffic is not None
    assert seen.traffic.requests == 400
    missing = {need.check: need.needed for need in seen.missing}
    assert missing["minimum requests"] == 600
    assert missing["minimum duration"] == pytest.approx(7 * 86_400, abs=60)
    assert seen.last_person is not None
    assert (seen.last_person.actor, seen.last_person.reason) == ("the-operator", "weights of May")
    assert seen.last is not None
    assert seen.last.actor == "controller"
    assert seen.leader is not None
    status = json.loads(run("status", "--json", url=url).out)
    assert status["tally"]["requests"] == 400
    assert status["leader"] == seen.leader
    assert status["verdict"]["kind"] == (seen.verdict and seen.verdict.kind)
    told = run("explain", url=url).out
    assert "600 more requests for the check 'minimum requests'" in " ".join(seen.because)
    for part in (seen.headline, "│ 600 requests │"):
        assert part in " ".join(told.split())
    assert "the-operator, start" in told


def test_status_shows_a_gateway_that_a_file_holds(url: str, valkey_url: str) -> None:
    operate("start", url=url)
    gateway = Gateway(valkey_url)
    gateway.beat(str(explained(url).version), held=True)
    told = run("status", url=url).out
    assert "1 alive" in told
    assert "HELD by hold-at-incumbent" in told
    assert [notice.name for notice in explained(url).notices if notice.name == "held_locally"]


def test_every_role_does_what_is_its_own_and_a_refusal_exits_with_1(url: str) -> None:
    refused = run("start", url=url)
    assert (refused.code, refused.out) == (1, "")
    assert 'the API key of "the-viewer" lacks the right "operator"' in refused.err
    assert operate("start", url=url).code == 0
    denied = operate("promote", url=url)
    assert (denied.code, 'lacks the right "approver"' in denied.err) == (1, True)
    assert run("promote", "--reason", "agreed", url=url, right=Right.APPROVER).code == 0
    for stops in (Right.APPROVER, Right.STOPPER, Right.OPERATOR):  # whoever may act may stop
        assert run("pause", url=url, right=stops).code == 0
        assert run("resume", url=url, right=stops).code == (stops is not Right.OPERATOR)
        assert run("abort", url=url, right=stops).code == 0
        assert operate("start", url=url).code == 0
    anonymous = RUNNER.invoke(app, ["status", "--url", url])
    assert anonymous.exit_code == 1
    assert "needed: give yours with --token or TURNOUT_CONTROLLER_TOKEN" in anonymous.stderr
    strange = RUNNER.invoke(app, ["status", "--url", url, "--token", "x"])
    assert "that came with --token or TURNOUT_CONTROLLER_TOKEN is not known" in strange.stderr
    wrong = RUNNER.invoke(app, ["status", "--url", url, "--token", "kéy"])
    assert (wrong.exit_code, "ASCII" in wrong.stderr) == (2, True)


def test_list_show_and_audit_tell_of_rollouts_that_ended(url: str) -> None:
    operate("start", "--reason", "first", url=url)
    first = explained(url).rollout
    operate("abort", "--reason", "too early", url=url)
    operate("retry", "--reason", "second", url=url)
    second = explained(url).rollout
    listed = run("list", url=url).out
    assert listed.index(second) < listed.index("aborted")
    assert f"retry of {first}" in listed
    shown = run("show", first, url=url).out
    assert "aborted" in shown
    assert "shadow-5" in shown
    assert f"rollout {second}" in run("show", "current", url=url).out
    entries = json.loads(run("audit", "--id", first, "--json", url=url).out)
    assert [(entry["command"], entry["reason"]) for entry in entries] == [
        ("start", "first"), ("abort", "too early"),
    ]  # fmt: skip
    assert "too early" in run("audit", url=url).out
    unknown = run("show", "nothing", url=url)
    assert (unknown.code, "no rollout 'nothing' is remembered" in unknown.err) == (1, True)


def test_an_aborted_rollout_is_explained_by_who_aborted_it(url: str) -> None:
    operate("start", url=url)
    rollout = explained(url).rollout
    operate("abort", "--reason", "errors on the new pool", url=url)
    seen = Explanation.model_validate_json(run("explain", "--id", rollout, "--json", url=url).out)
    assert seen.headline == f"{rollout} was aborted in the stage shadow-5 (1 of 4)"
    assert "the-operator did it (abort): errors on the new pool" in seen.because[0]
    assert (seen.notices, seen.missing, seen.next, seen.weight) == ((), (), None, 0)


def test_start_prints_its_forecast_and_a_dry_run_nothing_but_that(url: str) -> None:
    told = operate("start", "--dry-run", url=url)
    assert told.code == 0
    assert "forecast" in told.out
    assert "shadow-5" in told.out
    assert "7 d" in told.out
    assert json.loads(run("status", "--json", url=url).out)["version"] is None


def test_a_start_wants_a_plan_and_a_reason_and_a_dry_run_the_plan_alone(url: str) -> None:
    keys = ["--url", url, "--token", SECRETS[Right.OPERATOR]]
    bare = RUNNER.invoke(app, ["start", "--reason", "x", *keys])
    assert (bare.exit_code, "Missing argument" in bare.stderr) == (2, True)
    plan = write_plan(DEFAULT_PLAN)
    silent = RUNNER.invoke(app, ["start", "-", *keys], input=plan)
    assert (silent.exit_code, silent.stderr.startswith("say why: --reason")) == (2, True)
    assert RUNNER.invoke(app, ["start", "-", "--dry-run", *keys], input=plan).exit_code == 0
    assert json.loads(run("status", "--json", url=url).out)["version"] is None


def test_a_start_in_a_freeze_window_is_refused_with_its_forecast(url: str) -> None:
    window = {"begins": "2020-01-01 00:00", "ends": "2099-01-01 00:00"}
    plan = write_plan(Plan.model_validate({**DEFAULT_PLAN.model_dump(), "freeze": [window]}))
    words = ["start", "-", "--dry-run", "--url", url, "--token", SECRETS[Right.OPERATOR]]
    told = RUNNER.invoke(app, words, input=plan)
    assert (told.exit_code, "nothing was changed" in told.stderr) == (1, True)
    assert "at least 28 d by the stages' durations" in told.stdout
    answer = json.loads(RUNNER.invoke(app, [*words, "--json"], input=plan).stdout)
    assert [stage["least_days"] for stage in answer["forecast"]["stages"]] == [7, 7, 7, 7]
    assert "is frozen until 2099" in answer["error"]


def test_a_report_is_not_written_into_a_file_whose_name_says_otherwise(
    url: str, tmp_path: Path
) -> None:
    operate("start", url=url)
    refused = run("report", "-o", str(tmp_path / "report.pdf"), url=url)
    assert refused.code == 2
    assert "report.pdf: a report is .html, .md or .json" in refused.err
    assert list(tmp_path.iterdir()) == []
    assert run("report", "-o", str(tmp_path / "report.JSON"), url=url).code == 0
    assert run("report", "--format", "md", "-o", str(tmp_path / "NOTES"), url=url).code == 0
    assert "headline" in json.loads((tmp_path / "report.JSON").read_text())
    assert (tmp_path / "NOTES").read_text().startswith("# ")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["status", "--url", "http://127.0.0.1:1"], 3),
        (["watch", "--url", "http://127.0.0.1:1"], 3),
        (["abort", "--url", "nonsense"], 2),
        (["start", "no such file.yaml", "--reason", "x"], 2),
        (["start", "-", "--reason", "x"], 2),
        (["start", "-"], 2),
        (["report", "-o", "x.pdf"], 2),
        (["show", "nothing"], 1),
        (["advance"], 1),
    ],
)
def test_with_json_every_failure_is_an_object_with_error_and_errors(
    url: str, words: list[str], code: int
) -> None:
    environment = {
        "TURNOUT_CONTROLLER_URL": url,
        "TURNOUT_CONTROLLER_TOKEN": SECRETS[Right.OPERATOR],
    }
    told = RUNNER.invoke(app, [*words, "--json"], env=environment, input="name: Bad\nstages: []\n")
    assert (told.exit_code, told.stderr) == (code, "")
    answer = json.loads(told.stdout)
    assert answer["error"]
    lines = [fault["line"] for fault in answer["errors"]]
    assert lines == ([1, 1, 2] if words[:2] == ["start", "-"] else [])


@pytest.mark.parametrize("verb", ["abort", "pause"])
def test_whoever_cannot_stop_it_here_is_told_soon_what_stops_it_at_the_gateways(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollout.terminal.cli.STOP_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:  # connects, and never answers
        hung = RUNNER.invoke(app, [verb, "--url", f"http://127.0.0.1:{mute.getsockname()[1]}"])
    gone = RUNNER.invoke(app, [verb, "--url", "http://127.0.0.1:1"])
    settings = {"TURNOUT_REDIS_URL": f"unix://{tmp_path}/nothing.sock", "ROLLOUT_PORT": "0"}
    with started("rollout", tmp_path / "log", **settings) as process:
        words = [verb, "--url", str(process.event("listening")["url"])]
        lost = RUNNER.invoke(app, words)
        answer = json.loads(RUNNER.invoke(app, [*words, "--json"]).stdout)
        asked = RUNNER.invoke(app, ["resume", *words[1:]])
        assert process.end() == 0
    for told, part in ((hung, "is unknown"), (gone, "no controller at"), (lost, "store does not")):
        assert told.exit_code == 3
        assert part in told.stderr
        assert "touch STATE_DIR/hold-at-incumbent" in told.stderr
    assert "store does not answer" in answer["error"]
    assert "touch STATE_DIR/hold-at-incumbent" in answer["instead"]
    assert (asked.exit_code, "hold-at-incumbent" in asked.stderr) == (3, False)


def test_export_prints_settings_that_a_shell_can_read(url: str) -> None:
    operate("start", url=url)
    going = run("export", url=url)
    assert "is under way" in going.err
    for _ in DEFAULT_PLAN.stages:
        assert run("promote", url=url, right=Right.APPROVER).code == 0
    told = run("export", url=url)
    assert told.err == ""
    name, _, value = told.out.strip().partition("=")
    assert name == "TURNOUT_TIERS"
    (text,) = shlex.split(value)
    tiers = TypeAdapter(tuple[Tier, ...]).validate_json(text)
    assert [(tier.arm, tier.active) for tier in tiers] == [("phase1", True), ("phase2", True)]
    assert json.loads(run("export", "--json", url=url).out) == json.loads(text)
    assert operate("undo", url=url).code == 0
    assert '"active":false' in run("export", url=url).out


def test_the_schema_is_printed_without_a_controller() -> None:
    told = RUNNER.invoke(app, ["schema"])
    assert "stages" in json.loads(told.stdout)["properties"]
    assert Plan.model_validate(DEFAULT_PLAN.model_dump()) == DEFAULT_PLAN


def test_watch_prints_a_line_for_each_change_and_ends_with_the_rollout(url: str) -> None:
    operate("start", url=url)
    environment = {
        **os.environ,
        "TURNOUT_CONTROLLER_URL": url,
        "TURNOUT_CONTROLLER_TOKEN": SECRETS[Right.VIEWER],
    }
    words = [str(TURNOUT), "rollout", "watch", "--interval", "0.1"]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert "running; stage shadow-5 (1/4" in watching.stdout.readline()
        operate("pause", "--reason", "lunch", url=url)
        assert "paused" in watching.stdout.readline()
        operate("abort", "--reason", "enough", url=url)
        rest = watching.stdout.read()
        assert watching.wait(10) == 1
    assert "abort by the-operator: enough" in rest.strip().splitlines()[-1]


def test_watch_prints_an_explanation_a_line_with_json(url: str) -> None:
    operate("start", url=url)
    environment = {
        **os.environ,
        "TURNOUT_CONTROLLER_URL": url,
        "TURNOUT_CONTROLLER_TOKEN": SECRETS[Right.VIEWER],
    }
    words = [str(TURNOUT), "rollout", "watch", "--json", "--interval", "0.1"]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        seen = [Explanation.model_validate_json(watching.stdout.readline())]
        operate("abort", "--reason", "enough", url=url)
        seen += map(Explanation.model_validate_json, watching.stdout.read().splitlines())
        assert watching.wait(10) == 1
    assert (seen[0].state, seen[-1].state) == ("running", "aborted")


def test_watch_ends_cleanly_with_ctrl_c(url: str) -> None:
    operate("start", url=url)
    environment = {
        **os.environ,
        "TURNOUT_CONTROLLER_URL": url,
        "TURNOUT_CONTROLLER_TOKEN": SECRETS[Right.VIEWER],
    }
    words = [str(TURNOUT), "rollout", "watch"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, env=environment, stdout=pipe, stderr=pipe, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 130
        assert watching.stderr.read() == ""


def test_watch_of_what_is_not_there_is_refused(url: str) -> None:
    ran = run("watch", url=url)
    assert (ran.code, "there is no rollout yet" in ran.err) == (1, True)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("turnout rollout p", {"pause", "plan", "promote"}),
        ("turnout rollout promote --f", {"--full"}),
    ],
)
def test_the_shell_completes_verbs_and_options(typed: str, offered: set[str]) -> None:
    environment = {
        **os.environ,
        "_TURNOUT_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    told = subprocess.run([TURNOUT], env=environment, capture_output=True, text=True, check=True)
    assert set(told.stdout.split()) == offered


def test_every_verb_explains_itself_and_those_that_change_something_can_run_dry() -> None:
    names = re.findall(
        r"^│ (\w+)", RUNNER.invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout, re.MULTILINE
    )
    assert {"start", "advance", "promote", "approve", "pause", "resume", "abort", "retry", "undo",
            "status", "list", "show", "explain", "watch", "export", "schema", "audit", "report",
            "plan"} == set(names)  # fmt: skip
    questions = {"status", "list", "show", "explain", "watch", "export", "schema", "audit",
                 "report", "plan"}  # fmt: skip
    for name in names:
        told = RUNNER.invoke(app, [name, "--help"], env={"COLUMNS": "200"}).stdout
        assert ("--dry-run" in told) == (name not in questions), name
        if name not in {"plan", "schema"}:
            assert "--json" in told
            assert "TURNOUT_CONTROLLER_TOKEN" in told


def test_a_plan_may_be_written_and_read_again(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(write_plan(DEFAULT_PLAN))
    assert RUNNER.invoke(app, ["plan"]).stdout == plan.read_text()
