"""The tests of the judge: one hypothesis each, as a function of a few integers. Pure.

A `Bet` wins when its hypothesis is wrong: its e-value grows. Each kind of figure has two, one that
certifies that the candidate is good enough (what a gate requires) and one that proves that it is
not (what the guard weighs). `above` tells them apart: whether the bet is that the figure lies above
its border. Between the two lies what is not known yet.

Which formula for what is the table of the judge's statistics: shares P1, differences P2.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Protocol

from rollout.judging import bounded
from rollout.judging.evidence import ln_e_minus, ln_e_plus
from rollout.judging.sequences import share_growth, share_interval
from rollout.verdict import Per, Unit

ALPHA_SHOWN: Final = 0.05
"""Intervals that are shown are 95 % confidence sequences."""
Interval = tuple[float, float]
_CACHED: Final = 8192
_BIN: Final = 0.01


class Bet(Protocol):
    """A test of one hypothesis."""

    @property
    def names(self) -> tuple[str, ...]:
        """What each of its counts is."""

    @property
    def rule(self) -> str:
        """The test and its hypothesis in words."""

    @property
    def goal(self) -> str:
        """What is to be shown, in words."""

    @property
    def told(self) -> Unit:
        """The figure's unit: %, points, or nothing."""

    @property
    def per(self) -> Per:
        """What `size` counts."""

    @property
    def opposite(self) -> "Bet":
        """The bet that the figure lies on the other side of its border."""

    def ln_e(self, counts: tuple[int, ...]) -> float:
        """Give ln of the e-value against the hypothesis."""

    def size(self, counts: tuple[int, ...]) -> int:
        """Give the number of observations."""

    def growth(self, counts: tuple[int, ...]) -> float:
        """Give what one more observation like those so far adds to ln E; 0 where it does not."""

    def estimate(self, counts: tuple[int, ...]) -> float | None:
        """Give the figure that was observed, in its unit; None without observations."""

    def interval(self, counts: tuple[int, ...]) -> Interval | None:
        """Give a 95 % confidence sequence of that figure, in its unit."""

    def said(self, counts: tuple[int, ...]) -> str:
        """Write the counts in words."""


@lru_cache(_CACHED)
def _p1(successes: int, failures: int, threshold: float, above: bool) -> float:
    if above:
        return ln_e_plus(successes, failures, threshold)
    return ln_e_minus(successes, failures, threshold)


@dataclass(frozen=True, slots=True)
class Share:
    """A share against a limit. Counts: (yes, no)."""

    limit: float
    above: bool
    names: tuple[str, str]
    what: str
    t_opt: float
    per: Per = "requests"
    told: Unit = "%"

    @property
    def rule(self) -> str:
        side, sign = ("most", "E+") if self.above else ("least", "E-")
        return f"P1 {sign}: H0 says that {self.what} is at {side} {100 * self.limit:.4g} %"

    @property
    def goal(self) -> str:
        return f"{self.what} {'above' if self.above else 'below'} {100 * self.limit:.4g} %"

    @property
    def opposite(self) -> "Share":
        return replace(self, above=not self.above)

    def ln_e(self, counts: tuple[int, ...]) -> float:
        return _p1(counts[0], counts[1], self.limit, self.above)

    def size(self, counts: tuple[int, ...]) -> int:
        return counts[0] + counts[1]

    def growth(self, counts: tuple[int, ...]) -> float:
        return share_growth(counts[0], counts[1], self.limit, above=self.above)

    def estimate(self, counts: tuple[int, ...]) -> float | None:
        n = self.size(counts)
        return 100 * counts[0] / n if n else None

    def said(self, counts: tuple[int, ...]) -> str:
        return _said(self.names, counts)

    def interval(self, counts: tuple[int, ...]) -> Interval | None:
        n = self.size(counts)
        return _percent(share_interval(counts[0], n, self.t_opt, ALPHA_SHOWN)) if n else None


