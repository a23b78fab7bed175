"""How answers about rollouts look on a terminal: lists, one rollout, its audit, its explanation."""

from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rollout.explanation import Explanation, Missing, Outlook, Traffic
from rollout.forecast import UNKNOWN, Forecast
from rollout.judging.nearness import Nearness
from rollout.machine import AuditEntry, State
from rollout.orders import RolloutStatus, Summary
from rollout.stakes import rows
from rollout.terminal.tables import COLOURS, kind_of
from rollout.verdict import Check, Evidence, Verdict
from rollout.wording import count, evidence, number, span, when, write

STATES: Final[dict[State, str]] = {
    "running": "green", "waiting": "yellow", "paused": "yellow", "held": "bold yellow",
    "succeeded": "bold green", "aborted": "red", "rolled_back": "bold red", "undone": "red",
}  # fmt: skip


def list_view(rollouts: Sequence[Summary]) -> RenderableType:
    """Show the rollouts that are remembered, newest first."""
    if not rollouts:
        return Text("no rollout yet: `turnout rollout start` begins one")
    table = _table("rollout", "state", "candidate", "against", "stage", "began", "lasted", "of")
    for one in rollouts:
        lasted = span(one.ended_at - one.started_at) if one.ended_at is not None else "under way"
        table.add_row(
            Text(one.id),
            Text(one.state, STATES[one.state]),
            Text(one.candidate),
            Text(one.incumbent),
            Text(one.stage),
            when(one.started_at),
            lasted,
            Text(f"retry of {one.retry_of}" if one.retry_of else ""),
        )
    return table


def show_view(rollout: RolloutStatus) -> RenderableType:
    """Show one rollout: where it stands, and the stages that it was in."""
    lines = [
        f"rollout {rollout.id}: {rollout.state}, {rollout.candidate} against {rollout.incumbent}",
        f"began {when(rollout.started_at)}"
        + (f", ended {when(rollout.ended_at)}" if rollout.ended_at is not None else ""),
        f"attempt {rollout.attempt}"
        + (f", a retry of {rollout.retry_of}" if rollout.retry_of else ""),
        f"plan {rollout.plan.name}: scope {rollout.plan.scope}, unit {rollout.plan.unit}",
        f"next may come: {', '.join(rollout.commands) or 'nothing, it has ended'}",
    ]
    if rollout.fired:
        lines.append(f"rolled back by the guard: {rollout.fired.reason}")
    if rollout.hold:
        lines.append(f"held since {when(rollout.hold.at)}: {rollout.hold.reason}")
    if rollout.approval:
        lines.append(f"approved by {rollout.approval.actor}, {when(rollout.approval.at)}")
    lines += [
        f"{arm} computes with {' and '.join(one[:12] for one in models)}"
        for arm, models in rollout.identities.items()
    ]
    return Group(*map(Text, lines), _visits(rollout))


def audit_view(entries: Iterable[AuditEntry]) -> RenderableType:
    """Show who did what, and why, oldest first."""
    table = _table("when", "version", "rollout", "who", "did", "led to", "why")
    for entry in entries:
        why = "; ".join(
            filter(None, (entry.reason, entry.note if entry.note != entry.reason else ""))
        )
        table.add_row(
            when(entry.at),
            f"{entry.epoch}.{entry.version}",
            Text(entry.rollout),
            Text(entry.actor),
            Text(entry.command),
            Text(f"{entry.state_after}, {entry.stage_after}"),
            Text(why),
        )
    return table


def forecast_view(forecast: Forecast) -> RenderableType:
    """Show how long the stages will take."""
    table = _table("stage", "at least", "expected", "bound by", title="forecast")
    for stage in forecast.stages:
        expected = UNKNOWN if stage.bound_by == UNKNOWN else "never at this rate"
        if stage.days is not None:
            expected = _days(stage.days)
        table.add_row(Text(stage.stage), _days(stage.least_days), expected, Text(stage.bound_by))
    return Group(table, Text(forecast.told))


def explanation_view(seen: Explanation) -> RenderableType:
    """Show why a rollout is where it is: sentences, then the figures behind them."""
    in_table = {need.told for need in seen.missing}
    parts: list[RenderableType] = [
        Text(seen.headline, STATES[seen.state]),
        *(Text(f"  {sentence}") for sentence in seen.because if sentence not in in_table),
        *(Text(f"! {notice.told}", "bold yellow") for notice in seen.notices),
    ]
    if seen.verdict:
        parts.append(checks_view(seen.verdict, f"gate of {seen.stage}: {seen.verdict.kind}"))
    if seen.guard and seen.guard.kind != "PASS":
        parts.append(checks_view(seen.guard, f"rollback guard: {seen.guard.kind}"))
        parts += [_stakes(seen.guard)] if seen.guard.stakes else []
    if seen.missing:
        parts.append(_missing(seen.missing))
    parts += [Text(f"  {line}", "dim") for line in _context(seen)]
    return Group(*parts)


