"""Sections 1 and 4a: the engines alone, in turns with the eager baseline."""

import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from typing import Final

from bench_figures import NOTHING, Asked, Figure, Section
from bench_processes import Contestant
from bench_statistics import median, paired_ratio, rounds

LENGTHS: Final = (100, 500)
GROWN_LENGTHS: Final = (50, 100, 200, 350, 500)
FIRST_GROWN_DRAW: Final = 3000
SETTLE_S: Final = 0.01
"""Between turns: an OpenMP thread spins for a few milliseconds after its work."""

Times = dict[str, list[float]]


def one_request(contestants: Sequence[Contestant], number: int) -> Section:
    """Time one window, nothing known of it. The first contestant is the baseline."""
    figures: list[Figure] = []
    for length in LENGTHS:
        _warm(contestants, length)
        times: Times = defaultdict(list)
        for turn, order in enumerate(rounds(contestants, number)):
            for contestant in order:
                time.sleep(SETTLE_S)
                seconds = contestant.seconds("time", count=1, length=length, draw=turn)
                times[contestant.spec.label].append(seconds)
        asked = Asked(at_least=4, aim=8) if length == max(LENGTHS) else NOTHING
        figures += _against_first(times, f"{length} vectors", asked)
    return Section(1, "One request, nothing cached: engine time", tuple(figures))


def one_more_vector(contestants: Sequence[Contestant], number: int) -> Section:
    """Time a context that grew by one vector, at lengths from 50 to 500."""
    times: dict[int, Times] = {length: defaultdict(list) for length in GROWN_LENGTHS}
    draws = count(FIRST_GROWN_DRAW)
    for order in rounds(contestants, number):
        for length, draw in zip(GROWN_LENGTHS, draws, strict=False):
            for contestant in order:
                time.sleep(SETTLE_S)
                seconds = contestant.seconds("grow", length=length, draw=draw)
                times[length][contestant.spec.label].append(seconds)
    figures: list[Figure] = []
    for length, found in times.items():
        figures += _against_first(found, f"to {length} vectors", NOTHING, Asked(at_most=2.5))
    figures += [
        _flatness(contestant.spec.label, times)
        for contestant in contestants[1:]
        if contestant.continues
    ]
    notes = tuple(
        f"{contestant.spec.label} has no states: it reads the whole context again"
        for contestant in contestants[1:]
        if not contestant.continues
    )
    return Section(4, "A context that grew by one vector: engine time", tuple(figures), notes)


def _warm(contestants: Sequence[Contestant], length: int) -> None:
    for contestant in contestants:
        for _ in range(2):
            contestant.ask("warm", length=length)


def _against_first(
    times: Times, what: str, ratio: Asked, milliseconds: Asked = NOTHING
) -> list[Figure]:
    """Give each contestant's median, and its ratio to the first one's."""
    (baseline, slow), *others = times.items()  # in the order of the first round
    figures = [Figure(baseline, what, median(slow).scaled(1e3), "ms")]
    for who, fast in others:
        figures.append(Figure(who, what, median(fast).scaled(1e3), "ms", milliseconds))
        figures.append(Figure(who, f"{what}, against eager", paired_ratio(slow, fast), "x", ratio))
    return figures


def _flatness(who: str, times: dict[int, Times]) -> Figure:
    """Compare the longest with the shortest: 1 is flat."""
    longest, shortest = (times[pick(times)][who] for pick in (max, min))
    what = f"{max(times)} vectors / {min(times)} vectors"
    return Figure(who, what, paired_ratio(longest, shortest), "")
