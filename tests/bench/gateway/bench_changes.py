"""Section 7: how long a change of stage takes to reach every gateway.

From the moment before the change is written to the store until an answer of the slower of two
gateways carries the new version. The gateways are asked in turns without a pause, so a change is
seen a fraction of a millisecond late.
"""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench_figures import Asked, Figure, Section
from bench_parties import Behind, Party, turnout
from bench_process import BenchError
from bench_speed import contexts
from bench_statistics import median, quantile
from bench_wire import Connection, Posted

GATEWAYS: Final = 2
PAUSE_S: Final = 0.02
LIMIT_S: Final = 5.0


def section(behind: Behind, logs: Path, changes: int) -> Section:
    """Change the stage and wait for both gateways to say so, over and over."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(turnout(behind, logs, f"turnout-{number}"))
            for number in range(1, GATEWAYS + 1)
        ]
        asking = [stack.enter_context(server.connect()) for server in servers]
        request = Party("turnout", servers[0]).ask(contexts(1))
        _await(asking, request, behind.store.change())
        taken = [_change(behind, asking, request) for _ in range(changes)]
    return Section(
        7,
        f"A change of stage at {GATEWAYS} gateways, over pub/sub",
        (
            Figure("turnout", "until the slower one applies it", median(taken).scaled(1e3), "ms"),
            Figure("turnout", "p99", quantile(taken, 0.99).scaled(1e3), "ms", Asked(at_most=100)),
        ),
    )


def _change(behind: Behind, asking: list[Connection], request: Posted) -> float:
    time.sleep(PAUSE_S)
    began = time.perf_counter()
    _await(asking, request, behind.store.change())
    return time.perf_counter() - began


def _await(asking: list[Connection], request: Posted, position: str) -> None:
    """Ask until every gateway answers with a version. Raises BenchError when one does not."""
    limit = time.monotonic() + LIMIT_S
    left = list(asking)
    while left:
        left = [one for one in left if one.post(request).headers["x-turnout-version"] != position]
        if time.monotonic() > limit:
            raise BenchError(f"{len(left)} gateways did not apply {position} in {LIMIT_S:g} s")
