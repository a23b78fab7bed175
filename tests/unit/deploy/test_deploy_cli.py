"""The `turnout` command: what it prints, what it refuses."""

import os
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from deploy import local
from deploy.cli import app, backend_defaults, without_keys
from rollout.snapshot import DEFAULT_TIERS
from router.settings import Settings as RouterSettings
from router.statedir import default_state_dir

RUN = CliRunner()


def test_help_teaches_the_first_steps() -> None:
    help_ = RUN.invoke(app, ["--help"]).stdout
    for words in ("turnout demo", "turnout up", "turnout rollout start"):
        assert words in help_


def test_the_version_is_printed() -> None:
    assert RUN.invoke(app, ["--version"]).stdout.startswith("turnout ")


@pytest.mark.parametrize(
    ("verb", "variables"),
    [
        ("gateway", ("ROUTER_PORT", "TURNOUT_REDIS_URL", "TURNOUT_TIERS")),
        ("backend", ("BACKEND_ARM", "BACKEND_CHECKPOINT", "BACKEND_OPEN", "8091")),
        ("controller", ("ROLLOUT_PORT", "TURNOUT_REDIS_URL")),
    ],
)
def test_each_process_lists_the_environment_that_it_reads(
    verb: str, variables: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))  # the verb sets defaults in it
    result = RUN.invoke(app, [verb, "--settings"])
    assert result.exit_code == 0
    for variable in variables:
        assert variable in result.stdout


def test_an_example_is_a_predict_body_of_that_length() -> None:
    body = orjson.loads(RUN.invoke(app, ["example", "7"]).stdout)
    assert (len(body["context"]), len(body["context"][0])) == (7, 768)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["example", "601"], "chain 0 has 600 vectors"),
        (["example", "5", "--chain", "12"], "the chains 0 to 11"),
        (["example", "5", "--bank", "/nowhere.npz"], "/nowhere.npz"),
    ],
)
def test_an_example_that_does_not_exist_is_refused_in_words(
    arguments: list[str], words: str
) -> None:
    result = RUN.invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert words in result.output


def test_what_the_backend_verb_fills_in_is_not_called_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = dict(os.environ)
    listed = RUN.invoke(app, ["backend", "--arm", "phase2", "--settings"], env={"COLUMNS": "200"})
    assert "required" not in listed.stdout
    assert "8092" in listed.stdout
    assert dict(os.environ) == before
    monkeypatch.setenv("BACKEND_ARM", "phase2")
    assert "8092" in RUN.invoke(app, ["backend", "--settings"], env={"COLUMNS": "200"}).stdout


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        ([], {}, {"ARM": "phase1", "PORT": "8091", "MAX_LENGTH": "100", "BANK": str(local.DATA)}),
        ([], {"ARM": "phase2"}, {"ARM": "phase2", "PORT": "8092", "MAX_LENGTH": "500"}),
        (["--arm", "phase1"], {"ARM": "phase2"}, {"ARM": "phase1", "PORT": "8091"}),
        (["--bank", "/good.npz"], {"BANK": "/other.npz"}, {"BANK": "/good.npz"}),
        ([], {"BANK": "/other.npz", "PORT": "1"}, {"BANK": "/other.npz", "PORT": "1"}),
        (["--checkpoint", "/w.pt"], {"CHECKPOINT": "/v.pt"}, {"CHECKPOINT": "/w.pt"}),
        ([], {"CHECKPOINT": "/v.pt"}, {"CHECKPOINT": "/v.pt"}),
    ],
)
def test_an_option_of_the_backend_beats_the_environment_which_beats_the_default(
    flags: list[str],
    environment: dict[str, str],
    expected: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for name, value in environment.items():
        monkeypatch.setitem(os.environ, f"BACKEND_{name}", value)
    monkeypatch.setattr("deploy.cli._run", lambda _: seen.update(os.environ))
    assert RUN.invoke(app, ["backend", *flags]).exit_code == 0
    assert {name: seen[f"BACKEND_{name}"] for name in expected} == expected


def test_an_arm_without_shipped_weights_gets_no_checkpoint() -> None:
    tiers = (DEFAULT_TIERS[0].model_copy(update={"arm": "own"}),)
    filled = backend_defaults({"BACKEND_ARM": "own"}, tiers)
    assert "BACKEND_CHECKPOINT" not in filled


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (
            {},
            "and start, promote and abort rollouts. ROUTER_KEYS_FILE and ROLLOUT_KEYS_FILE change",
        ),
        ({"ROUTER_KEYS_FILE": "k"}, "may start, promote and abort rollouts. ROLLOUT_KEYS_FILE"),
        ({"ROLLOUT_KEYS_FILE": "k"}, "may predict, send feedback and override. ROUTER_KEYS_FILE"),
    ],
)
def test_the_terminal_is_told_who_may_do_what_without_keys(
    environment: dict[str, str], words: str
) -> None:
    assert words in without_keys(environment)
    assert without_keys({"ROUTER_KEYS_FILE": "k", "ROLLOUT_KEYS_FILE": "k"}) == ""


def test_a_gateway_alone_looks_for_its_files_where_up_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert RouterSettings().state_dir == Path("/home/me/.local/state/turnout/gateway")
    monkeypatch.setenv("TURNOUT_STATE_DIR", str(tmp_path))
    assert RouterSettings().state_dir == tmp_path / "gateway"


def test_state_lies_where_the_desktop_rules_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TURNOUT_STATE_DIR", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert default_state_dir() == Path("/x/turnout")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_state_dir() == Path("/home/me/.local/state/turnout")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["up", "--checkpoint", "phase9=x"], "'phase9' is no tier"),
        (["up", "--checkpoint", "phase1=/nowhere"], "there is no file '/nowhere'"),
        (["up", "--port", "99999"], "65535"),
        (["backend", "--arm", "phase9"], "has phase1, phase2"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_starts(arguments: list[str], words: str) -> None:
    result = RUN.invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert words in result.output
