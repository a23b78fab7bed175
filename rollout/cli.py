"""The verbs of `turnout rollout`: one verb is one call of the controller's API.

For people there are sentences and tables; `--json` prints the API's own answer. The exit code
tells a program what to do next: 0 done, 1 refused (and nothing was changed), 2 wrong usage or a
malformed plan, 3 the controller was not reached or the outcome is unknown (look at the status, or
send the command again with the same `--idempotency-key`).
"""

import getpass
import json
import os
import uuid
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import httpx2
import typer
from rich.console import Console
from rich.text import Text

from rollout.judge import Verdict
from rollout.orders import Result, Status
from rollout.plan import DEFAULT_PLAN, Plan
from rollout.planfile import PlanError, parse_plan, write_plan
from rollout.tables import gate_view, status_view

REFUSED: Final = 1
USAGE: Final = 2
UNKNOWN: Final = 3
TIMEOUT_S: Final = 30.0
_SERVER_ERROR: Final = 500
_UNPROCESSABLE: Final = 422
_OK: Final = 300

app = typer.Typer(
    name="rollout",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Move traffic from one model to the next in stages, with evidence, and back again.\n\n"
    "A first rollout: `start`, then `status` until the gate says PASS, then `advance`; "
    "`abort` at any time. Exit codes: 0 done, 1 refused, 2 wrong usage or a malformed plan, "
    "3 controller unreachable or outcome unknown.",
)
_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)


class Form(StrEnum):
    """What a report is written as."""

    HTML = "html"
    JSON = "json"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return f"uid {os.getuid()}"


Url = Annotated[
    str, typer.Option("--url", envvar="TURNOUT_CONTROLLER_URL", help="Where the controller is.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the controller's answer as JSON.")]
Reason = Annotated[str, typer.Option(help="Why: it stands in the audit for good.")]
Actor = Annotated[str, typer.Option(default_factory=_user, help="Who asks; by default your login.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and do nothing.")]
Expect = Annotated[
    str | None,
    typer.Option(
        "--expect-version",
        metavar="EPOCH.VERSION",
        help="Refuse (exit 1) when the rollout has moved on from the version you saw.",
    ),
]
Key = Annotated[
    str, typer.Option(default_factory=lambda: uuid.uuid4().hex, help="Makes a repeat harmless.")
]
Rollout = Annotated[str, typer.Option("--id", help="A rollout's id; by default the current one.")]

HERE: Final = "http://127.0.0.1:8081"
UNSAID: Final = "no reason given"


# --- verbs ---------------------------------------------------------------------------------------


@app.command()
def start(
    actor: Actor,
    idempotency_key: Key,
    plan: Annotated[
        Path | None,
        typer.Argument(
            help="A YAML file; without one the default plan.", exists=True, dir_okay=False
        ),
    ] = None,
    reason: Reason = UNSAID,
    expect_version: Expect = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    url: Url = HERE,
) -> None:
    """Start a rollout: enter the first stage of a plan.

    `turnout rollout plan > plan.yaml` writes a plan to edit; then
    `turnout rollout start plan.yaml --reason "weights of May"`. Every fault of a plan is listed
    with its line, and then nothing is started (exit 2).
    """
    body = _order(actor, reason, idempotency_key, expect_version, dry_run)
    if plan is not None:
        body["plan"] = _read(plan).model_dump(mode="json")
    _command(url, "/v1/rollouts", body, as_json=as_json)


@app.command()
def status(as_json: Json = False, url: Url = HERE) -> None:
    """Show where the rollout stands, what was counted, and what the gate says now."""
    answer = _ask(url, "GET", "/v1/rollouts/current")
    if as_json:
        typer.echo(answer.text)
    else:
        _out.print(status_view(Status.model_validate_json(answer.content)))


@app.command()
def advance(
    actor: Actor,
    idempotency_key: Key,
    reason: Reason = UNSAID,
    expect_version: Expect = None,
    dry_run: DryRun = False,
    rollout: Rollout = "current",
    as_json: Json = False,
    url: Url = HERE,
) -> None:
    """Enter the next stage, or finish after the last, if the gate of this stage is open.

    `turnout rollout advance --expect-version 1.4 --reason "gate passed"`. A closed gate says
    which figures are missing (exit 1).
    """
    body = _order(actor, reason, idempotency_key, expect_version, dry_run)
    _command(url, f"/v1/rollouts/{rollout}/advance", body, as_json=as_json)


@app.command()
def pause(
    actor: Actor,
    idempotency_key: Key,
    reason: Reason = UNSAID,
    expect_version: Expect = None,
    dry_run: DryRun = False,
    rollout: Rollout = "current",
    as_json: Json = False,
    url: Url = HERE,
) -> None:
    """Freeze the weight where it is: traffic goes on as now, and nothing advances."""
    body = _order(actor, reason, idempotency_key, expect_version, dry_run)
    _command(url, f"/v1/rollouts/{rollout}/pause", body, as_json=as_json)


@app.command()
def resume(
    actor: Actor,
    idempotency_key: Key,
    reason: Reason = UNSAID,
    expect_version: Expect = None,
    dry_run: DryRun = False,
    rollout: Rollout = "current",
    as_json: Json = False,
    url: Url = HERE,
) -> None:
    """Go on after a pause, in the same stage."""
    body = _order(actor, reason, idempotency_key, expect_version, dry_run)
    _command(url, f"/v1/rollouts/{rollout}/resume", body, as_json=as_json)


