"""Every figure of a rollout is the same wherever it is shown, to the digits that are shown.

A real controller over a store whose clock stands still is brought into the states that a rollout
has. In each, `explain`, `watch`, `status`, the report (JSON, HTML, Markdown) and the API's JSON are
taken apart, and every figure of one is looked for in the others.
"""

import asyncio
import io
import json
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx2
import pytest
from gateway_rig import running
from judged import World, healthy
from prometheus_client import CollectorRegistry
from rich.console import Console
from still_rig import ORDER, StillRig
from surfaces import (
    Table,
    agrees,
    e_value_agrees,
    markdown_tables,
    numbers,
    page_figures,
    terminal_tables,
)
from typer.testing import CliRunner

from deploy.demo import Demo
from rollout.api import Api
from rollout.explanation import Explanation
from rollout.metrics import Metrics
from rollout.orders import Status
from rollout.plan import DEFAULT_PLAN
from rollout.reporting import charts
from rollout.reporting.document import Ratio, StageReport, Whose
from rollout.reporting.page import Figures
from rollout.reporting.report import Report
from rollout.reporting.stagereport import pair_difference
from rollout.snapshot import Counter
from rollout.tally import percent
from rollout.terminal.cli import app
from rollout.terminal.options import Asking
from rollout.terminal.watch import line, watch
from rollout.verdict import Check, Verdict
from rollout.wording import write

WEEK: Final = 7 * 86_400.0
WINDOW: Final = DEFAULT_PLAN.label_window_s
LIMITED: Final = DEFAULT_PLAN.model_copy(
    update={
        "stages": (
            DEFAULT_PLAN.stages[0].model_copy(update={"max_requests": 30_000}),
            *DEFAULT_PLAN.stages[1:],
        )
    }
)
MARKED: Final = DEFAULT_PLAN.model_copy(update={"agreement_floor": {"cosine": 0.5, "rbo": 0.2}})


class Rig(StillRig):
    """The API beside it, and whole stages of traffic."""

    def __init__(self) -> None:
        super().__init__(1_790_000_000.0)
        self.api = Api(self.controller, Metrics(CollectorRegistry()))

    async def count(self, *worlds: World) -> None:
        """Count requests in the present stage, in this minute."""
        await self.flush({world.stratum: world.counts for world in worlds})

    async def stage(self, *worlds: World) -> None:
        """Go through a stage, to where its gate says what it says for good."""
        await self.count(*worlds)
        self.now += WEEK + WINDOW
        await self.look()

    async def advance(self) -> None:
        await self.controller.advance("current", ORDER)
        await self.look()


def agreeing(pairs: int) -> dict[str, int]:
    """Spread values of agreement over some bins."""
    part = pairs // 5
    names = ("cosine", "overlap1", "overlap5", "overlap10", "rbo")
    return {
        f"pair.{name}.{bin_}": part if bin_ < 90 else pairs - 4 * part
        for name in names
        for bin_ in (31, 47, 62, 78, 93)
    }


def near(pairs: int) -> dict[str, int]:
    """Spread cosines to the truth over some bins."""
    part = pairs // 7
    return {
        f"truth.{name}.{bin_}": part
        for name, bins in (
            ("incumbent", (31, 43)), ("candidate", (33, 47)), ("difference", (-7, 30)),
        )
        for bin_ in bins
    }  # fmt: skip


def served(index: int, n: int = 40_013, **changes: Any) -> World:
    """A stage's counts, with figures whose digits tell them apart."""
    world = healthy(DEFAULT_PLAN.stages[index], n)
    more = {**agreeing(world.pairs), Counter.SAMPLED: world.pairs, **near(world.pairs)}
    for role, assigned in (("incumbent", world.incumbent), ("candidate", world.candidate)):
        for bin_, part in ((200, 3), (231, 2)):
            more[f"latency.{role}.{bin_}"] = assigned // part
    world = replace(
        world,
        incumbent_errors=7 if world.incumbent else 0,
        candidate_errors=5 if world.candidate else 0,
        pair_hits=_hits(world.pairs),
        more=more,
        lost=world.pairs // 61,
    )
    return replace(world, **changes)


def _hits(pairs: int) -> tuple[int, int, int, int]:
    better, worse, both = pairs // 11, pairs // 17, pairs // 2
    return pairs - better - worse - both, better, worse, both


