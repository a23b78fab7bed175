"""A histogram and a counter for what is counted in every request, or several times in it.

prometheus_client's own take a lock for each of their numbers, and look their children up by a lock
as well: 2 us an observation, where a server of one event loop needs none. These count in plain
numbers and are collectors: they write the samples that the library's would, when they are asked.
"""

import time
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import ClassVar, Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

S = TypeVar("S")


class Family(ABC, Generic[S]):
    """Series by the values of their labels, in their order. Used on one event loop."""

    kind: ClassVar[str]

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        *,
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = tuple(labels)
        self._series: dict[tuple[str, ...], S] = {}
        if not labels:
            self.labels()  # it is there from the beginning
        registry.register(self)

    def labels(self, *values: str) -> S:
        """Find a series, or begin it. Raises ValueError for another number of labels."""
        found = self._series.get(values)
        if found is None:
            if len(values) != len(self._labels):
                raise ValueError(f"{self._name} has the labels {', '.join(self._labels)}")
            found = self._series[values] = self._begin()
        return found

    def describe(self) -> Iterator[Metric]:
        """Name the family, for the registry."""
        yield Metric(self._name, self._documentation, self.kind)

    def collect(self) -> Iterator[Metric]:
        """Write all series as prometheus_client's own does."""
        metric = Metric(self._name, self._documentation, self.kind)
        for values, series in list(self._series.items()):
            labels = dict(zip(self._labels, map(str, values), strict=True))
            for suffix, more, value in self._samples(series):
                metric.add_sample(f"{self._name}{suffix}", {**labels, **more}, value)
        yield metric

    @abstractmethod
    def _begin(self) -> S:
        """Make a series that has seen nothing."""

    @abstractmethod
    def _samples(self, series: S) -> Iterator[tuple[str, dict[str, str], float]]:
        """Give a series' samples: what follows the name, the labels besides its own, the value."""


class Count:
    """One series of a counter."""

    __slots__ = ("born", "value")

    def __init__(self) -> None:
        self.value = 0
        self.born = time.time()

    def inc(self) -> None:
        """Count one more."""
        self.value += 1


class Counter(Family[Count]):
    """Counts by label. Its name is without `_total`."""

    kind = "counter"

    def _begin(self) -> Count:
        return Count()

    def _samples(self, series: Count) -> Iterator[tuple[str, dict[str, str], float]]:
        yield "_total", {}, series.value
        yield "_created", {}, series.born


class Series:
    """One series of a histogram."""

    __slots__ = ("_bounds", "born", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Observations by bucket, each counted once; the last has no bound."""
        self.total = 0.0
        self.born = time.time()

    def observe(self, amount: float) -> None:
        """Count an amount in the first bucket whose bound it does not exceed."""
        self.counts[bisect_left(self._bounds, amount)] += 1
        self.total += amount


class Histogram(Family[Series]):
    """Observations by label and bucket."""

    kind = "histogram"

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._bounds = tuple(buckets)
        super().__init__(name, documentation, labels, registry=registry)

    def _begin(self) -> Series:
        return Series(self._bounds)

    def _samples(self, series: Series) -> Iterator[tuple[str, dict[str, str], float]]:
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        for bound, count in zip(bounds, accumulate(series.counts), strict=True):
            yield "_bucket", {"le": bound}, count
        yield "_count", {}, sum(series.counts)
        yield "_sum", {}, series.total
        yield "_created", {}, series.born
