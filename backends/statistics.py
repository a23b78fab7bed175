"""Counts and times of inference requests, in the shape of Triton's statistics extension.

Each request is counted once, by the HTTP edge: as a success or as a failure, with its whole stay
(nanoseconds). The parts of a stay are tallies of their own: reading the request (`compute_input`),
waiting (`queue`), the model (`compute_infer`) and writing the answer (`compute_output`).

Belongs to one event loop.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from prometheus_client.metrics_core import Metric

from backends.protocol import MODEL

SECOND_NS = 1_000_000_000


@dataclass(slots=True)
class Tally:
    """How often something was done, and how many nanoseconds it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """Count one more."""
        self.count += 1
        self.ns += ns

    @property
    def document(self) -> dict[str, int]:
        """The tally as Triton writes it."""
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class Statistics:
    """What the HTTP edge counts."""

    success: Tally = field(default_factory=Tally)
    fail: Tally = field(default_factory=Tally)
    reading: Tally = field(default_factory=Tally)
    writing: Tally = field(default_factory=Tally)
    last_ms: int = 0
    """Unix milliseconds of the last answer."""

    def succeeded(self, ns: int) -> None:
        """Count an answered request and its whole stay."""
        self.success.add(ns)
        self.last_ms = time.time_ns() // 1_000_000

    def failed(self, ns: int) -> None:
        """Count a request that was refused, or failed, and its whole stay."""
        self.fail.add(ns)

    def document(
        self, version: str, *, queue: Tally, compute: Tally, batches: Mapping[int, Tally]
    ) -> dict[str, Any]:
        """Write everything for `GET /v2/models/lvm/stats`.

        `queue` and `compute` are per request; `batches` are the model's runs, by their size.
        """
        none = Tally().document
        parts = {
            "compute_input": self.reading.document,
            "compute_infer": compute.document,
            "compute_output": self.writing.document,
        }
        return {
            "model_stats": [
                {
                    "name": MODEL,
                    "version": version,
                    "last_inference": self.last_ms,
                    "inference_count": self.success.count,
                    "execution_count": sum(run.count for run in batches.values()),
                    "inference_stats": {
                        "success": self.success.document,
                        "fail": self.fail.document,
                        "queue": queue.document,
                        **parts,
                        "cache_hit": none,
                        "cache_miss": none,
                    },
                    "batch_stats": [
                        {
                            "batch_size": size,
                            "compute_input": none,
                            "compute_infer": run.document,
                            "compute_output": none,
                        }
                        for size, run in sorted(batches.items())
                    ],
                    "memory_usage": [],
                }
            ]
        }


class Histogram(Protocol):
    """A histogram that can be read."""

    def collect(self) -> Iterable[Metric]:
        """Give its samples."""


def totals(histogram: Histogram) -> Tally:
    """Add up what a histogram of seconds has observed, over all of its labels."""
    tally = Tally()
    for metric in histogram.collect():
        for sample in metric.samples:
            if sample.name.endswith("_count"):
                tally.count += int(sample.value)
            elif sample.name.endswith("_sum"):
                tally.ns += int(sample.value * SECOND_NS)
    return tally