def checks_view(verdict: Verdict, title: str) -> Table:
    """Show every check with the evidence behind it."""
    table = _table(
        "check", "", "observed", "required", "e-value", "interval", "counts", title=title
    )
    table.columns[-1].no_wrap = True  # a line each: a name that is broken is read as two
    for check in verdict.checks:
        proof = check.evidence
        table.add_row(
            Text(check.name),
            kind_of(check),
            Text(check.observed),
            Text(check.required),
            Text(f"{evidence(proof.ln_e)} of {number(proof.threshold)}" if proof else ""),
            Text(_interval(check)),
            Text(_counts(proof) if proof else ""),
        )
    return table


def _stakes(guard: Verdict) -> Table:
    """Show what the average is the sum of."""
    table = _table(
        "entry",
        "weight",
        "e-value",
        "weight x e-value",
        title="what the guard's average is made of",
    )
    for row in rows(guard.stakes):
        table.add_row(
            Text(row.name), f"{number(row.weight)} %", evidence(row.ln_e), evidence(row.ln_part)
        )
    return table


def _counts(proof: Evidence) -> str:
    """Write the counts of each form, one a line; one form alone needs no name."""
    told = [(f"{part.form}:", part.counts) for part in proof.parts] or [("", proof.counts)]
    return "\n".join(
        line
        for form, counts in told
        for line in (*([form] if form else []), *(f"{name} {n}" for name, n in counts.items()))
    )


def _interval(check: Check) -> str:
    if check.evidence is None or check.evidence.interval is None:
        return ""
    low, high = check.evidence.interval
    return f"{number(low)} to {number(high)} {check.evidence.unit}".rstrip()


_OUTLOOKS: Final[dict[Outlook, str]] = {
    "projected": "", "never": "never: none come", "too_early": "not known yet",
    "undecided": "not in sight",
}  # fmt: skip


def _missing(missing: Iterable[Missing]) -> Table:
    table = _table("still missing", "how much", "at this rate", title="missing")
    for need in missing:
        table.add_row(
            Text(need.check), _much(need), _OUTLOOKS[need.outlook] or span(need.seconds or 0.0)
        )
    return table


def _much(need: Missing) -> str:
    if need.needed is None:
        return "nothing counted yet" if need.outlook == "too_early" else "no decision in sight"
    return (
        span(need.needed) if need.quantity == "seconds" else f"{count(need.needed)} {need.quantity}"
    )


def _context(seen: Explanation) -> Iterable[str]:
    yield f"version {seen.version}, evidence epoch {seen.evidence_epoch}, {when(seen.now)}"
    if seen.traffic:
        yield from _counted(seen.traffic)
    if seen.nearness and seen.nearness.n:
        yield _near(seen.nearness)
    if seen.guard and seen.guard_high is not None:
        yield f"rollback guard: {seen.guard.reason}; at most {evidence(seen.guard_high)} so far"
    if seen.last_person and seen.last_person != seen.last:
        who = seen.last_person
        yield f"last person: {who.actor}, {who.command} at {when(who.at)}: {who.reason}"
    if seen.last:
        who = seen.last
        yield f"last change: {who.actor}, {who.command} at {when(who.at)}: {who.reason}"
    if seen.next is not None:
        yield f"who looks: {seen.leader or 'nobody'}; {seen.gateways.alive} gateways alive"


def _near(seen: Nearness) -> str:
    difference, low, high = (write(v, "offset") for v in (seen.difference, seen.low, seen.high))
    return (
        f"cosine to the truth, candidate minus incumbent: {difference} ({low} to {high}) "
        f"on {count(seen.n)} pairs; decides nothing"
    )


def _counted(traffic: Traffic) -> Iterable[str]:
    rate = traffic.requests_per_s
    each = "" if rate is None else f"; {rate:.3g} requests/s in the last {span(traffic.seconds)}"
    yield (
        f"counted in this stage: {count(traffic.requests)} requests, "
        f"{count(traffic.pairs)} pairs, {count(traffic.labels)} labels{each}"
    )
    if traffic.read:
        read = ", ".join(f"{count(number)} {per}" for per, number in traffic.read.items() if number)
        yield f"of these the judge reads: {read or 'nothing yet'}"


def _visits(rollout: RolloutStatus) -> Table:
    table = _table("stage", "evidence epoch", "entered", "counted from", "left", "its gate said")
    for visit in rollout.visits:
        verdict = rollout.verdicts.get(visit.stage) if visit.left_at is not None else None
        table.add_row(
            Text(visit.stage),
            str(visit.evidence_epoch),
            when(visit.entered_at),
            when(visit.settled_at) if visit.settled_at is not None else "-",
            when(visit.left_at) if visit.left_at is not None else "-",
            Text(verdict.kind, COLOURS[verdict.kind]) if verdict else "",
        )
    return table


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(title=Text(title) if title else None, title_justify="left")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _days(days: float) -> str:
    return span(days * 86_400)
