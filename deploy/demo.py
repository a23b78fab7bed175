"""`turnout demo`: a whole rollout on real text, in a few minutes, that leaves nothing running.

It is a client like any other: requests and feedback go to the gateway, commands to the controller,
over HTTP. The plan is the default one with its durations, samples, limits and mirror share changed,
so that every stage can be seen; nothing else is different from production.
"""

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deploy import local
from deploy.board import Board
from deploy.broken import Fault
from deploy.chains import load_chains
from deploy.children import Child
from deploy.replay import TIMEOUT_S, Outcome, Query, queries, replay
from deploy.summary import stage_table
from rollout.orders import RolloutStatus
from rollout.plan import DEFAULT_PLAN, Plan
from rollout.reporting.report import Report, render_html, render_markdown

SEED: Final = 20_261_122
IN_SCOPE: Final = 100
"""Contexts longer than this many vectors are the candidate's, in the default tier table."""
BEFORE: Final = 60
"""Requests in scope before the rollout begins: they make the incumbent's median latency known,
which the candidate is compared with, and how much traffic there is."""
REQUESTS: Final = {"shadow": 300, "ab": 100}
PAIRS: Final = {"shadow": 8, "ab": 20}
BATCH: Final = 20
PATIENCE: Final = 4
"""A stage whose gate stays shut gets at most this many times its requests."""
SETTLE_S: Final = 1.0
"""Time for the last comparisons and labels of a batch to be counted."""


BY_ITSELF: Final = frozenset({"rolled_back", "held"})
"""The states into which the controller brings a rollout that must not go on."""


class DemoError(Exception):
    """Why the demo stopped; the message says at which step and what was answered."""


LOOSE: Final[dict[str, object]] = {
    "max_error_rate": 10.0,
    "error_margin": 30.0,
    "latency_budget_s": 2.0,
    "latency_quantile": "p50",
    "latency_margins": {"p50": 100.0},
    "hit_margin": 15.0,
    "watermark_s": 0.0,
    "labels": "arrived",
}
"""What a few hundred requests can decide: some 15 pairs without an error, or 60 requests of the
candidate, prove that it stays within these limits, and nothing narrower. Truths count as they come,
because the demo's come at once."""


def shortened(plan: Plan) -> Plan:
    """Return `plan` with stages of seconds, small samples, wide limits, and half mirrored."""
    stages = tuple(
        stage.model_copy(
            update={
                "min_duration_s": 3.0,
                "min_requests": REQUESTS[stage.mode],
                "min_pairs": PAIRS[stage.mode],
                "shadow_sample": 50.0 if stage.mode == "ab" else 0.0,
            }
        )
        for stage in plan.stages
    )
    return plan.model_copy(update={"name": "demo", "stages": stages, **LOOSE})


@dataclass(slots=True)
class Demo:
    """The clients, the traffic and what became of it."""

    gateway: httpx2.AsyncClient
    controller: httpx2.AsyncClient
    source: Iterator[Query]
    console: Console
    outcome: Outcome = field(default_factory=Outcome)

    async def walk(self, plan: Plan) -> str:
        """Take the plan as far as it goes; say in a sentence where it stopped, "" for its end.

        Raises DemoError.
        """
        start = {"plan": plan.model_dump(mode="json"), **_because("the demo begins")}
        with _progress(self.console) as progress:
            await self._serve_before(progress)
            await self._command("/v1/rollouts", start)
            for stage in plan.stages:
                label = f"{stage.name}: {stage.weight:g} % {stage.mode}"
                task = progress.add_task(label, total=stage.min_requests)
                if stopped := await self._serve_stage(stage.min_requests, progress, task):
                    return stopped
        return ""

    async def _serve_before(self, progress: Progress) -> None:
        """Send the traffic that there is before any rollout."""
        task = progress.add_task("before: the incumbent", total=BEFORE)
        served = 0
        while served < BEFORE:
            served += await self._serve_batch()
            progress.update(task, completed=min(served, BEFORE))
        await asyncio.sleep(SETTLE_S)

    async def _serve_batch(self) -> int:
        """Send a batch of requests; return how many of them were in scope."""
        served = 0

        def sent(query: Query) -> None:
            nonlocal served
            served += query.length > IN_SCOPE

        await replay(self.gateway, self.source, BATCH, self.outcome, sent)
        return served

    async def _serve_stage(self, in_scope: int, progress: Progress, task: Any) -> str:
        """Send traffic until the stage's gate opens, and go through it; else say what kept it."""
        served, refused = 0, ""
        while served < in_scope * PATIENCE:
            served += await self._serve_batch()
            progress.update(task, completed=min(served, in_scope))
            if stopped := await self._ended():
                return stopped
            if served < in_scope:
                continue
            await asyncio.sleep(SETTLE_S)
            answer = await self.controller.post(
                "/v1/rollouts/current/advance", json=_because("the demo's next stage")
            )
            if answer.is_success:
                return ""
            refused = answer.json()["error"]
        return await self._ended() or f"{served} requests did not decide: {refused}"

    async def _ended(self) -> str:
        """Say how the controller ended the rollout by itself, and why; "" while it goes on."""
        answer = await self.controller.get("/v1/rollouts/current")
        if not answer.is_success:
            return ""
        rollout = RolloutStatus.model_validate(answer.json()["rollout"])
        if rollout.state not in BY_ITSELF:
            return ""
        verdict = rollout.fired or rollout.verdicts.get(rollout.stage)
        why = verdict.reason if verdict else "no verdict is kept"
        return f"{rollout.state} in the stage {rollout.stage}: {why}"

    async def confirm_hybrid(self) -> dict[str, str]:
        """Ask with a short and with a long context after the rollout, and say who answered."""
        answered: dict[str, str] = {}
        for name, wanted in (("short", range(5, IN_SCOPE + 1)), ("long", range(101, 501))):
            query = next(query for query in self.source if query.length in wanted)
            answer = await self.gateway.post(
                "/v1/predict",
                content=query.body(),
                headers={"content-type": "application/json"},
            )
            answered[name] = f"{query.length} vectors -> {answer.headers['x-turnout-arm']}"
        return answered

    async def report(self) -> bytes:
        """Fetch the report as JSON."""
        answer = await self.controller.get("/v1/rollouts/current/report")
        if not answer.is_success:
            raise DemoError(f"the controller gave no report: {answer.text[:300]}")
        return answer.content

    async def _command(self, path: str, body: dict[str, Any]) -> None:
        answer = await self.controller.post(path, json=body)
        if not answer.is_success:
            raise DemoError(f"POST {path} was refused: {answer.text[:300]}")


