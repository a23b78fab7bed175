"""The `turnout` command: all on one machine, each process alone, and the rollout's verbs."""

import asyncio
import importlib
import os
import shlex
from collections.abc import Mapping
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic_core import to_json
from pydantic_settings import BaseSettings
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backends.cli import checkpoint as checkpoint_commands
from backends.training.verbs.corpus import corpus as corpus_commands
from backends.training.verbs.evaluate import evaluate
from backends.training.verbs.train import train
from deploy import local
from deploy.ask import feedback, predict
from deploy.board import Board
from deploy.broken import Fault
from deploy.children import Child, StartError
from deploy.keys import app as key_commands
from rollout.simulate.cli import simulate
from rollout.snapshot import Tier
from rollout.terminal.cli import app as rollout_commands
from router.statedir import STATE_DIR, default_state_dir

FAILED: Final = 1
DEFAULT_ARM: Final = "phase1"


class Candidate(StrEnum):
    """Whose rollout a demo shows."""

    TRAINED = "trained"
    BROKEN = "broken"


app = typer.Typer(
    name="turnout",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "A length-aware prediction gateway with a canary controller.\n\n"
        "Short contexts go to Phase 1, long ones to Phase 2, behind one endpoint; a rollout moves "
        "the long ones over in stages, and back when it must.\n\n"
        "Begin with `turnout demo`, or `turnout up` and `turnout rollout start`."
    ),
)
app.add_typer(rollout_commands, name="rollout")
app.add_typer(checkpoint_commands, name="checkpoint")
app.add_typer(corpus_commands, name="corpus")
app.add_typer(key_commands, name="key")
app.command("train")(train)
app.command("evaluate")(evaluate)
app.command("simulate")(simulate)
app.command("predict")(predict)
app.command("feedback")(feedback)

StateDir = Annotated[
    Path | None,
    typer.Option(
        help="Where state and logs lie; by default ~/.local/state/turnout.",
        envvar=STATE_DIR,
        show_default=False,
        file_okay=False,
    ),
]
Bank = Annotated[Path, typer.Option(help="The bank: an .npz with `vectors` and `ids`.")]


