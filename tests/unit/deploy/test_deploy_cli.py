"""The `turnout` command: what it prints, what it refuses."""

import os
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from deploy.cli import app, default_state_dir

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
        ("backend", ("BACKEND_ARM", "BACKEND_CHECKPOINT", "required")),
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


def test_state_lies_where_the_desktop_rules_say(monkeypatch: pytest.MonkeyPatch) -> None:
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
