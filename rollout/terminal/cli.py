"""The verbs of `turnout rollout`: one verb is one call of the controller's API.

For people there are sentences and tables; `--json` prints the API's own answer, and where there is
none, or a refusal, an object with `error` and `errors` on stdout. The exit code
tells a program what to do next: 0 done, 1 refused (and nothing was changed), 2 wrong usage or a
malformed plan, 3 the controller was not reached or the outcome is unknown (look at the status, or
send the command again with the same `--idempotency-key`). `watch` ends with 0 when the rollout
succeeded, with 1 when it ended otherwise, and with 130 after Ctrl-C.
"""

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from pydantic import TypeAdapter
from rich.console import Console, RenderableType
from rich.text import Text

from rollout.explanation import Explanation
from rollout.machine import AuditEntry
from rollout.orders import Result, RolloutStatus, Status, Summary
from rollout.plan import DEFAULT_PLAN
from rollout.planfile import PlanError, parse_plan, schema, write_plan
from rollout.snapshot import Tier
from rollout.terminal.options import UNSAID, Asking, Ordering, Rollout, takes
from rollout.terminal.remote import (
    STOP_TIMEOUT_S,
    TIMEOUT_S,
    UNKNOWN,
    USAGE,
    CallError,
    get,
    post,
    read,
)
from rollout.terminal.tables import gate_view, status_view
from rollout.terminal.views import audit_view, explanation_view, forecast_view, list_view, show_view
from rollout.terminal.watch import watch as follow

app = typer.Typer(
    name="rollout",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Move traffic from one model to the next in stages, with evidence, and back again.\n\n"
    "A first rollout: `start`, then `explain` until the gate says PASS, then `advance`; "
    "`abort` at any time. Exit codes: 0 done, 1 refused, 2 wrong usage or a malformed plan, "
    "3 controller unreachable or outcome unknown.",
)
PIPED: Final = 200
"""Columns of a table that goes into a file or a pipe, where nothing says how wide it may be."""
STOPS: Final = frozenset({"abort", "pause"})
"""The verbs of somebody in a hurry."""
INSTEAD: Final = """\
To take the candidate's traffic off without store and controller, on the machine of each gateway:
  touch STATE_DIR/hold-at-incumbent
It works within a second, and until the file is removed. STATE_DIR is what ROUTER_STATE_DIR names \
there; of `turnout up` it is ~/.local/state/turnout/gateway"""
_T = TypeVar("_T")


class Form(StrEnum):
    """What a report is written as."""

    HTML = "html"
    JSON = "json"
    MARKDOWN = "md"


# --- commands ------------------------------------------------------------------------------------


@app.command()
@takes(Ordering)
def start(
    order: Ordering,
    plan: Annotated[Path, typer.Argument(help="A YAML file; - reads standard input.")],
) -> None:
    """Start a rollout: enter the first stage of a plan, and forecast how long the stages take.

    `turnout rollout plan > plan.yaml` writes a plan to edit; then
    `turnout rollout start plan.yaml --reason "weights of May"`. Every fault of a plan is listed
    with its line, and then nothing is started (exit 2). With `--dry-run` the forecast alone, also
    where a freeze window keeps it from starting now (exit 1).
    """
    with _failing(order):
        document = _read(plan)
        if order.reason == UNSAID and not order.dry_run:
            raise CallError(USAGE, 'say why: --reason "..." stands in the audit for good')
    _command(order, "/v1/rollouts", {**order.body, "plan": document})


def _plain(verb: str, told: str) -> None:
    """Add a command that takes nothing but its order."""

    @takes(Ordering)
    def command(order: Ordering, rollout: Rollout = "current") -> None:
        _command(order, f"/v1/rollouts/{rollout}/{verb}", order.body, stops=verb in STOPS)

    command.__name__, command.__doc__ = verb, told
    app.command()(command)


_plain(
    "advance",
    """Enter the next stage, or finish after the last, if the gate of this stage is open.

    `turnout rollout advance --expect-version 1.4 --reason "gate passed"`. A closed gate says
    which figures are missing (exit 1).
    """,
)


@app.command()
@takes(Ordering)
def promote(
    order: Ordering,
    rollout: Rollout = "current",
    full: Annotated[
        bool, typer.Option("--full", help="Enter the last stage, over those in between.")
    ] = False,
) -> None:
    """Enter the next stage without waiting for the gate: an approver's right, recorded as such.

    `turnout rollout promote --reason "agreed with the model's owners"`. In the last stage it
    finishes the rollout.
    """
    _command(order, f"/v1/rollouts/{rollout}/promote", {**order.body, "full": full})


