"""Medians, ratios and lines with their spread. Pure: the same input gives the same figures.

A ratio is of pairs: contestants take turns, and round i of one is divided by round i of the other,
so that what slows the machine for a while slows both. Its spread is the 90 % percentile interval
of the median over bootstrap resamples of the pairs (Efron and Tibshirani 1993, chapter 13).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 4000
LOW, HIGH = 5.0, 95.0
SEED: Final = 1

Numbers = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure, and the interval that holds it in 90 % of resamples of `count` measurements."""

    value: float
    low: float
    high: float
    count: int

    def scaled(self, factor: float) -> "Spread":
        """Change the unit."""
        return Spread(self.value * factor, self.low * factor, self.high * factor, self.count)

    def as_json(self) -> dict[str, Any]:
        """Give the fields by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Line:
    """`y = intercept + slope x`, each with its spread."""

    intercept: Spread
    slope: Spread


def median(values: Sequence[float]) -> Spread:
    """Find the median and its spread."""
    return _bootstrap(np.array(values, float), lambda rows: np.median(rows, axis=1))


def quantile(values: Sequence[float], share: float) -> Spread:
    """Find a quantile (`share` in 0..1) and its spread."""
    return _bootstrap(np.array(values, float), lambda rows: np.quantile(rows, share, axis=1))


def tail_ratio(values: Sequence[float], share: float) -> Spread:
    """Find how many times the median a quantile is, and the spread of that."""

    def ratio(rows: Numbers) -> Numbers:
        tail: Numbers = np.quantile(rows, share, axis=1) / np.median(rows, axis=1)
        return tail

    return _bootstrap(np.array(values, float), ratio)


def paired_ratio(slower: Sequence[float], faster: Sequence[float]) -> Spread:
    """Find how many times as long `slower` took, round by round: the median and its spread."""
    pairs = np.array(slower, float) / np.array(faster, float)
    return _bootstrap(pairs, lambda rows: np.median(rows, axis=1))


def added(longer: Sequence[float], shorter: Sequence[float]) -> Spread:
    """Find how much longer `longer` took, round by round: the median and its spread."""
    differences = np.array(longer, float) - np.array(shorter, float)
    return _bootstrap(differences, lambda rows: np.median(rows, axis=1))


def added_ratio(one: Sequence[float], other: Sequence[float], both: Sequence[float]) -> Spread:
    """Find how many times as much `one` adds to `both` as `other` does, by resampled rounds.

    Of the medians of what they add, not of each round's: a round in which `other` adds next to
    nothing says nothing about the rest.
    """
    base = np.array(both, float)
    pairs = np.stack([np.array(one, float) - base, np.array(other, float) - base], axis=-1)

    def ratio(rows: Numbers) -> Numbers:
        middle: Numbers = np.median(rows, axis=1)
        return middle[:, 0] / middle[:, 1]

    return _bootstrap(pairs, ratio)


def line(x: Sequence[float], y: Sequence[float]) -> Line:
    """Fit a line to the medians of `y` at each distinct `x`; the spread is of resamples within."""
    places = np.unique(x)
    groups = [np.array(y, float)[np.array(x) == place] for place in places]
    design = np.stack([np.ones_like(places), places], axis=1)
    solve = np.linalg.pinv(design)  # [2, places]
    chance = np.random.default_rng(SEED)
    medians = np.stack(
        [np.median(chance.choice(group, (RESAMPLES, len(group))), axis=1) for group in groups]
    )  # [places, RESAMPLES]
    resampled = solve @ medians
    fitted = solve @ np.array([np.median(group) for group in groups])
    intercept, slope = (
        Spread(float(value), *_interval(drawn), len(y))
        for value, drawn in zip(fitted, resampled, strict=True)
    )
    return Line(intercept, slope)


def rounds(parties: Sequence[T], number: int) -> Iterator[list[T]]:
    """Give everybody a turn in every round; each round begins with another one."""
    for start in range(number):
        first = start % len(parties)
        yield [*parties[first:], *parties[:first]]


def _bootstrap(values: Numbers, figure: Callable[[Numbers], Numbers]) -> Spread:
    drawn = np.random.default_rng(SEED).choice(values, (RESAMPLES, len(values)))
    (value,) = figure(values[np.newaxis])
    return Spread(float(value), *_interval(figure(drawn)), len(values))


def _interval(drawn: Numbers) -> tuple[float, float]:
    low, high = np.percentile(drawn, (LOW, HIGH))
    return float(low), float(high)
