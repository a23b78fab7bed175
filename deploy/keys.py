"""`turnout key`: make API keys. A key is shown once and kept nowhere; its hash goes into a file."""

import json
import os
from pathlib import Path
from typing import Annotated, Final

import typer

from backends.serving.access import (
    KEY_BYTES,
    Key,
    KeyFileError,
    Right,
    check_name,
    digest_of,
    new_key,
    read_keys,
)
from backends.serving.oserrors import in_words

FAILED: Final = 1
KEY_FILE_MODE: Final = 0o600

app = typer.Typer(name="key", no_args_is_help=True, help="Make API keys for people and programs.")


@app.callback()
def _group() -> None:
    """Keep `new` a verb of its own."""


@app.command()
def new(
    name: Annotated[
        str, typer.Argument(help="Whose key it is: a team, a service, a person. Stands in logs.")
    ],
    right: Annotated[
        list[Right],
        typer.Option(
            help="What it is good for; may be repeated. Gateway: predict, feedback, override. "
            "Controller: viewer, stopper, operator, approver."
        ),
    ],
    file: Annotated[
        Path | None,
        typer.Option(
            help="Add the line to this file (ROUTER_KEYS_FILE, ROLLOUT_KEYS_FILE); made if need "
            "be.",
            dir_okay=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Print a new key, once, and the line that makes it known to a server.

    Example: turnout key new search-team --right predict --right feedback --file keys.txt
    """
    secret = new_key(os.urandom(KEY_BYTES))
    key = Key(name, frozenset(right), digest_of(secret))
    try:
        check_name(name)
        if file:
            _add(file, key)
    except (KeyFileError, OSError, UnicodeDecodeError) as error:
        reason = str(error) if isinstance(error, KeyFileError) else in_words(error)
        typer.echo(f"turnout key new: {reason}", err=True)
        raise typer.Exit(FAILED) from None
    line = str(key)
    if as_json:
        typer.echo(json.dumps({"key": secret, "line": line}))
        return
    typer.echo(f"key    {secret}")
    typer.echo(f"line   {line}")
    typer.echo("\nThe key is not kept anywhere: give it to its user now.", err=True)


def _add(file: Path, key: Key) -> None:
    """Add a key's line to a file, unless the file is wrong or has the name. Raises KeyFileError."""
    before = file.read_text("utf-8") if file.exists() else ""
    if before and not before.endswith("\n"):
        before += "\n"
    try:
        known = read_keys(before)
    except KeyFileError as error:
        raise KeyFileError(f"{file}: {error}") from None
    if key.name in known.names:
        raise KeyFileError(
            f'{file} has a key of "{key.name}" already: choose another name, or take its line away'
        )
    text = f"{before}{key}\n"
    # In one step: a server that looks meanwhile reads the old file or the new one.
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, KEY_FILE_MODE), "w") as out:
        out.write(text)
    if before:
        draft.chmod(file.stat().st_mode)
    draft.replace(file)
