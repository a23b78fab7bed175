"""`turnout rollout watch`: one rollout, followed until it ends.

On a terminal the explanation is drawn anew at each look. Elsewhere one line is printed whenever
something has changed, so that a log of it stays short; with `--json` that line is the explanation
itself, or an object with `error`. A controller or a store that does not answer is told and asked
again: only the end of the rollout, or Ctrl-C, ends the watching.
"""

import functools
import json
import time
from collections.abc import Callable, Iterator
from typing import Final

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from rollout.explanation import Explanation
from rollout.terminal.options import Asking
from rollout.terminal.remote import UNKNOWN, CallError, get, read
from rollout.terminal.views import explanation_view
from rollout.wording import count, when

INTERRUPTED: Final = 130
"""The exit status of a process that Ctrl-C ended."""
SUCCEEDED: Final = 0
ENDED_OTHERWISE: Final = 1
_LIVE: Final = frozenset({"running", "waiting", "paused", "held"})


def watch(
    asking: Asking,
    rollout: str,
    interval_s: float,
    console: Console,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Follow a rollout; return the exit code: 0 when it succeeded, 1 when it ended otherwise.

    Raises CallError when there is no such rollout, or when the first look fails.
    """
    looks = _looks(asking, rollout, interval_s, sleep)
    try:
        if asking.as_json:
            last = _follow_changes(looks, _print_json)
        elif console.is_terminal:
            last = _redraw(looks, console)
        else:
            last = _follow_changes(looks, functools.partial(_print_line, console))
    except KeyboardInterrupt:
        return INTERRUPTED
    return SUCCEEDED if last.state == "succeeded" else ENDED_OTHERWISE


def _looks(
    asking: Asking, rollout: str, interval_s: float, sleep: Callable[[float], None]
) -> Iterator[Explanation | CallError]:
    """Look until the rollout has ended. The rollout is the one that `current` was at first."""
    seen = _look(asking, rollout)
    yield seen
    while seen.state in _LIVE:
        sleep(interval_s)
        try:
            seen = _look(asking, seen.rollout)
        except CallError as error:
            if error.code != UNKNOWN:
                raise
            yield error
        else:
            yield seen


def _look(asking: Asking, rollout: str) -> Explanation:
    return read(get(asking, f"/v1/rollouts/{rollout}/explain"), Explanation)


def _redraw(looks: Iterator[Explanation | CallError], console: Console) -> Explanation:
    last: Explanation | None = None
    with Live(console=console, auto_refresh=False) as live:
        for seen in looks:
            fault: RenderableType = Text("Ctrl-C ends the watching, not the rollout", "dim")
            if isinstance(seen, Explanation):
                last = seen
            else:
                fault = Text(str(seen), "red")
            assert last is not None  # noqa: S101 - the first look succeeds or raises
            live.update(Group(explanation_view(last), fault), refresh=True)
    assert last is not None  # noqa: S101 - likewise
    return last


def _follow_changes(
    looks: Iterator[Explanation | CallError], show: Callable[[Explanation | CallError], None]
) -> Explanation:
    """Show what differs from the look before by more than the passing of time."""
    last: Explanation | None = None
    before = ""
    for seen in looks:
        now = line(seen) if isinstance(seen, Explanation) else str(seen)
        if now != before:
            show(seen)
        before = now
        last = seen if isinstance(seen, Explanation) else last
    assert last is not None  # noqa: S101 - likewise
    return last


def _print_json(seen: Explanation | CallError) -> None:
    told = json.dumps(seen.document) if isinstance(seen, CallError) else seen.model_dump_json()
    typer.echo(told)


def _print_line(console: Console, seen: Explanation | CallError) -> None:
    told = f"{when(seen.now)} {line(seen)}" if isinstance(seen, Explanation) else str(seen)
    console.print(Text(told), soft_wrap=True)


def line(seen: Explanation) -> str:
    """Say in one line where a rollout stands. It does not change by the passing of time alone."""
    parts = [
        f"{seen.rollout} {seen.state}",
        f"stage {seen.stage} ({seen.stage_number}/{seen.stages}, {seen.weight:g} % {seen.mode})",
        f"version {seen.version}",
    ]
    if seen.verdict:
        parts.append(f"gate {seen.verdict.kind}")
    if seen.traffic:
        parts.append(f"{count(seen.traffic.requests)} requests, {count(seen.traffic.pairs)} pairs")
    parts += [f"! {notice.name}" for notice in seen.notices]
    if seen.last and seen.state not in _LIVE:
        parts.append(f"{seen.last.command} by {seen.last.actor}: {seen.last.reason}")
    return "; ".join(parts)
