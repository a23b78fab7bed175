"""A store that comes up empty: what gateways have applied is obeyed, and taken back in one step."""

import pytest

from rollout.controller import Controller
from rollout.errors import MemoryLost
from rollout.orders import Order
from rollout.plan import DEFAULT_PLAN
from rollout.snapshot import DEFAULT_TIERS, Heartbeat, Snapshot
from rollout.store.memory import MemoryStore

ORDER = Order(actor="ann", reason="a test")


def beat(applied: Snapshot) -> Heartbeat:
    return Heartbeat(
        boot="g", at=1000.0, epoch=applied.epoch, version=applied.version, held=False,
        applied=applied,
    )  # fmt: skip


async def began() -> tuple[MemoryStore, Controller, Snapshot]:
    """Start a rollout over an empty store; also return what gateways are told of it."""
    store = MemoryStore(lambda: 1000.0)
    controller = Controller(store, DEFAULT_TIERS)
    await controller.start(DEFAULT_PLAN, ORDER)
    snapshot = (await store.load()).snapshot
    assert snapshot is not None
    return store, controller, snapshot


async def test_an_empty_store_refuses_all_but_an_abort_which_every_gateway_obeys() -> None:
    _, _, applied = await began()
    store = MemoryStore(lambda: 1000.0)
    controller = Controller(store, DEFAULT_TIERS)
    store.beat(beat(applied))
    assert "it is empty, and a gateway has applied 1.1" in str(
        (await controller.status()).store_lost
    )
    with pytest.raises(MemoryLost, match=r"abort.* brings every gateway back to 0 % first"):
        await controller.start(DEFAULT_PLAN, ORDER)
    aborted = await controller.abort("current", ORDER)
    after = (await store.load()).snapshot
    assert after is not None
    assert (aborted.version, after.rollout, after.tiers) == ("2.1", None, DEFAULT_TIERS)
    assert after.position > applied.position


async def test_a_store_that_came_as_far_again_before_a_gateway_was_heard_of_is_known_as_lost() -> (
    None
):
    _, _, applied = await began()
    store, controller, other = await began()  # the store that came up empty, and was acted on
    assert (other.position, other == applied) == (applied.position, False)
    store.beat(beat(other))
    assert (await controller.status()).store_lost is None
    store.beat(beat(applied))
    lost = (await controller.status()).store_lost
    assert lost == (
        "the store lost its memory: it stands at 1.1, "
        "and a gateway has applied something else at 1.1"
    )
    with pytest.raises(MemoryLost):
        await controller.pause("current", ORDER)
    assert (await controller.abort("current", ORDER)).version == "2.1"
    assert (await controller.status()).store_lost is None