@dataclass(frozen=True, slots=True)
class Events:
    """Bad events of the candidate among those of both arms. Counts: (candidate, incumbent, rest).

    `share` is the part of the requests (or, among discordant pairs, of the pairs) that would be the
    candidate's with equal rates; `ratio` times the incumbent's rate is the border.
    """

    share: float
    ratio: float
    above: bool
    names: tuple[str, str, str]
    what: str
    t_opt: float
    per: Per = "requests"
    told: Unit = "%"

    @property
    def border(self) -> float:
        """The candidate's part of the events at `ratio`: pi r / (pi r + 1 - pi)."""
        return self.share * self.ratio / (self.share * self.ratio + 1 - self.share)

    @property
    def rule(self) -> str:
        side, sign = ("most", "E+") if self.above else ("least", "E-")
        times = "as many" if self.ratio == 1 else f"{self.ratio:g} times as many"
        return (
            f"P1 {sign}: H0 says that the candidate has at {side} {times} {self.what} as the "
            f"incumbent (a part of {100 * self.border:.4g} %)"
        )

    @property
    def goal(self) -> str:
        times = "" if self.ratio == 1 else f"{self.ratio:g} times "
        return f"{'more' if self.above else 'less'} than {times}the incumbent's {self.what}"

    @property
    def opposite(self) -> "Events":
        return replace(self, above=not self.above)

    def ln_e(self, counts: tuple[int, ...]) -> float:
        return _p1(counts[0], counts[1], self.border, self.above)

    def size(self, counts: tuple[int, ...]) -> int:
        return sum(counts)

    def growth(self, counts: tuple[int, ...]) -> float:
        events = counts[0] + counts[1]
        grown = share_growth(counts[0], counts[1], self.border, above=self.above)
        return grown * events / self.size(counts) if events else 0.0

    def estimate(self, counts: tuple[int, ...]) -> float | None:
        events = counts[0] + counts[1]
        return 100 * counts[0] / events if events else None

    def said(self, counts: tuple[int, ...]) -> str:
        return _said(self.names, counts)

    def interval(self, counts: tuple[int, ...]) -> Interval | None:
        events = counts[0] + counts[1]
        if not events:
            return None
        return _percent(share_interval(counts[0], events, self.t_opt, ALPHA_SHOWN))


class _Scored(ABC):
    """Bets on the mean of a score of few values against -margin: P2, either way."""

    __slots__ = ()
    margin: float
    above: bool
    names: tuple[str, ...]
    what: str

    @property
    @abstractmethod
    def values(self) -> tuple[float, ...]:
        """The score that each of the counts stands for."""

    @property
    def goal(self) -> str:
        side = "less" if self.above else "more"
        return f"{side} than {100 * self.margin:.4g} points worse in {self.what}"

    def ln_e(self, counts: tuple[int, ...]) -> float:
        return bounded.ln_e_mean_above(self._signed, counts, self._border, min(self._signed))

    def size(self, counts: tuple[int, ...]) -> int:
        return sum(counts)

    def growth(self, counts: tuple[int, ...]) -> float:
        return bounded.growth_above(self._signed, counts, self._border, min(self._signed))

    def said(self, counts: tuple[int, ...]) -> str:
        return _said(self.names, counts)

    def interval(self, counts: tuple[int, ...]) -> Interval | None:
        if not sum(counts):
            return None
        values = self.values
        return _percent(
            bounded.mean_interval(values, counts, min(values), max(values), ALPHA_SHOWN)
        )

    @property
    def _border(self) -> float:
        return -self.margin if self.above else self.margin

    @property
    def _signed(self) -> tuple[float, ...]:
        values = self.values
        return values if self.above else tuple(-value for value in values)

    @property
    def _side(self) -> str:
        return "at least" if self.above else "at most"


@dataclass(frozen=True, slots=True)
class Difference(_Scored):
    """The mean of D in {1, -1, 0} over pairs against -margin. Counts: (better, worse, alike)."""

    margin: float
    above: bool
    names: tuple[str, str, str]
    what: str
    per: Per = "pairs"
    told: Unit = "points"

    @property
    def rule(self) -> str:
        return (
            f"P2 on pairs: H0 says that the candidate is {self._side} {100 * self.margin:.4g} "
            f"points worse in {self.what}"
        )

    @property
    def values(self) -> tuple[float, float, float]:
        """D."""
        return 1.0, -1.0, 0.0

    @property
    def opposite(self) -> "Difference":
        return replace(self, above=not self.above)

    def estimate(self, counts: tuple[int, ...]) -> float | None:
        n = sum(counts)
        return 100 * (counts[0] - counts[1]) / n if n else None