@app.command()
def abort(
    actor: Actor,
    idempotency_key: Key,
    reason: Reason = UNSAID,
    expect_version: Expect = None,
    dry_run: DryRun = False,
    rollout: Rollout = "current",
    as_json: Json = False,
    url: Url = HERE,
) -> None:
    """Take all traffic off the candidate at once, for good.

    `turnout rollout abort --reason "errors on the new pool"`. The tier table is then as it was
    before the start; another try is a new `start`.
    """
    body = _order(actor, reason, idempotency_key, expect_version, dry_run)
    _command(url, f"/v1/rollouts/{rollout}/abort", body, as_json=as_json)


@app.command()
def report(
    form: Annotated[
        Form | None, typer.Option("--format", help="By default what FILE's name says, else json.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Instead of stdout.")
    ] = None,
    rollout: Rollout = "current",
    url: Url = HERE,
) -> None:
    """Write the shadow comparison report: `turnout rollout report -o report.html`."""
    named_html = output is not None and output.suffix in (".html", ".htm")
    chosen = form or (Form.HTML if named_html else Form.JSON)
    answer = _ask(url, "GET", f"/v1/rollouts/{rollout}/report", params={"format": chosen.value})
    if output is None:
        typer.echo(answer.text)
        return
    try:
        output.write_bytes(answer.content)
    except OSError as error:
        _fail(USAGE, f"cannot write {output}: {error.strerror}")
    _say(f"wrote {output} ({len(answer.content)} bytes)")


@app.command()
def plan() -> None:
    """Print the default plan as YAML, each field explained: a start for your own."""
    typer.echo(write_plan(DEFAULT_PLAN), nl=False)


# --- one call ------------------------------------------------------------------------------------


def _order(
    actor: str, reason: str, key: str, expect_version: str | None, dry_run: bool
) -> dict[str, Any]:
    return {
        "actor": actor,
        "reason": reason,
        "idempotency_key": key,
        "expected_version": expect_version,
        "dry_run": dry_run,
    }


def _read(path: Path) -> Plan:
    """Read a plan file; on faults print each with its line, and exit 2."""
    try:
        return parse_plan(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        _fail(USAGE, f"{path}: this is no UTF-8 text: {error.reason} at byte {error.start}")
    except OSError as error:
        _fail(USAGE, f"{path}: {error.strerror}")
    except PlanError as error:
        for fault in error.errors:
            place = f"{path}:{fault.line}" if fault.line else str(path)
            _err.print(Text(f"{place} {fault}"), soft_wrap=True)
        _fail(USAGE, f"faults in {path}: {len(error.errors)}; nothing was started")


def _command(url: str, path: str, body: dict[str, Any], *, as_json: bool) -> None:
    answer = _ask(url, "POST", path, body=body, as_json=as_json)
    if as_json:
        typer.echo(answer.text)
        return
    result = Result.model_validate_json(answer.content)
    prefix = {"applied": "", "repeated": "done before: ", "dry_run": "dry run, nothing changed: "}
    _say(f"{prefix[result.outcome]}{result.message} [version {result.version}]")


def _ask(
    url: str,
    method: str,
    path: str,
    *,
    body: dict[str, Any] | None = None,
    params: dict[str, str] | None = None,
    as_json: bool = False,
) -> httpx2.Response:
    """Make one call; on anything but success say so and exit."""
    try:
        answer = httpx2.request(
            method, f"{url.rstrip('/')}{path}", json=body, params=params, timeout=TIMEOUT_S
        )
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        _fail(USAGE, f"the controller's URL {url!r} is none: {error}")
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        _fail(
            UNKNOWN,
            f"no controller at {url} ({error}): nothing was changed; "
            "`turnout up` starts one, --url or TURNOUT_CONTROLLER_URL names another",
        )
    except httpx2.HTTPError as error:
        again = (
            f" or send it again with --idempotency-key {body['idempotency_key']}" if body else ""
        )
        _fail(
            UNKNOWN,
            f"the controller at {url} gave no answer ({type(error).__name__}): the outcome is "
            f"unknown; look at `turnout rollout status`{again}",
        )
    if answer.status_code >= _OK:
        _refused(answer, as_json=as_json)
    return answer


def _refused(answer: httpx2.Response, *, as_json: bool) -> NoReturn:
    code = REFUSED
    if answer.status_code >= _SERVER_ERROR:
        code = UNKNOWN
    elif answer.status_code == _UNPROCESSABLE:
        code = USAGE
    if as_json:
        typer.echo(answer.text)
        raise typer.Exit(code)
    try:
        told = json.loads(answer.content)
        message = str(told["error"])
    except (ValueError, KeyError, TypeError):
        _fail(code, f"the controller answered {answer.status_code}: {answer.text[:200]}")
    if verdict := told.get("verdict"):
        _err.print(gate_view(Verdict.model_validate(verdict)))
    _fail(code, message)


def _say(message: str) -> None:
    _out.print(Text(message), soft_wrap=True)


def _fail(code: int, message: str) -> NoReturn:
    _err.print(Text(message), soft_wrap=True)
    raise typer.Exit(code)
