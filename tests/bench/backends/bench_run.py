"""One run of the bench, section by section: what lives when, and who takes part in what.

First the contestants alone; then the model servers without prefix states, beside the rival; then
those with prefix states. Never all at once: three dozen threads and 5 GB for nothing. The eager
baseline and the rival stay to the end.
"""

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import bench_alone
import bench_overhead
import bench_served
import numpy as np
import orjson
import psutil
from bench_adapter import FLOAT32, Spec, weights_of
from bench_agreement import CONTINUED_FILE, SCRATCH_FILE, Agreement, compare, reference
from bench_contexts import LONGEST, window
from bench_figures import NOTHING, Asked, Figure, Section, single
from bench_load import Party, rival_request
from bench_process import BenchError
from bench_processes import Contestant, our_server, rival_server
from bench_wire import binary_request

from backends.answer import read_answer
from backends.protocol import (
    HEADER_LENGTH,
    Floats,
)

SECTIONS: Final = frozenset(range(1, 8))
UNKNOWING: Final = frozenset({2, 3, 5, 6})
GROWING: Final = frozenset({4, 6})
"""Sections for which servers are started, without prefix states and with them."""
PREFIX_MB: Final = 128
RIVAL_RUNS_IN: Final = "thread"
"""MLServer's batches run beside its event loop: what suits it better here."""
SAME_WORK: Final = 0.02
"""Largest distance between two servers' answers to one question, reduced precision included."""
LOOK_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: rounds of each section, and how many contexts and states."""

    alone: int
    grown: int
    volleys: int
    blocks: int
    block_s: float
    grown_served: int
    protocol: int
    states: int
    scratch: int
    continued: int


FULL: Final = Effort(
    alone=15, grown=10, volleys=5, blocks=3, block_s=5.0, grown_served=4, protocol=7,
    states=10_000, scratch=240, continued=500,
)  # fmt: skip
QUICK: Final = Effort(
    alone=3, grown=2, volleys=1, blocks=1, block_s=1.5, grown_served=1, protocol=2,
    states=200, scratch=24, continued=20,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """Who takes part. `rival` is the folder of its environment, or None; logs go to `logs`.

    `only`: the numbers of the sections that are measured.
    """

    eager: Spec
    specs: tuple[Spec, ...]
    rival: Path | None
    effort: Effort
    logs: Path
    only: frozenset[int] = SECTIONS

    def sections(self) -> Generator[Section]:
        """Measure everything. Raises BenchError and WireError when a process fails."""
        effort = self.effort
        with contextlib.ExitStack() as stay:
            baseline = stay.enter_context(Contestant(self.eager, self.logs))
            yield from self._alone(baseline)
            if not self.only & (UNKNOWING | GROWING):
                return
            rivals = self._start_rival(stay)
            without: list[Figure] = []
            if self.only & UNKNOWING:
                with contextlib.ExitStack() as phase:
                    parties = [*self._start_servers(phase, prefix_mb=0), *rivals]
                    check_same_work(parties)
                    yield from self._wanted(
                        (
                            2,
                            lambda: bench_served.sixteen_at_once(parties, baseline, effort.volleys),
                        ),
                        (3, lambda: bench_served.mix(parties, effort.blocks, effort.block_s)),
                        (5, lambda: bench_overhead.protocol(parties, effort.protocol)),
                    )
                    without = bench_overhead.weighed(parties, "after this load, no states")
            if self.only & GROWING:
                with contextlib.ExitStack() as phase:
                    ours = self._start_servers(phase, prefix_mb=PREFIX_MB)
                    grown = [*ours, *rivals]
                    yield from self._wanted(
                        (4, lambda: bench_overhead.one_more_vector(grown, effort.grown_served)),
                        (6, lambda: bench_overhead.memory(without, ours, effort.states)),
                    )

    def _alone(self, baseline: Contestant) -> Generator[Section]:
        """Sections 1, 4a and 7: the engines, each in its process."""
        effort = self.effort
        with contextlib.ExitStack() as phase:
            ours = [phase.enter_context(Contestant(spec, self.logs)) for spec in self.specs]
            everybody = [baseline, *ours]
            yield from self._wanted(
                (1, lambda: bench_alone.one_request(everybody, effort.alone)),
                (4, lambda: bench_alone.one_more_vector(everybody, effort.grown)),
                (7, lambda: agreement(ours, self.logs, effort.scratch, effort.continued)),
            )

    def _wanted(self, *sections: tuple[int, Callable[[], Section]]) -> Generator[Section]:
        for number, measure in sections:
            if number in self.only:
                yield _seen(measure)

    def _start_servers(self, stack: contextlib.ExitStack, *, prefix_mb: int) -> list[Party]:
        return [
            Party(
                spec.label,
                stack.enter_context(our_server(spec, self.logs, prefix_mb=prefix_mb)),
                binary_request,
            )
            for spec in self.specs
        ]

    def _start_rival(self, stack: contextlib.ExitStack) -> list[Party]:
        if self.rival is None:
            return []
        server = rival_server(self.rival, self.eager, self.logs, runs_in=RIVAL_RUNS_IN)
        return [Party("MLServer", stack.enter_context(server), rival_request, is_rival=True)]


def _seen(measure: Callable[[], Section]) -> Section:
    """Measure a section, and how busy the machine was just before it without us."""
    others = psutil.cpu_percent(LOOK_S)
    return replace(measure(), others_cpu=others)


def check_same_work(parties: Sequence[Party]) -> None:
    """Ask everybody the same. Raises BenchError when somebody's prediction is another one."""
    context = window(1, LONGEST)
    answers = [_prediction(party, context) for party in parties]
    for party, answer in zip(parties, answers, strict=True):
        distance = float(np.linalg.norm(answer - answers[0]))
        if distance > SAME_WORK:
            raise BenchError(
                f"{party.who} predicts another vector than {parties[0].who}: {distance:.3g} apart, "
                "though both have length 1"
            )


