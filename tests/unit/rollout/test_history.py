"""What a report is made of: which samples, and the looks that stages were left on."""

import pytest

from rollout.controller import Controller
from rollout.orders import Order
from rollout.plan import DEFAULT_PLAN, Plan
from rollout.snapshot import DEFAULT_TIERS, Batch, Cell, Counter, Sample, warm_up
from rollout.store.memory import MemoryStore

ORDER = Order(reason="a test")
OPEN = Plan.model_validate(
    DEFAULT_PLAN.model_dump()
    | {
        "stages": [
            stage.model_dump()
            | {"min_duration_s": 0, "min_requests": 10, "min_pairs": 0, "require": []}
            for stage in DEFAULT_PLAN.stages
        ]
    }
)


def sampled(rollout: str, stage: str, name: str, *, cosine: float, overlap: float) -> Sample:
    return Sample(
        request_id=name, rollout=rollout, stage=stage, at=1.0, length=120, cosine=cosine,
        overlap10=overlap, rbo=0.5, latency_ms={}, top={},
    )  # fmt: skip


class World:
    """One controller over a store in memory, in the first stage of a plan."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.store = MemoryStore(lambda: self.now)
        self.controller = Controller(self.store, DEFAULT_TIERS)

    async def begin(self, *samples: tuple[str, str, float, float]) -> str:
        rollout = (await self.controller.start(OPEN, ORDER)).rollout
        kept = tuple(sampled(rollout, where, name, cosine=cosine, overlap=overlap)
                     for where, name, cosine, overlap in samples)  # fmt: skip
        cell = Cell(rollout, 1, "shadow-5", 1, "101-200")
        self.store.flush(Batch("b", 1, {cell: {Counter.assigned("incumbent"): 12}}, kept))
        return rollout


@pytest.fixture
def world() -> World:
    return World()


async def test_samples_of_the_warm_up_are_not_reported(world: World) -> None:
    early = warm_up("shadow-5")
    rollout = await world.begin(("shadow-5", "counted", 0.9, 0.5), (early, "early", 0.1, 0.1))
    found = (await world.controller.history(rollout)).observations.samples
    assert [one.request_id for one in found] == ["counted"]


async def test_a_store_keeps_the_samples_of_which_the_arms_named_the_fewest_ids_in_common(
    world: World,
) -> None:
    alike = [("shadow-5", f"alike-{n}", -1.0, 1.0) for n in range(60)]
    apart = [("shadow-5", "apart", 1.0, 0.9), ("shadow-5", "further", 0.99, 0.9)]
    rollout = await world.begin(*alike, *apart)
    found = (await world.controller.history(rollout)).observations.samples
    assert [one.request_id for one in found][:3] == ["further", "apart", "alike-0"]
    assert len(found) == 50


@pytest.mark.parametrize("verb", ["advance", "promote"])
async def test_the_look_that_a_person_left_a_stage_on_is_kept(world: World, verb: str) -> None:
    rollout = await world.begin()
    world.now += 5
    done = await getattr(world.controller, verb)("current", ORDER)
    assert done.stage == "ab-25"
    (look,) = (await world.controller.history(rollout)).trace
    assert (look.stage, look.at, look.gate, look.requests) == ("shadow-5", 1005.0, "PASS", 12)


async def test_a_command_that_was_only_tried_leaves_no_look(world: World) -> None:
    rollout = await world.begin()
    await world.controller.advance("current", ORDER.model_copy(update={"dry_run": True}))
    assert (await world.controller.history(rollout)).trace == ()