@app.command()
def up(
    state_dir: StateDir = None,
    host: Annotated[
        str,
        typer.Option(
            help="The address that gateway and controller listen on; model servers stay on "
            "127.0.0.1. Another than loopback needs keys for both (ROUTER_KEYS_FILE, "
            "ROLLOUT_KEYS_FILE: `turnout key new`), or ROUTER_OPEN and ROLLOUT_OPEN."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="The gateway's port.", min=1, max=local.PORT_MAX)
    ] = 8080,
    controller_port: Annotated[
        int, typer.Option(help="The controller's port.", min=1, max=local.PORT_MAX)
    ] = 8081,
    backend_port: Annotated[
        int,
        typer.Option(
            help="The first tier's port; the next tiers take the next ports.",
            min=1,
            max=local.PORT_MAX,
        ),
    ] = local.FIRST_BACKEND_PORT,
    bank: Bank = local.DATA,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ARM=FILE",
            help="An arm's weights, .safetensors or .pt; may be repeated. Without: those that "
            "ship for phase1 and phase2, untrained ones for other arms.",
        ),
    ] = None,
) -> None:
    """Start everything on this machine and keep it running until Ctrl-C.

    An embedded Valkey (or your Redis, if TURNOUT_REDIS_URL is set), one model server per tier,
    the controller and the gateway. A part that dies is restarted. TURNOUT_TIERS changes the
    tier table: '[{"arm":"phase1","max_length":100},{"arm":"phase2","max_length":500}]'.
    """
    console = Console()
    try:
        tiers = _tiers()
        layout = local.Layout(
            state_dir=(state_dir or default_state_dir()).absolute(),
            host=host,
            gateway_port=port,
            controller_port=controller_port,
            backend_ports=tuple(range(backend_port, backend_port + len(tiers))),
            redis_url=os.environ.get("TURNOUT_REDIS_URL") or None,
            bank=bank.absolute(),
            tiers=tiers,
            checkpoints={**local.shipped_weights(), **_checkpoints(checkpoint or [], tiers)},
        )
        asyncio.run(_up(layout, console))
    except (local.LocalError, StartError) as error:
        console.print(
            f"[red]turnout up:[/red] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        raise typer.Exit(FAILED) from None


async def _up(layout: local.Layout, console: Console) -> None:
    board = Board(console)
    children: tuple[Child, ...] = ()

    async def serve() -> None:
        nonlocal children
        async with local.running(layout, board.changed) as children:
            board.__exit__(None, None, None)
            _say_ready(layout, console)
            if fault := await local.store_fault(layout):
                console.print(
                    f"\n[red]No rollout can move:[/red] {escape(fault.rstrip('.'))}. "
                    "Predictions go on with the last known configuration.",
                    highlight=False,
                    soft_wrap=True,
                )
            await asyncio.Event().wait()

    with local.stop_signals(lambda: children) as stop, board:
        await local.until(stop, serve)


def _say_ready(layout: local.Layout, console: Console) -> None:
    options = _options(layout)
    console.print()
    for name, where in (
        ("gateway", layout.gateway_url),
        ("try it", f"{layout.gateway_url}/docs"),
        ("controller", layout.controller_url),
        ("logs", str(layout.state_dir / "logs")),
    ):
        console.print(f"  {name:<11}{escape(where)}", highlight=False, soft_wrap=True)
    if sentence := without_keys(os.environ):
        console.print(f"\n{escape(sentence)}", highlight=False, soft_wrap=True)
    untrained = [arm for arm in layout.backend_urls if arm not in layout.checkpoints]
    if untrained:
        console.print(
            f"\nThese arms have [bold]untrained weights[/bold] (fixed seeds): "
            f"{', '.join(untrained)}. --checkpoint ARM=FILE gives them some."
        )
    console.print("\nIn another terminal, try next:\n")
    for command in (
        f"turnout example 300 | turnout predict -{_gateway_option(layout)} --top-k 3",
        "turnout rollout plan > plan.yaml    # four stages of seven days: shorten it to try it",
        f"turnout rollout start{options} plan.yaml",
    ):
        console.print(f"  {command}", highlight=False, markup=False, soft_wrap=True)
    console.print("\nCtrl-C stops everything.")


def without_keys(environment: Mapping[str, str]) -> str:
    """Say who may do what because no API keys are set; empty when both servers have keys."""
    may = {
        "ROUTER_KEYS_FILE": "predict, send feedback and override",
        "ROLLOUT_KEYS_FILE": "start, promote and abort rollouts",
    }
    off = [name for name in may if not environment.get(name)]
    if not off:
        return ""
    return (
        f"No API keys: everybody who reaches these addresses may "
        f"{', and '.join(may[name] for name in off)}. {' and '.join(off)} "
        f"{'changes' if len(off) == 1 else 'change'} that (turnout key new --help)."
    )


def _checkpoints(pairs: list[str], tiers: tuple[Tier, ...]) -> dict[str, Path]:
    """Read `ARM=FILE` pairs. Raises typer.BadParameter, saying which is wrong and why."""
    found: dict[str, Path] = {}
    for pair in pairs:
        arm, _, file = pair.partition("=")
        _place(arm, tiers)
        if not Path(file).is_file():
            raise typer.BadParameter(f"--checkpoint {pair}: there is no file {file!r}")
        found[arm] = Path(file).absolute()
    return found


def _place(arm: str, tiers: tuple[Tier, ...]) -> int:
    """Return the arm's place in the tier table. Raises typer.BadParameter when it has none."""
    arms = [tier.arm for tier in tiers]
    if arm not in arms:
        raise typer.BadParameter(
            f"{arm!r} is no tier: the table (TURNOUT_TIERS) has {', '.join(arms)}"
        )
    return arms.index(arm)


def _options(layout: local.Layout) -> str:
    usual = local.Layout(state_dir=layout.state_dir)
    if layout.controller_url == usual.controller_url:
        return ""
    return f" --url {shlex.quote(layout.controller_url)}"


def _gateway_option(layout: local.Layout) -> str:
    usual = local.Layout(state_dir=layout.state_dir)
    if layout.gateway_url == usual.gateway_url:
        return ""
    return f" --url {shlex.quote(layout.gateway_url)}"


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the report is written.")] = Path("demo-report"),
    bank: Bank = local.DATA,
    candidate: Annotated[
        Candidate,
        typer.Option(help="`broken`: spoil the candidate's predictions, and see it rolled back."),
    ] = Candidate.TRAINED,
    fault: Annotated[
        Fault,
        typer.Option(
            help="How a broken candidate is broken: status 500, answers that come seconds later, "
            "or answers to vectors whose features are in the wrong order."
        ),
    ] = Fault.ERRORS,
) -> None:
    """Walk a rollout from 5 % shadow to 100 % on real text, and write its report.

    Starts everything in a temporary directory on free ports, replays real chains of text over
    HTTP (contexts from 5 to 599 vectors, the truth fed back), advances the default plan with its
    durations shortened, prints a table per stage, writes the report as HTML and JSON, and leaves
    nothing running. Takes one to three minutes on two cores.

    `turnout demo --candidate broken --fault wrong` shows the way back.
    """
    # other verbs start faster without these
    from backends.training.archive import ArchiveError  # noqa: PLC0415
    from deploy.demo import DemoError, run_demo  # noqa: PLC0415

    console = Console()
    try:
        spoiled = fault if candidate is Candidate.BROKEN else None
        asyncio.run(run_demo(out, bank.absolute(), console, spoiled))
    except (local.LocalError, StartError, ArchiveError, DemoError) as error:
        console.print(
            f"[red]turnout demo:[/red] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        raise typer.Exit(FAILED) from None


@app.command()
def example(
    length: Annotated[int, typer.Argument(help="Vectors in the context.", min=1)] = 20,
    chain: Annotated[int, typer.Option(help="Which chain of the sample.", min=0)] = 0,
    bank: Bank = local.DATA,
) -> None:
    """Print the body of a /v1/predict request, made from real text.

    Example: turnout example 300 | curl -s localhost:8080/v1/predict --json @-
    """
    import orjson  # noqa: PLC0415 - as above

    from backends.training.archive import ArchiveError  # noqa: PLC0415 - as above
    from deploy.chains import load_chains  # noqa: PLC0415 - as above

    try:
        chains = load_chains(bank).chains
    except ArchiveError as error:
        raise typer.BadParameter(str(error)) from None
    if chain >= len(chains):
        raise typer.BadParameter(f"the sample has the chains 0 to {len(chains) - 1}")
    vectors = chains[chain].vectors
    if length > len(vectors):
        raise typer.BadParameter(f"chain {chain} has {len(vectors)} vectors")
    body = {"context": vectors[:length], "top_k": 5}
    typer.echo(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY))