# --- the states ----------------------------------------------------------------------------------


async def begun(rig: Rig) -> None:
    """Nothing was counted yet."""
    await rig.start()


async def undecided(rig: Rig) -> None:
    """Too few pairs, and some requests that the judge must not read yet."""
    await rig.start(MARKED)
    await rig.count(served(0, 8_020), replace(served(0, 1_501), stratum="201-350"))
    rig.now += WINDOW + 180
    await rig.count(served(0, 702))
    rig.now += 30
    await rig.look()


async def held(rig: Rig) -> None:
    """The stage's limit was reached, undecided."""
    await rig.start(LIMITED)
    await rig.count(served(0, 30_500, pair_errors=(9, 4, 2)))
    rig.now += WINDOW + 180
    await rig.look()


async def rolled_back(rig: Rig) -> None:
    """The guard fired in the second stage."""
    await rig.start()
    await rig.stage(served(0))
    await rig.advance()
    await rig.count(served(1, candidate_errors=151))
    rig.now += WINDOW + 180
    await rig.look()


async def aborted(rig: Rig) -> None:
    """A person ended it in the second stage."""
    await rig.start()
    await rig.stage(served(0))
    await rig.advance()
    await rig.count(served(1, 903))
    rig.now += WINDOW + 180
    await rig.look()
    await rig.controller.abort("current", ORDER)


async def promoted(rig: Rig) -> None:
    """In the third stage, whose gate is open."""
    await rig.start()
    for index in range(2):
        await rig.stage(served(index))
        await rig.advance()
    await rig.stage(served(2), replace(served(2, 9_013), stratum="351-500"))


async def succeeded(rig: Rig) -> None:
    """Through all stages."""
    await rig.start()
    for index in range(4):
        await rig.stage(served(index))
        await rig.advance()


STATES: Final[dict[str, Callable[[Rig], Awaitable[None]]]] = {
    "running": begun,
    "running undecided": undecided,
    "held": held,
    "rolled_back": rolled_back,
    "aborted": aborted,
    "running open": promoted,
    "succeeded": succeeded,
}


# --- the surfaces --------------------------------------------------------------------------------


@dataclass
class Seen:
    """One rollout on all surfaces, at one moment."""

    explained: Explanation
    status: Status
    report: Report
    explain_text: str
    watch_text: str
    watch_line: str
    status_text: str
    show_text: str
    demo_text: str
    """How a demo says that the controller ended its rollout by itself, and why."""
    html: str
    markdown: str

    @property
    def stage(self) -> int:
        """The index of the stage that the rollout is in, or was in last."""
        return self.explained.stage_number - 1


def _interrupt(_: float) -> None:
    raise KeyboardInterrupt


async def seen(rig: Rig) -> Seen:
    """Ask for everything, as people and programs do: over HTTP, and by the command line."""
    async with running(rig.api.app) as url, httpx2.AsyncClient(base_url=url) as client:
        demo = Demo(client, client, iter(()), Console(file=io.StringIO()))
        return await asyncio.to_thread(_ask, url, await demo._ended())


def _ask(url: str, demo_text: str) -> Seen:
    def run(*words: str) -> str:
        environment = {"TURNOUT_CONTROLLER_URL": url, "COLUMNS": "1000"}
        ran = CliRunner().invoke(app, list(words), env=environment)
        assert ran.exit_code == 0, ran.output
        return ran.stdout

    def watched(*, terminal: bool) -> str:
        console = Console(
            file=io.StringIO(), force_terminal=terminal, width=1000, height=200, color_system=None
        )
        watch(Asking(url=url), "current", 1, console, sleep=_interrupt)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    return Seen(
        explained=Explanation.model_validate_json(run("explain", "--json")),
        status=Status.model_validate_json(run("status", "--json")),
        report=Report.model_validate_json(run("report", "--format", "json")),
        explain_text=run("explain"),
        watch_text=watched(terminal=True),
        watch_line=watched(terminal=False),
        status_text=run("status"),
        show_text=run("show", "current"),
        demo_text=demo_text,
        html=run("report", "--format", "html"),
        markdown=run("report", "--format", "md"),
    )


async def _brought(into: str) -> Seen:
    rig = Rig()
    await STATES[into](rig)
    state = (await rig.controller.rollout("current")).state
    assert state == into.partition(" ")[0]
    return await seen(rig)


