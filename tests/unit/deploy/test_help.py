"""What `--help` shows of every verb is what was written."""

from collections.abc import Iterator
from typing import Any

import click
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from deploy.cli import app

RUN = CliRunner()
WIDE = {"COLUMNS": "4000", "TERM": "dumb", "NO_COLOR": "1"}


def verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, sub in getattr(command, "commands", {}).items():
        yield from verbs(sub, (*path, name))


def plain(text: str) -> str:
    """Leave out what lays a text out: spaces, line breaks, frames; and the escapes of markup."""
    return "".join(text.replace("\\[", "[").replace("│", "").split())


EVERY = dict(verbs(get_command(app)))


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_every_bracket_of_a_help_text_is_shown(path: tuple[str, ...]) -> None:
    command: click.Command = EVERY[path]
    shown = plain(RUN.invoke(app, [*path, "--help"], env=WIDE).stdout)
    texts = [command.help or "", *(getattr(one, "help", None) or "" for one in command.params)]
    for text in filter(lambda text: "[" in text, texts):
        for line in text.splitlines():
            assert plain(line) in shown, line
