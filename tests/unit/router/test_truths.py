"""Whatever becomes of a comparison with a truth, it becomes nothing else."""

import asyncio
from typing import Any, cast

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from backends.protocol import Floats
from rollout.feed import FeedUnavailable
from rollout.snapshot import DEFAULT_TIERS, Cell, Vectors
from router.errors import RefusedError, UpstreamTimeoutError
from router.metrics import Metrics
from router.truths import MAX_WAITING, Truths

TRUTH = np.eye(1, 768, dtype=np.float32)[0]
HALF = TRUTH.astype("<f2").tobytes()
KEPT = Vectors("q1", 1.0, Cell("r1", 1, "ab-25", 0, ">500"), 60.0, HALF, HALF)


class World:
    """The store, the model server and the counts, as far as they matter here."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.kept: dict[str, Vectors | Exception] = {}
        self.bank: dict[int, Floats | Exception] = {}
        self.asked: list[str] = []
        self.counted: list[Vectors] = []
        self.active_arms = [tier.arm for tier in DEFAULT_TIERS if tier.active]
        fake = cast("Any", self)
        self.truths = Truths(fake, fake, fake, fake, Metrics(self.registry))

    async def vectors(self, name: str) -> Vectors | None:
        found = self.kept.get(name)
        if isinstance(found, Exception):
            raise found
        return found

    async def vector(self, arm: str, id_: int) -> Floats | None:
        self.asked.append(arm)
        found = self.bank.get(id_)
        if isinstance(found, Exception):
            raise found
        return found

    def truth(self, vectors: Vectors, truth: Floats) -> None:
        assert truth is TRUTH
        self.counted.append(vectors)

    def noted(self, outcome: str) -> float:
        return self.registry.get_sample_value("gateway_truths_total", {"outcome": outcome}) or 0.0

    async def settle(self, *offers: tuple[str, int]) -> None:
        for offer in offers:
            self.truths.offer(*offer)
        running = asyncio.create_task(self.truths.run())
        while sum(map(self.noted, ("compared", "gone", "unknown", "failed"))) < len(offers):
            assert not running.done()
            await asyncio.sleep(0)
        running.cancel()


async def test_a_truth_is_compared_with_the_vectors_that_were_kept() -> None:
    world = World()
    world.kept["q1"], world.bank[7] = KEPT, TRUTH
    await world.settle(("q1", 7))
    assert (world.counted, world.asked, world.noted("compared")) == ([KEPT], ["phase1"], 1)


@pytest.mark.parametrize(
    ("kept", "truth", "outcome"),
    [
        (None, TRUTH, "gone"),
        (KEPT, None, "unknown"),
        (FeedUnavailable("away"), TRUTH, "failed"),
        (KEPT, UpstreamTimeoutError("late"), "failed"),
        (KEPT, RefusedError("an older server", 404), "failed"),
        (KEPT, RuntimeError("a fault of ours"), "failed"),
    ],
)
async def test_what_cannot_be_compared_is_left_out_and_the_next_one_is_compared(
    kept: Any, truth: Any, outcome: str
) -> None:
    world = World()
    world.kept |= {"broken": kept, "q1": KEPT}
    world.bank |= {7: TRUTH, 8: truth}
    await world.settle(("broken", 8), ("q1", 7))
    assert (world.noted(outcome), world.noted("compared"), world.counted) == (1, 1, [KEPT])


async def test_no_more_wait_than_there_is_room_for() -> None:
    world = World()
    for number in range(MAX_WAITING + 3):
        world.truths.offer(f"q{number}", 7)
    assert world.noted("dropped") == 3