@pytest.fixture(scope="module", params=STATES)
def shown(request: pytest.FixtureRequest) -> Iterator[Seen]:
    """Give one state of a rollout on every surface. Charts are left out: they hold no figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "draw", lambda _: defaultdict(list))
        yield asyncio.run(_brought(request.param))


# --- verdicts ------------------------------------------------------------------------------------


def test_the_verdict_of_the_present_stage_is_one_value_everywhere(shown: Seen) -> None:
    stage = shown.report.stages[shown.stage]
    assert shown.explained.verdict == stage.verdict
    if shown.status.verdict is not None:
        assert shown.status.verdict == stage.verdict
    assert stage.verdict is not None
    assert f"gate {stage.verdict.kind}" in shown.watch_line
    guard = shown.report.guard
    assert shown.explained.guard == (guard and guard.verdict)
    assert shown.explained.guard_high == (guard and guard.high)
    assert guard is not None
    assert guard.judged == ("on ending" if into_itself(shown) else "at the report")
    average = guard.verdict.checks[0].evidence
    assert average is not None
    for stakes in (
        [(one.weight, one.ln_e) for one in guard.verdict.stakes],
        [(row.weight / 100, row.ln_e) for row in guard.rows],
    ):
        assert sum(weight for weight, _ in stakes) == pytest.approx(1)
        assert math.log(sum(weight * math.exp(ln_e) for weight, ln_e in stakes)) == pytest.approx(
            average.ln_e
        )


def test_cosines_to_the_truth_are_the_same_everywhere(shown: Seen) -> None:
    found = shown.explained.nearness
    assert found == shown.report.stages[shown.stage].nearness
    line = [line for line in shown.explain_text.splitlines() if "cosine to the truth" in line]
    assert len(line) == (found is not None and found.n > 0)
    if line and found is not None:
        written = [write(one, "offset") for one in (found.difference, found.low, found.high)]
        assert f"{written[0]} ({written[1]} to {written[2]}) on {found.n:,} pairs" in line[0]


def into_itself(shown: Seen) -> bool:
    """Whether the rollout has ended by its gate or its guard, and no person's abort."""
    return shown.report.headline.state in {"rolled_back", "succeeded"}


def test_who_asks_where_a_rollout_stands_hears_that_the_guard_ended_it_and_why(shown: Seen) -> None:
    assert shown.status.rollout is not None
    fired = shown.status.rollout.fired
    told = [
        text.count("rolled back by the guard: ") for text in (shown.status_text, shown.show_text)
    ]
    assert told == [fired is not None] * 2
    assert (fired is not None) == (shown.report.headline.state == "rolled_back")
    if fired is not None:
        assert shown.report.guard is not None
        assert fired == shown.report.guard.verdict
        for text in (shown.status_text, shown.show_text):
            assert f"rolled back by the guard: {fired.reason}" in text
        assert shown.demo_text == f"rolled_back in the stage ab-25: {fired.reason}"


def test_a_rollback_keeps_what_the_gate_said_beside_what_the_guard_said(shown: Seen) -> None:
    if shown.report.headline.state != "rolled_back":
        return
    gate, guard = shown.explained.verdict, shown.explained.guard
    assert gate is not None
    assert guard is not None
    assert {"minimum requests", "errors", "latency budget"} <= {check.name for check in gate.checks}
    assert (guard.kind, guard.checks[0].name) == ("FAIL", "rollback guard")
    assert shown.report.stages[shown.stage].judged == "on leaving"
    for text in (shown.explain_text, shown.watch_text):
        rows = _titled(terminal_tables(text), "what the guard's average").rows
        assert rows[-1]["entry"].endswith("others together")


def test_each_check_on_a_terminal_shows_the_figures_of_the_api(shown: Seen) -> None:
    verdict = shown.explained.verdict
    assert verdict is not None
    for text in (shown.explain_text, shown.watch_text):
        _same_checks(_titled(terminal_tables(text), f"gate of {shown.explained.stage}"), verdict)
        guard = shown.explained.guard
        if guard is not None and guard.kind != "PASS":
            _same_checks(_titled(terminal_tables(text), "rollback guard"), guard)
    status = _titled(terminal_tables(shown.status_text), "gate: ", required=False)
    assert (status is None) == (shown.status.verdict is None)
    if status is not None:
        rows = [(row["check"], row["observed"], row["required"]) for row in status.rows]
        assert rows == [(check.name, check.observed, check.required) for check in verdict.checks]


