"""What the verbs of `turnout rollout` take, each option written once.

A verb names the options that it shares with others by the class of its first parameter: `@takes`
adds them to what typer sees beside the verb's own.
"""

import dataclasses
import functools
import getpass
import inspect
import os
import typing
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Concatenate, Final, ParamSpec, TypeVar

import typer

HERE: Final = "http://127.0.0.1:8081"
UNSAID: Final = "no reason given"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return f"uid {os.getuid()}"


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Whom every verb asks, and how the answer is printed."""

    as_json: Annotated[
        bool, typer.Option("--json", help="Print the controller's answer as JSON.")
    ] = False
    url: Annotated[
        str, typer.Option("--url", envvar="TURNOUT_CONTROLLER_URL", help="Where the controller is.")
    ] = HERE
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="TURNOUT_CONTROLLER_TOKEN",
            help="Your API key, where the controller wants one; others on this machine can see it "
            "on the command line, but not in the environment.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Ordering(Asking):
    """What comes with every command."""

    actor: Annotated[
        str,
        typer.Option(
            default_factory=_user,
            help="Who asks; by default your login. Where keys are on, the key's name stands.",
        ),
    ]
    idempotency_key: Annotated[
        str,
        typer.Option(default_factory=lambda: uuid.uuid4().hex, help="Makes a repeat harmless."),
    ]
    reason: Annotated[str, typer.Option(help="Why: it stands in the audit for good.")] = UNSAID
    expect_version: Annotated[
        str | None,
        typer.Option(
            "--expect-version",
            metavar="EPOCH.VERSION",
            help="Refuse (exit 1) when the rollout has moved on from the version you saw.",
        ),
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would happen, and do nothing.")
    ] = False

    @property
    def body(self) -> dict[str, Any]:
        """The command's body."""
        return {
            "actor": self.actor,
            "reason": self.reason,
            "idempotency_key": self.idempotency_key,
            "expected_version": self.expect_version,
            "dry_run": self.dry_run,
        }


Rollout = Annotated[str, typer.Option("--id", help="A rollout's id; by default the current one.")]

_T = TypeVar("_T", bound=Asking)
_P = ParamSpec("_P")


def takes(kind: type[_T]) -> Callable[[Callable[Concatenate[_T, _P], None]], Callable[..., None]]:
    """Let a verb take the options of `kind`, gathered into its first parameter."""
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    shared = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hints[name],
            default=inspect.Parameter.empty
            if field.default is dataclasses.MISSING
            else field.default,
        )
        for name, field in fields.items()
    ]

    def decorate(verb: Callable[Concatenate[_T, _P], None]) -> Callable[..., None]:
        first, *own = inspect.signature(verb, eval_str=True).parameters.values()

        @functools.wraps(verb)
        def wrapper(**given: Any) -> None:
            asked = kind(**{name: given.pop(name) for name in fields})
            typing.cast("Callable[..., None]", verb)(asked, **given)

        keywords = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
        vars(wrapper)["__signature__"] = inspect.Signature([*keywords, *shared])
        wrapper.__annotations__ = {one.name: one.annotation for one in (*keywords, *shared)}
        del first
        return wrapper

    return decorate
