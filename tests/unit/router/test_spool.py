"""What a gateway has seen and the store has not."""

from hypothesis import given
from hypothesis import strategies as st

from rollout.snapshot import Cell, Pending
from router.spool import CELLS_PER_BATCH, PENDING_PER_BATCH, Spool


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
    spool = Spool(max_cells=1, max_pending=2)
    spool.count(cell(1), {"a": 1})
    spool.count(cell(2), {"a": 2, "b": 3})
    spool.count(cell(1), {"a": 1})
    for name in "xyz":
        spool.pend(Pending(request_id=name))
    assert spool.dropped == 5 + 1
    assert repr(spool) == "<Spool 1 cells, 0 samples, 2 pending, 6 dropped>"
    batch = spool.cut("boot", 1)
    assert batch is not None
    assert batch.counts == {cell(1): {"a": 2}}


def test_a_batch_is_small_enough_for_a_store_to_take_in_a_moment() -> None:
    spool = Spool()
    for i in range(PENDING_PER_BATCH + 1):
        spool.pend(Pending(request_id=str(i)))
    batches = [spool.cut("boot", 1), spool.cut("boot", 2)]
    assert [len(batch.pending) for batch in batches if batch] == [PENDING_PER_BATCH, 1]


def test_what_a_batch_took_is_not_changed_by_what_comes_after() -> None:
    spool = Spool()
    spool.count(cell(1), {"a": 1})
    batch = spool.cut("boot", 1)
    spool.count(cell(1), {"a": 1})
    assert batch is not None
    assert batch.counts == {cell(1): {"a": 1}}