def _titled(tables: list[Table], about: str, *, required: bool = True) -> Any:
    found = [table for table in tables if table.about.startswith(about)]
    assert found or not required, (about, [table.about for table in tables])
    return found[-1] if found else None  # a watching draws again


def _same_checks(table: Table, verdict: Verdict) -> None:
    assert [row["check"] for row in table.rows] == [check.name for check in verdict.checks]
    for row, check in zip(table.rows, verdict.checks, strict=True):
        assert row[""].partition(",")[0] == check.kind
        _same_check(row, check)
        proof = check.evidence
        if proof is not None:
            found: dict[str, dict[str, int]] = {} if proof.parts else {"": {}}
            for line in row["counts"].splitlines():
                if line.endswith(":"):
                    found[line[:-1]] = {}
                    continue
                name, number = line.rsplit(" ", 1)
                found[next(reversed(found))][name] = int(number)
            forms = {part.form: part.counts for part in proof.parts} or {"": proof.counts}
            assert found == forms


def _same_check(row: dict[str, str], check: Check) -> None:
    """Compare what a row of a table of checks shows with the check."""
    cells = {name.lower(): text for name, text in row.items()}
    assert (cells["observed"], cells["required"]) == (check.observed, check.required)
    proof = check.evidence
    interval = cells["interval"] if "interval" in cells else cells["95 % interval"]
    if proof is None:
        assert cells["e-value"] in {"", "none"}
        assert interval in {"", "none"}
        return
    written, _, threshold = cells["e-value"].partition(" of ")
    assert e_value_agrees(written, proof.ln_e), (check.name, written, proof.e_value)
    assert agrees(threshold, proof.threshold)
    low, _, high = interval.partition(" to ")
    ends = proof.interval or (None, None)
    if proof.interval and proof.unit:
        assert high.endswith(f" {proof.unit}"), (check.name, interval)
        if not check.observed.startswith("e-value"):  # of the guard's entries
            assert check.observed.endswith(f" {proof.unit}"), (check.name, check.observed)
        high = high.removesuffix(f" {proof.unit}")
    assert agrees(low, ends[0]), (check.name, interval, ends)
    assert agrees(high, ends[1]), (check.name, interval, ends)
    assert math.isclose(proof.e_value, math.exp(min(proof.ln_e, 700.0)))
    if "e-value " in check.reason:  # the sentence writes what the cell writes
        assert f"e-value {written}" in check.reason.replace("e-value is", "e-value"), check.reason


def test_each_check_in_markdown_shows_the_figures_of_the_api(shown: Seen) -> None:
    tables = markdown_tables(shown.markdown)
    verdicts = [(stage.stage, stage.verdict) for stage in shown.report.stages if stage.verdict]
    if shown.report.guard:
        verdicts.append(("The rollback guard", shown.report.guard.verdict))
    compared = 0
    for about, verdict in verdicts:
        rows = [
            row
            for table in tables
            if table.about == about and "Required" in table.columns
            for row in table.rows
        ]
        by_name = {row["Check"]: row for row in rows}
        assert len(by_name) == len(rows) == len(verdict.checks)
        for check in verdict.checks:
            row = by_name[check.name]
            assert row["Result"] == check.kind
            _same_check(row, check)
            compared += 1
            proof = check.evidence
            if proof is None:
                continue
            for counts in [part.counts for part in proof.parts] or [proof.counts]:
                for name, n in counts.items():
                    assert f"{name.replace('_', ' ')} {n:,}" in row["Counts"]
            if check.kind != "PASS" and proof.needed is not None:
                assert row["Still needed"] == f"{proof.needed:,} {proof.per}"
    assert compared > 5


