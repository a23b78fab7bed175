import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.idruns import IdRuns

EDGE = 2**63
INT64 = st.integers(-EDGE, EDGE - 1) | st.integers(-5, 5)


@given(st.lists(INT64, max_size=40), INT64)
def test_an_id_is_there_if_it_was_given_also_after_the_wire(ids: list[int], other: int) -> None:
    runs = IdRuns.read(IdRuns.of(np.array(sorted(ids), np.int64)).write())
    for id_ in ids:
        assert runs.has(id_)
    assert runs.has(other) is (other in ids)


def test_ids_that_are_numbered_through_are_one_run() -> None:
    assert len(IdRuns.of(np.arange(500_000)).write()) == 16


@pytest.mark.parametrize(
    "data", [bytes(8), np.array([[1, 0]], "<i8").tobytes(), np.array([[2, 1], [1, 1]]).tobytes()]
)
def test_what_is_no_list_of_runs_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="runs"):
        IdRuns.read(data)
