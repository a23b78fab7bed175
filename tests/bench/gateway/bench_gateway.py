"""`make bench-gateway`: our gateway beside Envoy, nginx and a rival in Python, in one run.

All stand before the same backend, each with one worker on the same core; backend, store and load
are on another. Nothing here passes or fails by a time: a figure that is not what was asked says so,
and the exit status is 0. It is 1 when a process dies or an answer is wrong.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import bench_changes
import bench_json
import bench_memory
import bench_speed
import psutil
from bench_figures import Asked, Section
from bench_parties import Behind, Party, Store, envoy, litellm, nginx, turnout
from bench_report import add_options, machine, report
from bench_speed import DIRECT, ENVOY, OURS, RIVAL
from bench_start import GATEWAY_CORE, OTHER_CORE, OTHERS, Backend

SECTIONS: Final = (1, 2, 3, 4, 5, 6, 7)
LOOK_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: rounds, seconds of a turn, requests."""

    latency: int
    latency_s: float
    throughput: int
    throughput_s: float
    json: int
    json_requests: int
    held: int
    many: int
    changes: int


FULL: Final = Effort(
    latency=15, latency_s=0.2, throughput=5, throughput_s=1.5, json=5, json_requests=40,
    held=3, many=100_000, changes=300,
)  # fmt: skip
QUICK: Final = Effort(
    latency=3, latency_s=0.1, throughput=2, throughput_s=0.4, json=1, json_requests=10,
    held=1, many=5_000, changes=20,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """One run. `others` is the environment of the rivals; logs go to `logs`."""

    others: Path
    effort: Effort
    only: frozenset[int]
    logs: Path

    def sections(self) -> Generator[Section]:
        """Measure what is wanted. Raises BenchError and WireError when a process fails."""
        effort = self.effort
        with ExitStack() as stay:
            behind = Behind(
                stay.enter_context(Backend("backend-1", self.logs, arm="phase1")),
                stay.enter_context(Backend("backend-2", self.logs, arm="phase2")),
                stay.enter_context(Store(self.logs)),
            )
            if self.only & {1, 2, 3, 5}:
                with ExitStack() as phase:
                    yield from self._beside_others(behind, phase)
            if 4 in self.only:
                yield _seen(
                    lambda: bench_json.section(behind, self.logs, effort.json, effort.json_requests)
                )
            if 6 in self.only:
                yield _seen(
                    lambda: bench_memory.section(behind, self.logs, effort.held, effort.many)
                )
            if 7 in self.only:
                yield _seen(lambda: bench_changes.section(behind, self.logs, effort.changes))

    def _beside_others(self, behind: Behind, phase: ExitStack) -> Generator[Section]:
        effort = self.effort
        parties, missing = self._parties(behind, phase)
        bench_speed.check_same_answer(parties)
        asked = {1: Asked(at_most=2, aim=1.2), 2: Asked(at_most=2.5, aim=1.2)}
        found = {}
        for number, length, size in ((1, 10, "30 KB"), (2, 500, "1.5 MB")):
            title = f"One connection, {size} in binary: added to the backend's own answer"
            others = psutil.cpu_percent(LOOK_S)
            found[number] = bench_speed.latency(parties, length, effort.latency, effort.latency_s)
            section = bench_speed.latency_section(number, title, found[number], asked[number])
            yield replace(section, notes=missing if number == 1 else (), others_cpu=others)
        others = psutil.cpu_percent(LOOK_S)
        answers, busy = bench_speed.throughput(
            parties, effort.throughput, effort.throughput_s, self.logs
        )
        yield replace(bench_speed.throughput_section(answers, busy), others_cpu=others)
        yield bench_speed.rival_section(found[1], found[2], answers)

    def _parties(self, behind: Behind, phase: ExitStack) -> tuple[list[Party], tuple[str, ...]]:
        """Start every gateway there is; say which are missing, and how to get them."""
        parties = [
            Party(DIRECT, behind.phase1),
            Party(OURS, phase.enter_context(turnout(behind, self.logs))),
        ]
        missing: list[str] = []
        env = f"not at {self.others}: `make bench-gateway-env` installs it"
        for who, server, advice in (
            (ENVOY, envoy(behind, self.logs, self.others), env),
            ("nginx", nginx(behind, self.logs), "not installed: apt-get install nginx"),
            (RIVAL, litellm(behind, self.logs, self.others), env),
        ):
            if server is None:
                missing.append(f"{who} was not measured: {advice}")
            else:
                parties.append(Party(who, phase.enter_context(server), is_rival=who == RIVAL))
        return parties, tuple(missing)


def _seen(measure: Callable[[], Section]) -> Section:
    """Measure a section, and how busy the machine was just before it without us."""
    others = psutil.cpu_percent(LOOK_S)
    return replace(measure(), others_cpu=others)


def main() -> int:
    """Run the bench as the command line says."""
    options = _options()
    os.sched_setaffinity(0, {OTHER_CORE})
    only = frozenset(map(int, options.only.split(","))) if options.only else frozenset(SECTIONS)
    with tempfile.TemporaryDirectory(prefix="turnout-bench-") as folder:
        run = Run(options.others, QUICK if options.quick else FULL, only, Path(folder))
        return report(
            run.sections(), options, _facts(), times="times; for what is added, less is better"
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-gateway", description=__doc__)
    add_options(parser)
    parser.add_argument("--only", help="sections, as 1,2,...; 1, 2, 3 and 5 come together")
    parser.add_argument("--others", type=Path, default=OTHERS, help="the rivals' environment")
    return parser.parse_args()


def _facts() -> dict[str, Any]:
    libraries = {name: version(name) for name in ("uvicorn", "uvloop", "httptools")}
    return {**machine(), **libraries, "cores used": f"{GATEWAY_CORE} and {OTHER_CORE}"}


if __name__ == "__main__":
    sys.exit(main())