def _prediction(party: Party, context: Floats) -> Floats:
    with party.server.connect() as connection:
        answer = connection.post(party.ask(context))
    if not party.is_rival:
        return read_answer(answer.body, answer.headers[HEADER_LENGTH]).vector
    outputs = {output["name"]: output for output in orjson.loads(answer.body)["outputs"]}
    return np.array(outputs["PREDICTION"]["data"], np.float32)


def agreement(contestants: Sequence[Contestant], folder: Path, scratch: int, grown: int) -> Section:
    """Compare every engine's answers with the float64 reference (`bench_agreement`)."""
    if not contestants:
        return Section(7, "Agreement with a float64 reference", ())
    exact = reference(weights_of(contestants[0].spec).model)
    figures: list[Figure] = []
    for contestant in contestants:
        contestant.ask("agree", scratch=scratch, continued=grown, folder=str(folder))
        for how, file in (("from scratch", SCRATCH_FILE), ("continued", CONTINUED_FILE)):
            found = compare(exact, folder / file)
            if found:
                figures += _agreement_figures(contestant.spec, how, found)
    return Section(7, "Agreement with a float64 reference, on real text", tuple(figures))


def _agreement_figures(spec: Spec, how: str, found: Agreement) -> list[Figure]:
    exact = spec.precision == FLOAT32
    asked = {
        "worst relative error": Asked(at_most=1e-5) if exact else NOTHING,
        "worst cosine": NOTHING if exact else Asked(at_least=0.9999),
        "same top-1, ties apart": Asked(at_least=99.9),
    }
    values = {
        "worst relative error": (found.worst_error, ""),
        "median relative error": (found.median_error, ""),
        "worst cosine": (found.worst_cosine, ""),
        "same top-1, ties apart": (100 * found.share_same, "%"),
        "ties": (float(found.ties), ""),
    }
    who = f"{spec.label}, {how}"
    return [
        Figure(
            who, what, replace(single(value), count=found.contexts), unit, asked.get(what, NOTHING)
        )
        for what, (value, unit) in values.items()
    ]