for _verb, _told in {
    "approve": "Agree that the present stage may be left, where the plan asks for an approval.",
    "pause": "Freeze the weight where it is: nothing advances, and the rollback guard stays armed.",
    "resume": "Go on in the same stage, after a pause or a hold.",
    "abort": """Take all traffic off the candidate at once, for good.

    `turnout rollout abort --reason "errors on the new pool"`. The tier table is then as it was
    before the start; another try is a `retry` or a new `start`. Where neither store nor controller
    answers, it says what stops the traffic at the gateways.
    """,
    "retry": """Start the plan of a rollout that ended anew: another id and salt, no old evidence.

    What was aborted, rolled back or undone can be tried again, as often as its plan allows.
    """,
    "undo": "After a success: the tier table as it was before the rollout, in one step.",
}.items():
    _plain(_verb, _told)


# --- questions -----------------------------------------------------------------------------------


@app.command()
@takes(Asking)
def status(asking: Asking) -> None:
    """Show where everything stands: the stage, what was counted, the gate, every gateway."""
    _show(asking, "/v1/rollouts/current", Status, status_view)


@app.command(name="list")
@takes(Asking)
def list_(asking: Asking) -> None:
    """List the rollouts that are remembered, newest first."""
    _show(asking, "/v1/rollouts", tuple[Summary, ...], list_view)


@app.command()
@takes(Asking)
def show(
    asking: Asking,
    rollout: Annotated[str, typer.Argument(help="A rollout's id: `list` names them.")],
) -> None:
    """Show one rollout, also one that ended: its stages, when they were left, and on what."""
    if rollout == "current":
        with _failing(asking):
            rollout = read(get(asking, "/v1/rollouts/current/explain"), Explanation).rollout
    _show(asking, f"/v1/rollouts/{rollout}", RolloutStatus, show_view)


@app.command()
@takes(Asking)
def explain(asking: Asking, rollout: Rollout = "current") -> None:
    """Say why a rollout is held, went on, or failed; what is missing, and what happens next."""
    _show(asking, f"/v1/rollouts/{rollout}/explain", Explanation, explanation_view)


@app.command()
@takes(Asking)
def watch(
    asking: Asking,
    rollout: Rollout = "current",
    interval: Annotated[
        float, typer.Option("--interval", min=0.1, help="Seconds between two looks.")
    ] = 2.0,
) -> None:
    """Follow a rollout until it ends; a line for each change where this is no terminal.

    With `--json` a line for each change is what `explain --json` prints, or an object with `error`.
    Exits with 0 when the rollout succeeded, 1 when it ended otherwise, 130 after Ctrl-C.
    """
    with _failing(asking):
        raise typer.Exit(follow(asking, rollout, interval, _out()))


@app.command()
@takes(Asking)
def audit(
    asking: Asking,
    rollout: Annotated[str | None, typer.Option("--id", help="Of this rollout alone.")] = None,
) -> None:
    """Show who did what, when and why: the newest 1,000 transitions, oldest first."""
    params = {"rollout": rollout} if rollout else None
    _show(asking, "/v1/audit", tuple[AuditEntry, ...], audit_view, params)


@app.command()
@takes(Asking)
def export(asking: Asking) -> None:
    """Print the settings that make the outcome permanent, for gateways and controllers.

    `turnout rollout export >> turnout.env`. The outcome of a rollout lives in the store; with these
    settings a new store, or a gateway that reaches none, begins with the same tier table.
    """
    with _failing(asking):
        seen = read(get(asking, "/v1/rollouts/current"), Status)
    if seen.rollout and seen.rollout.ended_at is None:
        _err().print(
            Text(f"{seen.rollout.id} is under way: this is the table as it was before it"),
            soft_wrap=True,
        )
    table = TypeAdapter(tuple[Tier, ...]).dump_json(seen.tiers).decode()
    typer.echo(table if asking.as_json else f"TURNOUT_TIERS={shlex.quote(table)}")