@dataclass(frozen=True, slots=True)
class SplitDifference(_Scored):
    """The difference of two arms' shares against -margin, from an A/B split.

    Counts: (candidate yes, candidate no, incumbent yes, incumbent no). The score is
    (Y - m)(A/pi - (1-A)/(1-pi)) with the centre m fixed beforehand; its mean is the difference.
    """

    pi: float
    centre: float
    margin: float
    above: bool
    names: tuple[str, str, str, str]
    what: str
    per: Per = "labelled requests"
    told: Unit = "points"

    @property
    def rule(self) -> str:
        return (
            f"P2 on the split ({100 * self.pi:g} %, centred at {self.centre:g}): H0 says that the "
            f"candidate is {self._side} {100 * self.margin:.4g} points worse in {self.what}"
        )

    @property
    def values(self) -> tuple[float, float, float, float]:
        """The score in each of the four cells."""
        yes, no = 1 - self.centre, -self.centre
        return yes / self.pi, no / self.pi, -yes / (1 - self.pi), -no / (1 - self.pi)

    @property
    def opposite(self) -> "SplitDifference":
        return replace(self, above=not self.above)

    def estimate(self, counts: tuple[int, ...]) -> float | None:
        arms = counts[0] + counts[1], counts[2] + counts[3]
        return 100 * (counts[0] / arms[0] - counts[2] / arms[1]) if all(arms) else None


@dataclass(frozen=True, slots=True)
class Floor:
    """The mean of a score in [-1, 1], in bins of a hundredth, against a floor.

    Counts: one for each of `bins`, which are rounded down, against what is to be shown.
    """

    floor: float
    above: bool
    bins: tuple[int, ...]
    what: str
    per: Per = "pairs"
    told: Unit = ""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{self.what} {bin_ * _BIN:.2f}" for bin_ in self.bins)

    @property
    def rule(self) -> str:
        side = "most" if self.above else "least"
        return f"P2: H0 says that the mean {self.what} is at {side} {self.floor:g}"

    @property
    def goal(self) -> str:
        return f"a mean {self.what} {'above' if self.above else 'below'} {self.floor:g}"

    @property
    def opposite(self) -> "Floor":
        return replace(self, above=not self.above)

    def ln_e(self, counts: tuple[int, ...]) -> float:
        if self.above:
            return bounded.ln_e_mean_above(self._values, counts, self.floor, self._low)
        ends = tuple(value + _BIN for value in self._values)
        return bounded.ln_e_mean_below(ends, counts, self.floor, 1.0 + _BIN)

    def size(self, counts: tuple[int, ...]) -> int:
        return sum(counts)

    def growth(self, counts: tuple[int, ...]) -> float:
        if not self.above:
            return 0.0
        return bounded.growth_above(self._values, counts, self.floor, self._low)

    def estimate(self, counts: tuple[int, ...]) -> float | None:
        n = sum(counts)
        total = sum(bin_ * count for bin_, count in zip(self.bins, counts, strict=True))
        return _BIN * total / n if n else None

    def said(self, counts: tuple[int, ...]) -> str:
        return f"{sum(counts)} {self.per}"

    def interval(self, counts: tuple[int, ...]) -> Interval | None:
        if not sum(counts):
            return None
        low, high = bounded.mean_interval(self._values, counts, self._low, 1.0, ALPHA_SHOWN)
        return low, min(1.0, high + _BIN)

    @property
    def _low(self) -> float:
        return 0.0 if self.what.startswith("overlap") and self.floor > 0 else -1.0

    @property
    def _values(self) -> tuple[float, ...]:
        return tuple(bin_ * _BIN for bin_ in self.bins)


def named(bet: Bet, counts: tuple[int, ...]) -> dict[str, int]:
    """Give the counts of a bet by name."""
    return dict(zip(bet.names, counts, strict=True))


def _said(names: tuple[str, ...], counts: tuple[int, ...]) -> str:
    """Write counts by their names: `25 candidate failed, 475 candidate fine`."""
    pairs = zip(counts, names, strict=True)
    return ", ".join(f"{count} {name.replace('_', ' ')}" for count, name in pairs)


def _percent(interval: Interval) -> Interval:
    return 100 * interval[0], 100 * interval[1]