async def run_demo(out: Path, bank: Path, console: Console, fault: Fault | None = None) -> None:
    """Run the demo and write `report.html`, `report.md` and `report.json` into `out`.

    With a `fault` the candidate is broken in that way, and must be rolled back.

    Raises LocalError, StartError, ArchiveError or DemoError; whatever happens, nothing is left
    running and the temporary directory is removed.
    """
    chains = load_chains(bank).chains
    await asyncio.to_thread(out.mkdir, parents=True, exist_ok=True)
    children: tuple[Child, ...] = ()

    async def work() -> None:
        nonlocal children
        with tempfile.TemporaryDirectory(prefix="turnout-demo-") as scratch:
            layout = free_layout(Path(scratch), bank, fault)
            with Board(console) as board:
                async with contextlib.AsyncExitStack() as stack:
                    children = await stack.enter_async_context(local.running(layout, board.changed))
                    board.quiet = True
                    board.__exit__(None, None, None)
                    await _demonstrate(layout, queries(chains, SEED), out, console)

    with local.stop_signals(lambda: children) as stop:
        if not await local.until(stop, work):
            raise DemoError("stopped before its end; nothing is left running")


async def _demonstrate(
    layout: local.Layout, source: Iterator[Query], out: Path, console: Console
) -> None:
    untrained = [arm for arm in layout.backend_urls if arm not in layout.checkpoints]
    weights = (
        f"{' and '.join(untrained)} with [bold]untrained weights[/bold] (fixed seeds)"
        if untrained
        else "the arms that ship, on chains that they were not trained on"
    )
    if layout.double:
        weights += f", {layout.double.arm} broken on purpose: {layout.double.fault}"
    console.print(
        f"\nWhat follows shows how a rollout works, with {weights}. So few requests do not tell "
        "which arm is better: `turnout evaluate` does.\n"
    )
    async with _clients(layout) as (gateway, controller):
        demo = Demo(gateway, controller, source, console)
        stopped = await demo.walk(shortened(DEFAULT_PLAN))
        answered = await demo.confirm_hybrid()
        text = await demo.report()
    report = Report.model_validate_json(text)
    (out / "report.json").write_bytes(text)
    (out / "report.html").write_text(render_html(report), encoding="utf-8")
    (out / "report.md").write_text(render_markdown(report), encoding="utf-8")
    console.print(stage_table(report))
    _say_outcome(demo.outcome, answered, stopped, out, console)
    if layout.double and not stopped.startswith("rolled_back"):
        raise DemoError(f"the broken candidate was not rolled back: {stopped or 'it went through'}")


def _say_outcome(
    outcome: Outcome, answered: dict[str, str], stopped: str, out: Path, console: Console
) -> None:
    failed = "; ".join(f"{count} x {kind}" for kind, count in outcome.failed.items()) or "none"
    console.print(f"requests sent  {outcome.sent}, failed: {failed}", highlight=False)
    ended = stopped or "at its end: the candidate is active"
    console.print(f"the rollout    {ended}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"now in force   short: {answered['short']}, long: {answered['long']}", highlight=False
    )
    console.print(
        f"report         {out / 'report.html'} and .md, .json beside it",
        highlight=False,
        soft_wrap=True,
    )


def free_layout(state_dir: Path, bank: Path, fault: Fault | None = None) -> local.Layout:
    """Return a layout on ports of the loopback interface that are free now.

    With a `fault`, a double that spoils its predictions so stands in front of the candidate.
    """
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(5)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        gateway, controller, double, *backends = (int(one.getsockname()[1]) for one in probes)
    return local.Layout(
        state_dir=state_dir,
        gateway_port=gateway,
        controller_port=controller,
        backend_ports=tuple(backends),
        bank=bank,
        double=local.Double(DEFAULT_PLAN.candidate, fault, double) if fault else None,
    )


@contextlib.asynccontextmanager
async def _clients(
    layout: local.Layout,
) -> AsyncIterator[tuple[httpx2.AsyncClient, httpx2.AsyncClient]]:
    async with (
        httpx2.AsyncClient(base_url=layout.gateway_url, timeout=TIMEOUT_S, trust_env=False) as one,
        httpx2.AsyncClient(base_url=layout.controller_url, timeout=10, trust_env=False) as two,
    ):
        yield one, two


def _because(reason: str) -> dict[str, str]:
    return {"actor": "demo", "reason": reason}


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TextColumn("in scope"),
        TimeElapsedColumn(),
        console=console,
    )