@app.command()
@takes(Asking)
def report(
    asking: Asking,
    form: Annotated[
        Form | None, typer.Option("--format", help="By default what FILE's name says, else json.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Instead of stdout.")
    ] = None,
    rollout: Rollout = "current",
) -> None:
    """Write the shadow comparison report: `turnout rollout report -o report.html`.

    Without `--format` the file's name decides (.html, .md, .json), and without a file it is JSON.
    """
    with _failing(asking):
        chosen = form or (Form.JSON if output is None else _form_of(output))
        answer = get(asking, f"/v1/rollouts/{rollout}/report", {"format": chosen.value})
        if output is None:
            typer.echo(answer.text)
            return
        try:
            output.write_bytes(answer.content)
        except OSError as error:
            raise CallError(USAGE, f"cannot write {output}: {error.strerror}") from None
    if asking.as_json:
        typer.echo(json.dumps({"file": str(output), "bytes": len(answer.content)}))
    else:
        _say(f"wrote {output} ({len(answer.content)} bytes)")


@app.command()
def plan() -> None:
    """Print the default plan as YAML, each field explained: a start for your own."""
    typer.echo(write_plan(DEFAULT_PLAN), nl=False)


@app.command(name="schema")
def schema_() -> None:
    """Print the JSON schema of a plan: for editors, and for programs that write plans."""
    typer.echo(json.dumps(schema(), indent=2))


# --- one call ------------------------------------------------------------------------------------


def _form_of(file: Path) -> Form:
    """Tell what a report is written as by the name of its file. Raises CallError."""
    names = {".html": Form.HTML, ".htm": Form.HTML, ".md": Form.MARKDOWN, ".json": Form.JSON}
    if found := names.get(file.suffix.lower()):
        return found
    raise CallError(
        USAGE,
        f"{file}: a report is .html, .md or .json; for another name say which with --format",
    )


def _show(
    asking: Asking,
    path: str,
    kind: type[_T],
    view: Callable[[_T], RenderableType],
    params: dict[str, str] | None = None,
) -> None:
    with _failing(asking):
        answer = get(asking, path, params)
        if asking.as_json:
            typer.echo(answer.text)
        else:
            _out().print(view(read(answer, kind)))


def _command(order: Ordering, path: str, body: dict[str, Any], *, stops: bool = False) -> None:
    with _failing(order, INSTEAD if stops else None):
        answer = post(order, path, body, STOP_TIMEOUT_S if stops else TIMEOUT_S)
        if order.as_json:
            typer.echo(answer.text)
            return
        result = read(answer, Result)
    prefix = {"applied": "", "repeated": "done before: ", "dry_run": "dry run, nothing changed: "}
    _say(f"{prefix[result.outcome]}{result.message} [version {result.version}]")
    if result.forecast:
        _out().print(forecast_view(result.forecast))


@contextmanager
def _failing(asking: Asking, instead: str | None = None) -> Iterator[None]:
    """Say what became of a call that did not succeed, and exit with its code.

    `instead` is what helps where neither controller nor store answers.
    """
    try:
        yield
    except CallError as error:
        helps = instead if error.code == UNKNOWN else None
        if asking.as_json:
            typer.echo(json.dumps(error.document | ({"instead": helps} if helps else {})))
        else:
            _tell(error, helps)
        raise typer.Exit(error.code) from None


def _tell(error: CallError, helps: str | None) -> None:
    """Print for a person what went wrong, the figures behind it first."""
    if error.forecast:
        _out().print(forecast_view(error.forecast))
    if error.verdict:
        _err().print(gate_view(error.verdict))
    for line in (*error.faults, str(error), *([helps] if helps else [])):
        _err().print(Text(line), soft_wrap=True)


def _read(path: Path) -> dict[str, Any]:
    """Read a plan file. Raises CallError with every fault, each with its line."""
    try:
        raw = sys.stdin.buffer.read() if path == Path("-") else path.read_bytes()
        return parse_plan(raw.decode("utf-8")).model_dump(mode="json")
    except UnicodeDecodeError as error:
        told = f"this is no UTF-8 text: {error.reason} at byte {error.start}"
        raise CallError(USAGE, f"{path}: {told}") from None
    except OSError as error:
        raise CallError(USAGE, f"{path}: {error.strerror}") from None
    except PlanError as error:
        raise CallError(
            USAGE,
            f"faults in {path}: {len(error.errors)}; nothing was started",
            {"errors": [fault._asdict() for fault in error.errors]},
            faults=[
                f"{path}:{fault.line} {fault}" if fault.line else f"{path} {fault}"
                for fault in error.errors
            ],
        ) from None


def _say(message: str) -> None:
    _out().print(Text(message), soft_wrap=True)


def _out() -> Console:
    return _console(stderr=False)


def _err() -> Console:
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    """Make the console that a verb prints on: its width is what it is now."""
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPED
    return console
