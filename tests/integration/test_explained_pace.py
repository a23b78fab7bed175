"""What the explanation says of evidence that waits, comes slowly, or has stopped.

A real controller over a store whose clock stands still unless it is moved.
"""

from typing import Final

import pytest
from still_rig import StillRig

from rollout.explanation import Explanation, Missing
from rollout.plan import DEFAULT_PLAN, Plan

WINDOW_S: Final = 300.0
PLAN: Final = Plan.model_validate(
    DEFAULT_PLAN.model_dump(exclude_defaults=True)
    | {
        "label_window_s": WINDOW_S,
        "labels": "closed",
        "stages": [
            {
                "name": "ab-25", "mode": "ab", "weight": 25, "shadow_sample": 50,
                "min_duration_s": 3, "min_requests": 30, "min_pairs": 5,
                "require": ["paired_errors", "errors", "hits", "label_coverage"],
            },
            {"name": "all", "mode": "ab", "weight": 100, "min_duration_s": 3, "min_requests": 30},
        ],
    }
)  # fmt: skip
START: Final = 1_790_000_030.0
"""Ten seconds before a whole minute, so that minutes and the stage do not begin together."""


class Rig(StillRig):
    """A controller in the first stage of a plan, which has settled."""

    def __init__(self) -> None:
        super().__init__(START)

    async def start(self, plan: Plan = PLAN) -> None:
        await super().start(plan)

    async def serve(self, requests: int, labels: int = 0) -> None:
        """Count requests of this minute, a quarter of them the candidate's, half of them paired."""
        counts = {
            "assigned.candidate": requests // 4,
            "assigned.incumbent": requests - requests // 4,
            "mirror.intended": requests // 2,
            "mirror.compared": requests // 2,
            "pair.error.00": requests // 2,
            "due.incumbent": requests - requests // 4,
            "due.candidate": requests // 4,
            "labels.candidate": labels // 4,
            "labels.incumbent": labels - labels // 4,
        }
        await self.flush({"101-200": counts})

    async def explained(self) -> Explanation:
        await self.look()
        seen = await self.controller.explain("current")
        assert seen.verdict is not None
        undecided = [
            check.name
            for check in seen.verdict.checks
            if check.decides and check.kind == "INCONCLUSIVE"
        ]
        # nothing is missing that the judge has, and the judge lacks nothing that is not named
        assert [need.check for need in seen.missing] == undecided
        assert all((need.seconds is None) == (need.outlook != "projected") for need in seen.missing)
        return seen

    async def minutes(self, n: int, requests: int, labels: int = 0) -> None:
        """Serve evenly for some minutes, ten seconds after ten seconds."""
        for place in range(6 * n):
            self.now += 10
            so_far = (requests * (place + 1) // 6 - requests * place // 6) if requests else 0
            truths = (labels * (place + 1) // 6 - labels * place // 6) if labels else 0
            await self.serve(so_far, truths)
            await self.look()


@pytest.fixture
def rig() -> Rig:
    return Rig()


def missing(seen: Explanation) -> dict[str, Missing]:
    return {need.check: need for need in seen.missing}


def told(seen: Explanation) -> dict[str, str]:
    return {notice.name: notice.told for notice in seen.notices}


async def test_what_waits_for_the_watermark_and_the_label_window_is_told(rig: Rig) -> None:
    """40 requests with their labels came, and the judge may read none of them yet."""
    await rig.start()
    rig.now += 62
    minute = rig.now // 60 * 60
    await rig.serve(40, labels=40)
    rig.now += 25
    seen = await rig.explained()
    assert seen.traffic is not None
    assert (seen.traffic.requests, seen.traffic.labels) == (40, 40)
    assert not any(seen.traffic.read.values())
    waiting = seen.traffic.waiting
    assert waiting is not None
    assert (waiting.requests, waiting.requests_until) == (40, minute + 120)
    assert (waiting.labels, waiting.labels_until) == (40, minute + 60 + WINDOW_S)
    assert "40 of 40 requests wait for the watermark of 1 min (until" in told(seen)["waiting"]
    assert "40 of 40 labels wait for their label window of 5 min to close" in told(seen)["waiting"]
    lacks = missing(seen)
    assert lacks["minimum requests"].needed == 30
    assert lacks["minimum requests"].seconds is not None
    assert lacks["minimum requests"].seconds > 60  # the first minute is read after the watermark
    assert lacks["Hit@5"].outlook == "too_early"
    # once all of it can be read, all of it is, and not a second before
    rig.now = minute + 120 - 0.5
    assert not (await rig.explained()).traffic.read["requests"]  # type: ignore[union-attr]
    rig.now = minute + 120
    seen = await rig.explained()
    assert seen.traffic is not None
    assert seen.traffic.read["requests"] == 40
    assert seen.traffic.waiting is not None
    assert seen.traffic.waiting.requests == 0
    assert "minimum requests" not in missing(seen)
    assert "requests wait" not in told(seen)["waiting"]
    rig.now = minute + 60 + WINDOW_S - 0.5
    assert not (await rig.explained()).traffic.read["labelled requests"]  # type: ignore[union-attr]
    rig.now = minute + 60 + WINDOW_S
    seen = await rig.explained()
    assert seen.traffic is not None
    assert seen.traffic.read["labelled requests"] == 40
    assert "waiting" not in told(seen)


async def test_a_young_stage_knows_no_rate_yet(rig: Rig) -> None:
    await rig.start()
    rig.now += 10
    await rig.serve(20)
    seen = await rig.explained()
    assert seen.traffic is not None
    assert seen.traffic.requests_per_s is None
    assert {need.outlook for need in seen.missing} == {"projected", "too_early"} - (
        {"projected"} if "minimum duration" not in missing(seen) else set()
    )
    assert "never" not in " ".join(need.told for need in seen.missing)


async def test_traffic_that_stops_in_mid_stage_is_told_and_nothing_is_promised(rig: Rig) -> None:
    stages = [PLAN.stages[0].model_copy(update={"min_requests": 100_000}), *PLAN.stages[1:]]
    await rig.start(PLAN.model_copy(update={"stages": tuple(stages)}))
    await rig.minutes(20, requests=60)
    seen = await rig.explained()
    assert "traffic_stopped" not in told(seen)
    assert seen.traffic is not None
    assert seen.traffic.requests_per_s == pytest.approx(1, rel=0.15)
    assert missing(seen)["minimum requests"].outlook == "projected"
    rig.now += 100
    assert "traffic_stopped" not in told(await rig.explained())
    rig.now += 80
    assert (
        "no request in scope has come for 2 min" in told(await rig.explained())["traffic_stopped"]
    )
    rig.now += 1200
    seen = await rig.explained()
    assert "traffic_stopped" in told(seen)
    assert seen.traffic is not None
    assert seen.traffic.requests_per_s == 0
    assert missing(seen)["minimum requests"].outlook == "never"
    await rig.minutes(1, requests=60)
    assert "traffic_stopped" not in told(await rig.explained())


async def test_labels_that_stop_in_mid_stage_are_told(rig: Rig) -> None:
    await rig.start()
    await rig.minutes(20, requests=60, labels=30)
    assert "labels_stopped" not in told(await rig.explained())
    await rig.minutes(1, requests=60)
    assert "labels_stopped" not in told(await rig.explained())
    await rig.minutes(4, requests=60)
    found = told(await rig.explained())
    assert "no label has arrived for" in found["labels_stopped"]
    assert "after 600 in this stage" in found["labels_stopped"]
    assert "traffic_stopped" not in found
    await rig.minutes(1, requests=60, labels=30)
    assert "labels_stopped" not in told(await rig.explained())


async def test_truths_that_come_in_bursts_are_no_alarm(rig: Rig) -> None:
    """Silences as long as those before say nothing."""
    await rig.start()
    for _ in range(4):
        await rig.minutes(10, requests=60)
        assert "labels_stopped" not in told(await rig.explained())
        await rig.serve(0, labels=300)
        await rig.look()
