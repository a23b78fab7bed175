"""When a gateway's reports go to the store."""

import asyncio
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from rollout.feed import Feed, FeedUnavailable
from rollout.snapshot import Batch, Pending
from router.metrics import Metrics
from router.observe import Observer
from router.spool import PENDING_PER_BATCH


class Store(Feed):
    """Takes batches; `meanwhile` is called while one is on its way, and `fails` says whether."""

    def __init__(self) -> None:
        super().__init__("redis://127.0.0.1:1")
        self.taken: list[Batch] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.fails = False

    async def flush(self, batch: Batch) -> bool:
        self.meanwhile()
        if self.fails:
            raise FeedUnavailable("gone")
        self.taken.append(batch)
        return True

    def took(self) -> list[list[str]]:
        """The names of the pending labels of every batch, and forget them."""
        found = [[one.request_id for one in batch.pending] for batch in self.taken]
        self.taken.clear()
        return found


def pended(observer: Observer, *names: str) -> None:
    for name in names:
        observer.pend(Pending(request_id=name, at=0.0, label_window_s=60.0))


def made() -> tuple[Store, Observer]:
    store = Store()
    return store, Observer(store, Metrics(CollectorRegistry()), boot="b")


def test_what_comes_while_a_batch_is_on_its_way_waits_for_the_next_interval() -> None:
    store, observer = made()
    coming = ["later"]
    store.meanwhile = lambda: pended(observer, *(coming.pop() for _ in coming[:]))
    pended(observer, "now")
    assert asyncio.run(observer.flush())
    assert store.took() == [["now"]]
    assert asyncio.run(observer.flush())
    assert store.took() == [["later"]]


def test_all_that_was_there_goes_in_as_many_batches_as_it_takes() -> None:
    store, observer = made()
    pended(observer, *map(str, range(2 * PENDING_PER_BATCH + 1)))
    assert asyncio.run(observer.flush())
    assert list(map(len, store.took())) == [PENDING_PER_BATCH, PENDING_PER_BATCH, 1]


def test_a_batch_that_failed_goes_again_unchanged_and_then_what_gathered_behind_it() -> None:
    store, observer = made()
    pended(observer, "first")
    store.fails = True
    assert not asyncio.run(observer.flush())
    pended(observer, "second")
    assert observer.behind
    store.fails = False
    assert asyncio.run(observer.flush())
    assert [batch.sequence for batch in store.taken] == [1, 2]
    assert store.took() == [["first"], ["second"]]
    assert not observer.behind
