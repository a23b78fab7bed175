"""What a gateway has seen and the store has not."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from rollout.snapshot import KEPT_VECTORS, Cell, Metric, Observation, Pending, Vectors
from router.spool import (
    CELL_BYTES,
    CELLS_PER_BATCH,
    COUNTER_BYTES,
    OBSERVATION_BYTES,
    OBSERVATIONS_PER_BATCH,
    PENDING_BYTES,
    PENDING_PER_BATCH,
    VECTORS_BYTES,
    VECTORS_PER_BATCH,
    Spool,
)


def cell(minute: int) -> Cell:
    return Cell("r", 1, "s", minute, "<=100")


def test_an_empty_spool_makes_no_batch() -> None:
    assert Spool().cut("boot", 1) is None


@given(
    st.lists(
        st.tuples(st.integers(0, 200), st.sampled_from("abc"), st.integers(1, 9)), max_size=300
    )
)
def test_every_count_leaves_in_exactly_one_batch(seen: list[tuple[int, str, int]]) -> None:
    spool = Spool()
    for minute, name, by in seen:
        spool.count(cell(minute), {name: by})
    sums: dict[tuple[Cell, str], int] = {}
    sequence = 0
    while batch := spool.cut("boot", sequence := sequence + 1):
        assert (batch.boot, batch.sequence) == ("boot", sequence)
        assert len(batch.counts) <= CELLS_PER_BATCH
        for where, counts in batch.counts.items():
            for name, by in counts.items():
                assert (where, name) not in sums
                sums[where, name] = by
    expected: dict[tuple[Cell, str], int] = {}
    for minute, name, by in seen:
        expected[cell(minute), name] = expected.get((cell(minute), name), 0) + by
    assert sums == expected


def test_a_full_spool_counts_what_it_turns_away() -> None:
    spool = Spool(max_bytes=CELL_BYTES + COUNTER_BYTES + 2 * PENDING_BYTES)
    spool.count(cell(1), {"a": 1})
    for name in "xyz":
        spool.pend(Pending(request_id=name, at=0))
    spool.count(cell(2), {"a": 2, "b": 3})
    spool.observe(seen("a"))
    spool.count(cell(1), {"a": 1})
    assert spool.dropped == 1 + 5 + 1
    assert (
        repr(spool)
        == "<Spool 1 cells, 0 samples, 2 pending, 0 of keys, 0 vectors, 1130 bytes, 7 dropped>"
    )
    batch = spool.cut("boot", 1)
    assert batch is not None
    assert batch.counts == {cell(1): {"a": 2}}


@given(st.lists(st.integers(0, 4), max_size=200), st.integers(0, 20_000))
def test_no_more_than_one_thing_goes_beyond_the_bound_and_what_leaves_makes_room(
    kinds: list[int], most: int
) -> None:
    spool = Spool(max_bytes=most)
    for number, kind in enumerate(kinds):
        before = spool.bytes
        match kind:
            case 0:
                spool.count(cell(number), {"a": 1, "b": 2})
            case 1:
                spool.count(cell(0), {"a": 1, str(number % 7): 2})
            case 2:
                spool.pend(Pending(request_id=str(number), at=0))
            case 3:
                spool.pend(awaited(number))
            case _:
                spool.observe(seen(str(number)))
        assert spool.bytes == before or before < most or kind == 1
    while spool.cut("boot", 1):
        pass
    assert spool.bytes == 0


def test_what_a_spool_says_it_takes_is_what_it_takes() -> None:
    spool = Spool(max_known=0)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(2000):
            spool.pend(awaited(number))
            spool.pend(Pending(request_id=f"019aac1e-7a51-7c2d-b1f1-{number:012}", at=number / 7))
            spool.observe(seen(f"{number:016x}", minute=number))
            if number % 10 == 0:
                halves = bytes([number % 256]) * 1536, bytes([number % 251]) * 1536
                spool.keep(Vectors(f"{number:036}", number / 10, cell(number), 50.0, *halves))
                spool.count(cell(number), {f"latency.candidate.{i}.{number}": 1 for i in range(30)})
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.8 < spool.bytes / (after - before) < 1.25


def awaited(number: int) -> Pending:
    ids = range(10**6 + 10 * number, 10**6 + 10 * number + 10)
    return Pending(
        request_id=f"019aac1e-7a51-7c2d-b1f0-{number:012}",
        at=number / 10,
        cell=cell(number),
        assigned="candidate",
        top={"candidate": tuple(ids), "incumbent": tuple(reversed(ids))},
        key=f"{number:016x}",
    )


def test_a_batch_is_small_enough_for_a_store_to_take_in_a_moment() -> None:
    spool = Spool()
    for i in range(PENDING_PER_BATCH + 1):
        spool.pend(Pending(request_id=str(i), at=0))
    batches = [spool.cut("boot", 1), spool.cut("boot", 2)]
    assert [len(batch.pending) for batch in batches if batch] == [PENDING_PER_BATCH, 1]


def seen(key: str, metric: Metric = "request", minute: int = 1) -> Observation:
    return Observation(cell(minute), metric, key, ("assigned.candidate",))


def test_an_observation_of_a_key_is_sent_once_for_each_metric() -> None:
    spool = Spool()
    for one in (seen("a"), seen("b"), seen("a", minute=2), seen("a", "pair")):
        spool.observe(one)
    batch = spool.cut("boot", 1)
    assert batch is not None
    assert batch.observations == (seen("a"), seen("b"), seen("a", "pair"))
    spool.observe(seen("b"))
    assert spool.cut("boot", 2) is None


def test_keys_that_are_no_longer_known_here_are_sent_again_for_the_store_to_know() -> None:
    spool = Spool(max_known=2)
    for key in ("a", "b", "c", "b", "a"):
        spool.observe(seen(key))
    batch = spool.cut("boot", 1)
    assert batch is not None
    assert [one.key for one in batch.observations] == ["a", "b", "c", "a"]


def test_observations_of_keys_are_bounded_in_the_spool_and_in_a_batch() -> None:
    spool = Spool(max_bytes=(OBSERVATIONS_PER_BATCH + 1) * OBSERVATION_BYTES)
    for key in range(OBSERVATIONS_PER_BATCH + 3):
        spool.observe(seen(str(key)))
    assert spool.dropped == 2
    batches = [spool.cut("boot", 1), spool.cut("boot", 2)]
    assert [len(one.observations) for one in batches if one] == [OBSERVATIONS_PER_BATCH, 1]
    spool.observe(seen(str(OBSERVATIONS_PER_BATCH + 2)))  # what was turned away is not known
    assert len(spool) == 1


def vectors(name: str, at: float = 0.0) -> Vectors:
    return Vectors(name, at, cell(0), 500.0, b"i" * 1536, b"c" * 1536)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=60, unique=True))
def test_of_a_slice_of_time_the_lowest_rank_leaves_whatever_came_first(
    drawn: list[tuple[int, int]],
) -> None:
    spool = Spool()
    offered = [vectors(f"{number}-{at}", float(at)) for at, number in drawn]
    for one in offered:
        spool.keep(one)
    kept: list[Vectors] = []
    while batch := spool.cut("boot", 1):
        assert len(batch.vectors) <= VECTORS_PER_BATCH
        kept += batch.vectors
    by_slice = {one.slice: one for one in sorted(offered, key=lambda one: one.rank, reverse=True)}
    assert {one.slice: one for one in kept} == by_slice
    assert len(kept) == len(by_slice)
    assert spool.bytes == 0


def test_a_full_spool_keeps_no_more_vectors_and_calls_none_dropped() -> None:
    spool = Spool(max_bytes=2 * VECTORS_BYTES)
    for at in range(4):
        spool.keep(vectors("q", float(at)))
    batch = spool.cut("boot", 1)
    assert batch is not None
    assert (len(batch.vectors), spool.dropped) == (2, 0)


def test_a_label_window_has_500_slices_and_a_rank_is_a_hash_of_the_name() -> None:
    start = 1_790_000_000.0
    found = {vectors("q", start + tenths / 10).slice for tenths in range(5000)}
    assert len(found) == KEPT_VECTORS
    assert vectors("a name").rank == "00f588f96955a47c"
    ranks = {vectors(str(number)).rank for number in range(1000)}
    assert len(ranks) == 1000
    assert sum(rank < "8" for rank in ranks) in range(430, 570)


def test_what_a_batch_took_is_not_changed_by_what_comes_after() -> None:
    spool = Spool()
    spool.count(cell(1), {"a": 1})
    batch = spool.cut("boot", 1)
    spool.count(cell(1), {"a": 1})
    assert batch is not None
    assert batch.counts == {cell(1): {"a": 1}}
