"""Whatever is sent, however often and in whatever order: both stores count the same, and once."""

import asyncio
import itertools
import time
from collections import Counter as Multiset

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollout.feed import Feed
from rollout.minutes import Horizon
from rollout.snapshot import (
    Batch,
    Cell,
    Counter,
    LabelOutcome,
    Observation,
    Pending,
    Role,
    Sample,
    Vectors,
)
from rollout.store.memory import MemoryStore
from rollout.store.redis import RedisStore

WINDOW_S = 3600.0
STAGES = ("ab-25", "ab-50")
STRATA = ("101-200", ">500")
roles = st.sampled_from(["incumbent", "candidate"])
ago = st.integers(0, 90)
keys = st.sampled_from(["k1", "k2", "k3"])
counters = st.one_of(
    st.builds(Counter.assigned, roles),
    st.builds(Counter.pair_error, st.booleans(), st.booleans()),
    st.builds(Counter.over, roles, st.just("budget")),
)
tops = st.dictionaries(roles, st.sampled_from([(1, 2), (3, 1), (9, 9, 9, 9, 9, 1)]), min_size=1)
_names = itertools.count()


def cells(minute: int) -> st.SearchStrategy[Cell]:
    return st.builds(
        lambda stage, before, stratum: Cell("r1", 1, stage, minute - before, stratum),
        st.sampled_from(STAGES), ago, st.sampled_from(STRATA),
    )  # fmt: skip


def awaited(now: float) -> st.SearchStrategy[Pending]:
    """Requests of the last 50 minutes, which get their names later."""

    def of(
        before: int, stage: str, role: Role, top: dict[Role, tuple[int, ...]], key: str
    ) -> Pending:
        at = now - 60 * before
        return Pending(
            request_id="",
            at=at,
            cell=Cell("r1", 1, stage, int(at // 60), STRATA[0]),
            assigned=role,
            top=top,
            label_window_s=WINDOW_S,
            key=key,
        )

    return st.builds(of, st.integers(0, 50), st.sampled_from(STAGES), roles, tops, keys)


def observations(minute: int) -> st.SearchStrategy[Observation]:
    metric = st.sampled_from(["request", "pair"])
    names = st.lists(counters, min_size=1, max_size=3, unique=True).map(tuple)
    return st.builds(Observation, cells(minute), metric, keys, names)


def kept(one: Pending) -> Vectors:
    """Keep vectors; a slice of time is 20 minutes here, so that requests compete for it."""
    assert one.cell is not None
    return Vectors(one.request_id, one.at, one.cell, 500 * 1200.0, b"i", b"c", one.key)


def sample(one: Pending, cosine: float) -> Sample:
    assert one.cell is not None
    return Sample(
        request_id=one.request_id, rollout="r1", stage=one.cell.stage, at=one.at, length=150,
        cosine=cosine, overlap10=0.5, rbo=0.5, latency_ms={}, top={},
    )  # fmt: skip


@st.composite
def histories(draw: st.DrawFn) -> tuple[float, list[Batch | tuple[str, int]]]:
    """Draw batches, each sent once or more, also late; and labels in between."""
    now = time.time()
    minute = int(now // 60)
    names = (f"q{number}" for number in itertools.count())
    cosines = st.sampled_from([None, 0.1, 0.2])
    batches = [
        Batch(
            draw(st.sampled_from(["b1", "b2"])),
            sequence,
            draw(
                st.dictionaries(
                    cells(minute), st.dictionaries(counters, st.integers(1, 5)), max_size=3
                )
            ),
            pending=(
                pending := tuple(
                    one._replace(request_id=next(names))
                    for one in draw(st.lists(awaited(now), max_size=3))
                )
            ),
            observations=tuple(draw(st.lists(observations(minute), max_size=3))),
            vectors=tuple(kept(one) for one in pending if draw(st.booleans())),
            samples=tuple(sample(one, at) for one in pending if (at := draw(cosines)) is not None),
        )
        for sequence in range(1, draw(st.integers(1, 5)) + 1)
    ]
    told: list[Batch | tuple[str, int]] = []
    for place, batch in enumerate(batches):
        told.append(batch)
        told += draw(st.lists(st.sampled_from(batches[: place + 1]), max_size=2))
        labels = st.tuples(st.integers(0, 6).map(lambda n: f"q{n}"), st.sampled_from([1, 3]))
        told += draw(st.lists(labels, max_size=3))
    return now, told


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(histories())
def test_both_stores_count_the_same_and_what_is_sent_again_counts_no_more(
    valkey_url: str, history: tuple[float, list[Batch | tuple[str, int]]]
) -> None:
    asyncio.run(_compare(valkey_url, *history))


async def _compare(url: str, now: float, told: list[Batch | tuple[str, int]]) -> None:
    namespace = f"n{next(_names)}"
    feed = Feed(url, namespace=namespace, timeout_s=10)
    store, memory = RedisStore(url, namespace=namespace), MemoryStore(lambda: now)
    counted: set[tuple[str, int]] = set()
    plain: Multiset[tuple[str, str]] = Multiset()
    try:
        for one in told:
            if isinstance(one, Batch):
                new = await feed.flush(one)
                assert new == memory.flush(one)
                assert not (new and (one.boot, one.sequence) in counted)
                counted.add((one.boot, one.sequence))
                for cell, by_name in one.counts.items() if new else ():
                    plain.update({(cell.stage, name): by for name, by in by_name.items()})
            else:
                outcome: LabelOutcome = await feed.label(*one)
                assert outcome == memory.label(*one)
                assert await feed.vectors(one[0]) == memory.vectors(one[0])
        for later in (0.0, 1800.0, 7200.0):
            horizon = Horizon(now + later, 60, WINDOW_S)
            seen = await store.observations("r1", 1, STAGES, samples=50, horizon=horizon)
            held = await memory.observations("r1", 1, STAGES, samples=50, horizon=horizon)
            assert (seen.samples, seen.truths) == (held.samples, held.truths)
            for stage in STAGES:
                assert seen.stage(stage) == held.stage(stage)
        for stage in STAGES:
            whole = seen.stage(stage)
            assert whole.counts + whole.labels == whole.total  # all is old enough by now
            total = whole.total.total
            assert {name: total[name] for at, name in plain if at == stage} == {
                name: by for (at, name), by in plain.items() if at == stage
            }
            # Three keys, and two metrics whose counters have the same names here.
            assert all(by <= 6 for name, by in total.items() if name.startswith("first."))
            assert total.get("first.pair.due", 0) <= 3
    finally:
        await feed.close()
        await store.close()
