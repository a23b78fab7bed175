"""Replicates over processes: in chunks that a person may interrupt, in any order.

Each replicate has its own random stream, so the outcomes depend on the seed alone, and not on how
many processes there were or how the work was cut.
"""

import os
import signal
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from typing import Final

from rollout.simulate.replicate import Outcome, replicate
from rollout.simulate.road import Site
from rollout.simulate.scenario import Setting

CHUNK: Final = 10
"""Replicates of one chunk: about a second."""
AHEAD: Final = 3
"""Chunks that wait for each process, so that none is idle and few results are kept."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some replicates of one setting."""

    setting: Setting
    seed: int
    first: int
    count: int
    looks: int

    def outcomes(self) -> list[Outcome]:
        """Run them."""
        sites = (Site(self.seed, one) for one in range(self.first, self.first + self.count))
        return [outcome for site in sites for outcome in replicate(self.setting, site, self.looks)]


def cut(
    setting: Setting, seed: int, replicates: int, looks: int, size: int = CHUNK
) -> Iterator[Chunk]:
    """Cut a setting's replicates into chunks."""
    for first in range(0, replicates, size):
        yield Chunk(setting, seed, first, min(size, replicates - first), looks)


def cores() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(chunks: Sequence[Chunk], processes: int) -> Generator[tuple[Chunk, list[Outcome]]]:
    """Run chunks over so many processes, and yield each as it is done.

    One process is this one. Closing the iterator, as an interrupt does, drops the chunks that have
    not begun and waits for the others, about a second each.
    """
    if processes == 1 or len(chunks) == 1:
        for chunk in chunks:
            yield chunk, chunk.outcomes()
        return
    executor = ProcessPoolExecutor(
        min(processes, len(chunks)), mp_context=get_context("spawn"), initializer=_deaf
    )
    waiting: dict[Future[list[Outcome]], Chunk] = {}
    left = iter(chunks)
    try:
        while True:
            for chunk in islice(left, AHEAD * processes - len(waiting)):
                waiting[executor.submit(chunk.outcomes)] = chunk
            if not waiting:
                return
            for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(done), done.result()
    finally:
        executor.shutdown(cancel_futures=True)


def _deaf() -> None:
    """Leave an interrupt from the keyboard, which reaches every process, to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
