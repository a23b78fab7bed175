"""How much may be under way at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.limits import Budget, Places, Rate, RetryBudget


def test_a_budget_says_which_limit_leaves_no_place() -> None:
    budget = Budget(in_flight=2, bytes_=100)
    assert budget.take(60) is None
    assert budget.take(60) == "bytes"
    assert budget.take(40) is None
    assert budget.take(0) == "full"
    assert repr(budget) == "<Budget 2/2 in flight, 100/100 bytes>"
    budget.give(60)
    assert budget.take(60) is None


@given(st.lists(st.integers(0, 50)))
def test_a_budget_is_never_overdrawn_and_comes_back_whole(sizes: list[int]) -> None:
    budget = Budget(in_flight=3, bytes_=100)
    taken = [size for size in sizes if budget.take(size) is None]
    assert len(taken) == budget.in_flight <= 3
    assert sum(taken) == budget.bytes <= 100
    for size in taken:
        budget.give(size)
    assert (budget.in_flight, budget.bytes) == (0, 0)


@given(st.lists(st.floats(0, 10), min_size=1).map(sorted))
def test_a_rate_lets_no_more_pass_than_time_allows(times: list[float]) -> None:
    rate = Rate(5)
    passed = sum(rate.take(now) for now in times)
    assert passed <= 5 + 5 * (times[-1] - times[0]) + 1e-6


def test_a_rate_recovers_with_time() -> None:
    rate = Rate(2)
    assert [rate.take(now) for now in (0, 0, 0, 0.5, 0.5, 9, 9, 9)] == [
        *(True, True, False),
        *(True, False),
        *(True, True, False),
    ]


def test_retries_are_a_fifth_of_the_requests_under_way_and_three_at_least() -> None:
    budget = RetryBudget(share=0.2, least=3)
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    budget.active = 20
    assert [budget.take() for _ in range(2)] == [True, False]
    assert repr(budget) == "<RetryBudget 4 retrying of 20 active>"
    budget.give()
    assert budget.take()


@given(st.integers(0, 1000), st.floats(0, 1), st.integers(0, 5))
def test_a_retry_budget_is_never_overdrawn(active: int, share: float, least: int) -> None:
    budget = RetryBudget(share=share, least=least)
    budget.active = active
    while budget.take():
        pass
    assert budget.retrying <= max(least, share * active + 1)


@pytest.mark.parametrize(("taken", "full"), [(0, False), (1, False), (2, True), (3, True)])
def test_places_are_full_when_all_are_taken_and_one_let_in_before_still_finds_one(
    taken: int, full: bool
) -> None:
    places = Places(2)
    for _ in range(taken + 1):
        places.take()
    places.give()
    assert places.full is full
    assert repr(places) == f"<Places {taken}/2 taken>"
