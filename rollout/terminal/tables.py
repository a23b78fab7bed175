"""How a `Status` and a `Verdict` look on a terminal, as rich renderables."""

import time
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rollout.latencies import Quantiles
from rollout.orders import RolloutStatus, Status
from rollout.quantities import duration
from rollout.snapshot import HITS
from rollout.tally import RoleTally, StageTally
from rollout.verdict import Check, Verdict
from rollout.wording import count, milliseconds, percent, span

COLOURS: Final = {"PASS": "green", "FAIL": "bold red", "INCONCLUSIVE": "yellow", "ERROR": "red"}
GATEWAY_ALIVE_S: Final = 10.0


def status_view(status: Status) -> RenderableType:
    """Show where everything stands."""
    tiers = ", ".join(
        f"{tier.arm} up to {tier.max_length} vectors ({'' if tier.active else 'not '}active)"
        for tier in status.tiers
    )
    parts: list[RenderableType] = [
        Text(f"version {status.version or '- (the store is empty)'}   tiers: {tiers}"),
        Text(f"leader: {status.leader or 'none, so nothing happens by itself'}"),
        Text(_gateways(status)),
    ]
    if status.store_lost:
        parts.append(Text(status.store_lost, "bold red"))
    if status.gateways:
        parts.append(_beats(status))
    if status.rollout is None:
        parts.append(Text("no rollout yet: `turnout rollout start` begins one"))
        return Group(*parts)
    parts.append(Text(_headline(status.rollout)))
    if status.rollout.fired:
        parts.append(Text(f"rolled back by the guard: {status.rollout.fired.reason}", "red"))
    parts.append(_stages(status.rollout, status.now))
    if status.tally:
        parts.append(_arms(status.rollout, status.tally))
    if status.verdict:
        parts += [gate_view(status.verdict), Text(status.verdict.reason)]
    if status.next and not (status.verdict and status.next == status.verdict.reason):
        parts.append(Text(f"next: {status.next}"))
    return Group(*parts)


def gate_view(verdict: Verdict) -> Table:
    """Show what the gate says, check by check."""
    table = Table(title=Text(f"gate: {verdict.kind}", COLOURS[verdict.kind]), title_justify="left")
    for name in ("check", "", "observed", "required"):
        table.add_column(name)
    for check in verdict.checks:
        table.add_row(Text(check.name), kind_of(check), Text(check.observed), Text(check.required))
    return table


def kind_of(check: Check) -> Text:
    """Write what became of a check, and whether it decides."""
    if check.decides:
        return Text(check.kind, COLOURS[check.kind])
    return Text(f"{check.kind}, reported only", "dim")


def _gateways(status: Status) -> str:
    alive = [one for one in status.gateways if status.now - one.at < GATEWAY_ALIVE_S]
    applied = sum(f"{one.epoch}.{one.version}" == status.version for one in alive)
    held = sum(one.held for one in alive)
    told = f"gateways: {len(alive)} alive, {applied} at this version"
    return f"{told}, {held} HELD at the incumbent by their local file" if held else told


def _beats(status: Status) -> Table:
    """Show what every gateway said last."""
    table = Table(title="gateways", title_justify="left")
    for name in ("gateway", "heard of", "version", "candidate", "counts lost", "models"):
        table.add_column(name, justify="right" if name == "counts lost" else "left")
    for beat in status.gateways:
        age = max(0.0, status.now - beat.at)
        dead = age >= GATEWAY_ALIVE_S
        version = f"{beat.epoch}.{beat.version}"
        table.add_row(
            Text(beat.boot[:12]),
            Text(f"{span(age)} ago{', not alive' if dead else ''}", "red" if dead else ""),
            Text(version, "" if version == status.version else "yellow"),
            Text("HELD by hold-at-incumbent", "bold yellow") if beat.held else Text("served"),
            str(beat.dropped),
            Text(", ".join(f"{arm} {model[:12]}" for arm, model in beat.identities.items()) or "-"),
        )
    return table


def _headline(rollout: RolloutStatus) -> str:
    began = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(rollout.started_at))
    return (
        f"rollout {rollout.id}: {rollout.state}, {rollout.candidate} against {rollout.incumbent}, "
        f"since {began}; next may come: {', '.join(rollout.commands) or 'nothing, it has ended'}"
    )


def _stages(rollout: RolloutStatus, now: float) -> Table:
    table = Table(title="stages", title_justify="left")
    for name in ("stage", "mode", "weight", "state"):
        table.add_column(name, justify="right" if name == "weight" else "left")
    for number, stage in enumerate(rollout.plan.stages, start=1):
        if number == rollout.stage_number and rollout.ended_at is None:
            spent = span(max(0.0, now - rollout.entered_at))
            state = Text(f"for {spent} of at least {duration(stage.min_duration_s)}", "bold")
        elif number == rollout.stage_number and rollout.fired:
            state = Text("rolled back by the guard", "red")
        elif verdict := rollout.verdicts.get(stage.name):
            state = Text(f"left on {verdict.kind}", COLOURS[verdict.kind])
        elif number == rollout.stage_number:
            state = Text(rollout.state, "red")
        else:
            state = Text("to come" if rollout.ended_at is None else "not reached", "dim")
        table.add_row(stage.name, stage.mode, f"{stage.weight:g} %", state)
    return table


def _arms(rollout: RolloutStatus, tally: StageTally) -> Table:
    counted = f"{count(tally.requests)} requests in scope, {count(tally.pairs)} pairs"
    title = f"stage {tally.stage}: {counted}"
    table = Table(title=title, title_justify="left")
    hits = "/".join(map(str, HITS))
    columns = ("arm", "assigned", "errors", "fallbacks", "p50 / p95 / p99", f"Hit@{hits}")
    for name in columns:
        table.add_column(name, justify="left" if name == "arm" else "right")
    for role, arm in (("incumbent", rollout.incumbent), ("candidate", rollout.candidate)):
        figures = tally.candidate if role == "candidate" else tally.incumbent
        share = f"{count(figures.assigned)} ({_percent(figures.assigned, tally.requests)})"
        latency = _latency(figures.latency_ms)
        row = (count(figures.error_count), count(figures.fallbacks), latency)
        table.add_row(f"{arm} ({role})", share, *row, _hits(figures))
    return table


def _hits(figures: RoleTally) -> str:
    if not figures.labels:
        return "no labels"
    shares = " / ".join(_percent(figures.hits[k], figures.labels) for k in HITS)
    return f"{shares} of {count(figures.labels)}"


def _latency(measured: Quantiles) -> str:
    found = (measured.p50, measured.p95, measured.p99)
    return " / ".join("-" if value is None else milliseconds(value) for value in found)


def _percent(part: int, whole: int) -> str:
    return percent(100 * part / whole) if whole else "-"
