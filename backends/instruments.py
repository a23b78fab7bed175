"""A histogram for what is observed several times in every request.

prometheus_client's own takes a lock for each of its numbers, and looks its children up by a lock as
well: 2 us an observation, where a server of one event loop needs none. This one counts in plain
numbers and is a collector: it writes the samples that the library's would, when it is asked.
"""

import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString


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


class Histogram:
    """Series by the values of their labels, in their order. Used on one event loop."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = tuple(labels)
        self._bounds = tuple(buckets)
        self._series: dict[tuple[str, ...], Series] = {}
        if not labels:
            self.labels()  # it is there from the beginning
        registry.register(self)

    def labels(self, *values: str) -> Series:
        """Find a series, or begin it. Raises ValueError for another number of labels."""
        found = self._series.get(values)
        if found is None:
            if len(values) != len(self._labels):
                raise ValueError(f"{self._name} has the labels {', '.join(self._labels)}")
            found = self._series[values] = Series(self._bounds)
        return found

    def describe(self) -> Iterator[Metric]:
        """Name the family, for the registry."""
        yield Metric(self._name, self._documentation, "histogram")

    def collect(self) -> Iterator[Metric]:
        """Write all series as prometheus_client's histogram does."""
        metric = Metric(self._name, self._documentation, "histogram")
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        for values, series in list(self._series.items()):
            labels = dict(zip(self._labels, map(str, values), strict=True))
            for bound, count in zip(bounds, accumulate(series.counts), strict=True):
                metric.add_sample(f"{self._name}_bucket", {**labels, "le": bound}, count)
            metric.add_sample(f"{self._name}_count", labels, sum(series.counts))
            metric.add_sample(f"{self._name}_sum", labels, series.total)
            metric.add_sample(f"{self._name}_created", labels, series.born)
        yield metric