def test_every_figure_of_the_page_is_the_one_in_the_json(shown: Seen) -> None:
    document = Figures(json.loads(shown.report.model_dump_json()))
    figures = list(page_figures(shown.html))
    assert len(figures) > 150
    for figure in figures:
        value = document.value(figure.path)
        told = f"{figure.path}: {figure.text!r} for {value!r}"
        if figure.unit in {"count", "percent", "ms", "score", "points", "number"}:
            assert agrees(figure.text, value), told
        elif figure.unit == "evidence":
            assert e_value_agrees(figure.text, value), told
    paths = {figure.path for figure in figures}
    for place, stage in enumerate(shown.report.stages):
        for number, check in enumerate(stage.verdict.checks if stage.verdict else ()):
            at = f"stages.{place}.verdict.checks.{number}"
            assert {f"{at}.observed", f"{at}.required", f"{at}.reason"} <= paths
            if check.evidence:
                assert f"{at}.evidence.ln_e" in paths
                shown_at = [
                    (f"parts.{one}.counts", part.counts)
                    for one, part in enumerate(check.evidence.parts)
                ] or [("counts", check.evidence.counts)]
                for where, counts in shown_at:
                    assert {f"{at}.evidence.{where}.{name}" for name in counts} <= paths


# --- what is missing -----------------------------------------------------------------------------


def test_what_is_missing_is_what_the_checks_still_need(shown: Seen) -> None:
    explained = shown.explained
    needed = {
        check.name: check.evidence.needed
        for check in (explained.verdict.checks if explained.verdict else ())
        if check.decides and check.kind == "INCONCLUSIVE" and check.evidence
    }
    missing = {need.check: need for need in explained.missing}
    if shown.report.headline.ended_at is not None:
        assert not missing
        return
    for name, n in needed.items():
        assert missing[name].needed == n
    for text in (shown.explain_text, shown.watch_text):
        if not missing:
            continue
        table = _titled(terminal_tables(text), "missing")
        assert [row["still missing"] for row in table.rows] == list(missing)
        for row in table.rows:
            need = missing[row["still missing"]]
            if need.needed is None:
                nothing = need.outlook == "too_early"
                told = "nothing counted yet" if nothing else "no decision in sight"
                assert row["how much"] == told
            elif need.quantity != "seconds":
                assert row["how much"].endswith(need.quantity)
                assert agrees(row["how much"].removesuffix(need.quantity).strip(), need.needed)


# --- what was counted ----------------------------------------------------------------------------


def test_what_was_counted_is_the_same_everywhere(shown: Seen) -> None:
    stage, traffic, tally = (
        shown.report.stages[shown.stage],
        shown.explained.traffic,
        shown.status.tally,
    )
    assert traffic is not None
    assert tally is not None
    labels = stage.incumbent.labels + stage.candidate.labels
    assert (traffic.requests, traffic.pairs, traffic.labels) == (
        stage.requests,
        stage.pairs,
        labels,
    )
    assert stage.model_dump(include=set(type(tally).model_fields) - {"incumbent", "candidate"}) == (
        tally.model_dump(exclude={"incumbent", "candidate"})
    )
    for role in ("incumbent", "candidate"):
        mine, theirs = getattr(stage, role).model_dump(), getattr(tally, role).model_dump()
        assert {name: mine[name] for name in theirs} == theirs
    told = f"{traffic.requests:,} requests, {traffic.pairs:,} pairs"
    for text in (shown.explain_text, shown.watch_text, shown.watch_line, shown.status_text):
        assert told in text or told.replace("requests", "requests in scope") in text
    assert f"{labels:,} labels" in shown.explain_text


def test_the_candidates_share_is_the_one_of_the_plan_everywhere(shown: Seen) -> None:
    stage, explained = shown.report.stages[shown.stage], shown.explained
    assert shown.status.rollout is not None
    assert shown.status.rollout.weight == explained.weight
    assert explained.weight == (0 if shown.report.headline.ended_at else stage.split.intended)
    assert line(explained) in shown.watch_line
    (weight, _) = numbers(shown.watch_line.partition("), version")[0].rpartition("/")[2])[1]
    assert weight == explained.weight


def test_the_arms_on_a_terminal_are_the_arms_of_the_report(shown: Seen) -> None:
    stage = shown.report.stages[shown.stage]
    table = _titled(terminal_tables(shown.status_text), f"stage {stage.stage}")
    for row, arm in zip(table.rows, (stage.incumbent, stage.candidate), strict=True):
        assigned, _, share = row["assigned"].partition(" (")
        assert agrees(assigned, arm.assigned)
        whole = 100 * arm.assigned / stage.requests if stage.requests else None
        assert agrees(share.rstrip(")"), whole)
        assert agrees(row["errors"], arm.error_count)
        assert agrees(row["fallbacks"], arm.fallbacks)
        times = (arm.latency_ms.p50, arm.latency_ms.p95, arm.latency_ms.p99)
        for text, value in zip(row["p50 / p95 / p99"].split(" / "), times, strict=True):
            assert agrees(text, value)
        if arm.labels:
            shares, _, labels = row["Hit@1/5/10"].partition(" of ")
            assert agrees(labels, arm.labels)
            for text, rate in zip(shares.split(" / "), arm.hit_rates.values(), strict=True):
                assert agrees(text, rate.percent)