SettingsOption = Annotated[
    bool, typer.Option("--settings", help="List the environment variables that it reads.")
]


@app.command()
def backend(
    arm: Annotated[
        str | None,
        typer.Option(
            help="The arm that this model server is. Without: BACKEND_ARM, or phase1.",
            show_default=False,
        ),
    ] = None,
    bank: Annotated[
        Path | None,
        typer.Option(
            help="The bank: an .npz with `vectors` and `ids`, or an .npy. Without: BACKEND_BANK, "
            "or the one that ships.",
            show_default=False,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Its weights, .safetensors or .pt. Without: BACKEND_CHECKPOINT, those that ship "
            "for phase1 and phase2, or untrained ones.",
            show_default=False,
        ),
    ] = None,
    settings: SettingsOption = False,
) -> None:
    """Run one model server. Its settings are BACKEND_* in the environment.

    An option wins over the environment. Port and window follow from the tier table
    (TURNOUT_TIERS) unless they are set.

    Example: turnout backend --arm phase2 --checkpoint phase2.safetensors
    """
    options = {"ARM": arm, "BANK": bank, "CHECKPOINT": checkpoint}
    chosen = {
        f"BACKEND_{name}": str(value.absolute() if isinstance(value, Path) else value)
        for name, value in options.items()
        if value is not None
    }
    defaults = backend_defaults({**os.environ, **chosen}, _tiers())
    if settings:
        _list_settings("backends", defaults)
        return
    os.environ.update({**defaults, **os.environ, **chosen})
    _run("backends")


def backend_defaults(environment: Mapping[str, str], tiers: tuple[Tier, ...]) -> dict[str, str]:
    """Fill in what a model server must be told and what its environment does not say.

    Raises typer.BadParameter for an arm that the tier table lacks.
    """
    arm = environment.get("BACKEND_ARM", DEFAULT_ARM)
    place = _place(arm, tiers)
    shipped = local.shipped_weights().get(arm)
    return {
        "BACKEND_ARM": arm,
        "BACKEND_PORT": str(local.FIRST_BACKEND_PORT + place),
        "BACKEND_MAX_LENGTH": str(tiers[place].max_length),
        "BACKEND_BANK": str(local.DATA),
        **({"BACKEND_CHECKPOINT": str(shipped)} if shipped else {}),
    }


@app.command()
def gateway(settings: SettingsOption = False) -> None:
    """Run one gateway. Its settings are ROUTER_* and TURNOUT_* in the environment."""
    if settings:
        _list_settings("router")
        return
    _run("router")


@app.command()
def controller(settings: SettingsOption = False) -> None:
    """Run one controller. Its settings are ROLLOUT_* and TURNOUT_* in the environment."""
    if settings:
        _list_settings("rollout")
        return
    _run("rollout")


def _run(package: str) -> None:
    raise typer.Exit(importlib.import_module(f"{package}.__main__").main())


def _list_settings(package: str, filled: Mapping[str, str] | None = None) -> None:
    settings = importlib.import_module(f"{package}.settings").Settings
    Console().print(settings_table(settings, filled or {}), highlight=False)


def settings_table(settings: type[BaseSettings], filled: Mapping[str, str]) -> Table:
    """List what a process reads from its environment: name, default, and what it is for.

    `filled` holds the defaults that its command fills in.
    """
    from backends.serving.environment import variable  # noqa: PLC0415 - other verbs start faster without

    table = Table(box=None, pad_edge=False)
    for heading in ("variable", "default", "what it is"):
        table.add_column(heading, header_style="dim", overflow="fold")
    for name, field in settings.model_fields.items():
        where = variable(settings, name, field)
        default = "required"
        if where in filled:
            default = filled[where]
        elif not field.is_required():
            value = field.get_default(call_default_factory=True)
            default = "none" if value is None else to_json(value).decode().strip('"')
        table.add_row(where, escape(default), escape(field.description or ""))
    return table


def _tiers() -> tuple[Tier, ...]:
    try:
        return local.tiers_from(os.environ.get("TURNOUT_TIERS"))
    except local.LocalError as error:
        raise typer.BadParameter(str(error)) from None


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"turnout {version('turnout')}")
        raise typer.Exit


@app.callback()
def _root(
    _show: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that come before the verb."""


def main() -> None:
    """Run the command line."""
    app()
