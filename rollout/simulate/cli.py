"""`turnout simulate`: size a plan before it is used."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from rollout.plan import DEFAULT_PLAN, Plan
from rollout.planfile import PlanError, parse_plan

if TYPE_CHECKING:
    from rollout.simulate.study import Study

USAGE: Final = 2
INTERRUPTED: Final = 130
USUAL: Final = ("aa", "regression-errors", "non-inferior")
_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)


PlanFile = Annotated[
    Path | None,
    typer.Argument(help="A YAML file; without one the default plan.", exists=True, dir_okay=False),
]
Scenarios = Annotated[
    list[str] | None,
    typer.Option(
        "--scenario",
        "-s",
        help=f"What is the matter; may be repeated, or `all`. By default {', '.join(USUAL)}.",
        show_default=False,
    ),
]
Listing = Annotated[bool, typer.Option("--list", help="List the scenarios, and stop.")]
Replicates = Annotated[
    int, typer.Option("--replicates", "-n", min=1, help="Rollouts per scenario.")
]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same figures.")]
Rps = Annotated[float, typer.Option(min=0.001, help="Requests per second in the plan's scope.")]
BaseError = Annotated[
    float, typer.Option(min=0, max=100, help="Percent that fail at the incumbent.")
]
CandidateError = Annotated[
    float | None,
    typer.Option(min=0, max=100, help="Percent that fail at the candidate, in every scenario."),
]
BaseHit = Annotated[
    float, typer.Option(min=0, max=100, help="The incumbent's Hit@k in percent (gate_hit).")
]
CandidateHit = Annotated[
    float | None, typer.Option(min=0, max=100, help="The candidate's, in every scenario.")
]
Slower = Annotated[
    float | None,
    typer.Option(min=-99, help="Percent by which the candidate is slower, in every scenario."),
]
Labelled = Annotated[
    float, typer.Option(min=0, max=100, help="Percent of the answers that get a truth.")
]
Looks = Annotated[int, typer.Option(min=2, help="Looks of the controller per stage.")]
Processes = Annotated[
    int | None, typer.Option(min=1, help="By default as many as processors.", show_default=False)
]
Plot = Annotated[
    Path | None, typer.Option(help="Draw the figures into this file: .svg, .png or .pdf.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]


def simulate(
    plan: PlanFile = None,
    scenario: Scenarios = None,
    list_: Listing = False,
    replicates: Replicates = 200,
    seed: Seed = 1,
    rps: Rps = 20.0,
    base_error: BaseError = 0.1,
    candidate_error: CandidateError = None,
    base_hit: BaseHit = 59.3,
    candidate_hit: CandidateHit = None,
    slower: Slower = None,
    labelled: Labelled = 95.0,
    looks: Looks = 16,
    processes: Processes = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Simulate a plan: how often it would be wrong, and after how many requests it decides.

    Runs the real controller and judge under a fake clock against synthetic traffic, many times,
    and on the same traffic what other canary tools do: thresholds, repeated z-tests, Mann-Whitney.
    For each scenario it prints false rollbacks, candidates let through, what stays undecided, and
    the requests to a decision, with Monte Carlo standard errors.

    Examples: `turnout simulate plan.yaml --rps 5`;
    `turnout simulate plan.yaml -s regression-errors --candidate-error 1 -n 2000 --plot plan.svg`
    """
    if list_:
        from rollout.simulate.tables import catalogue  # noqa: PLC0415 - others start faster

        _out.print(catalogue())
        return
    from rollout.simulate.study import Study, levels  # noqa: PLC0415 - as above

    read = _plan(plan)
    try:
        study = Study(
            plan=read,
            names=tuple(scenario or USUAL),
            levels=levels(
                read,
                rps=rps,
                error=base_error,
                hit=base_hit,
                candidate_error=candidate_error,
                candidate_hit=candidate_hit,
                slower=slower,
                labelled=labelled,
            ),
            seed=seed,
            replicates=replicates,
            looks=looks,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if not as_json:
        for line in study.remarks():
            _out.print(line, style="dim")
    study.run(processes, _err)
    _tell(study, as_json=as_json)
    if plot is not None:
        _draw(plot, study)
    if study.interrupted:
        _err.print("stopped: these are the figures of the replicates that were done")
        raise typer.Exit(INTERRUPTED)


def _plan(path: Path | None) -> Plan:
    """Read a plan file; on faults print each with its line, and exit 2."""
    if path is None:
        return DEFAULT_PLAN
    try:
        return parse_plan(path.read_text(encoding="utf-8"))
    except PlanError as error:
        for fault in error.errors:
            place = f"{path}:{fault.line}" if fault.line else str(path)
            _err.print(f"{place} {fault}", soft_wrap=True, markup=False)
    except (UnicodeDecodeError, OSError) as error:
        _err.print(f"{path}: {error}", soft_wrap=True, markup=False)
    raise typer.Exit(USAGE)


def _tell(study: "Study", *, as_json: bool) -> None:
    from rollout.simulate.tables import summary_view  # noqa: PLC0415 - as above

    if as_json:
        typer.echo(json.dumps(study.as_json(), indent=1))
        return
    for summary in study.summaries():
        _out.print(summary_view(summary))


def _draw(path: Path, study: "Study") -> None:
    from rollout.simulate.picture import draw  # noqa: PLC0415 - as above

    if not study.summaries():
        return
    try:
        draw(path, study.summaries())
    except (OSError, ValueError) as error:  # no such folder; no such format
        _err.print(f"{path}: {error}", soft_wrap=True, markup=False)
        raise typer.Exit(USAGE) from None
    _err.print(f"drawn: {path}", soft_wrap=True, markup=False)