# --- one quantity, two names ---------------------------------------------------------------------


def test_a_figure_that_the_report_shows_beside_the_verdict_is_that_of_its_check(
    shown: Seen,
) -> None:
    """What the judge reads is all that was counted, where nothing of it is too new for it."""
    compared: set[str] = set()
    for stage in shown.report.stages:
        if stage.verdict is None or not stage.requests or _newer(shown):
            continue
        checks = {check.name: check for check in stage.verdict.checks}
        for name, told, value in (*_shares(stage), *_coverages(stage)):
            if name in checks:
                assert agrees(checks[name].observed, value), (name, told, value)
                assert told in checks[name].required
                compared.add(name)
        for name, ratio in (("sample ratio", stage.split), ("mirror ratio", _mirrors(stage))):
            if name in checks and ratio.ln_e is not None:
                told = checks[name].reason.rpartition("e-value ")[2]
                assert e_value_agrees(told, ratio.ln_e), (name, told, ratio)
        for name, estimate, interval in _estimates(stage):
            proof = checks[name].evidence if name in checks else None
            if proof is not None:
                assert proof.estimate == pytest.approx(estimate)
                assert interval in {None, proof.interval}
                compared.add(name)
    if shown.report.headline.state == "aborted":
        assert len(compared) == 7, compared


def _newer(shown: Seen) -> bool:
    """Whether the present stage holds what is too new for the judge."""
    return shown.report.headline.state == "running" and shown.report.stages[0].left_at is None


def _mirrors(stage: StageReport) -> Ratio:
    return stage.sampling or stage.split


def _shares(stage: StageReport) -> Iterator[tuple[str, str, float | None]]:
    for name, ratio in (("sample ratio", stage.split), ("mirror ratio", _mirrors(stage))):
        yield name, f"{ratio.intended:g} %", ratio.actual


def _coverages(stage: StageReport) -> Iterator[tuple[str, str, float | None]]:
    yield "mirror coverage", f"{DEFAULT_PLAN.min_mirror_coverage:g} %", stage.mirror_coverage
    arms: tuple[Whose, ...] = ("pairs",) if stage.mode == "shadow" else ("incumbent", "candidate")
    due, came = (
        sum(getattr(stage.label_coverage[arm], what) for arm in arms) for what in ("due", "came")
    )
    yield "label coverage", f"{DEFAULT_PLAN.min_label_coverage:g} %", percent(came, due)


def _estimates(
    stage: StageReport,
) -> Iterator[tuple[str, float | None, tuple[float | None, float | None] | None]]:
    """Give what a test of each name estimates, and its interval where that is shown too."""
    mean = stage.agreement["overlap10"].mean
    yield "agreement overlap10", mean, None
    if stage.mode == "shadow":
        hits = stage.pair_differences[5]
        yield "Hit@5", hits.points, (hits.low, hits.high)
        yield "target of Hit@5", stage.pair_hit_rates["candidate"][5].percent, None
    else:
        yield "target of Hit@5", stage.candidate.hit_rates[5].percent, None


def test_the_last_look_of_the_timeline_is_the_judgement_of_that_moment(shown: Seen) -> None:
    report = shown.report
    looks = [look for look in report.timeline.moments if look.stage == report.headline.stage]
    assert looks
    last, stage = looks[-1], report.stages[shown.stage]
    if last.at < shown.explained.now or stage.verdict is None:
        return
    assert (last.requests, last.pairs) == (stage.requests, stage.pairs)
    assert last.pair_differences[5] == pair_difference(stage.pair_hits[5])
    if report.guard:
        weighed = report.guard.verdict.checks[0].evidence
        assert weighed is not None
        assert (last.guard_ln_e, last.guard_high) == (weighed.ln_e, report.guard.high)
        for check in stage.verdict.checks:
            if check.decides and check.evidence:
                assert last.ln_e[check.name] == pytest.approx(check.evidence.ln_e)
