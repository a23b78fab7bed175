"""The rivals of a simulation decide as the tools do that they stand for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rollout.simulate.rivals import (
    FRACTION,
    Series,
    failure_count,
    failure_limit,
    kayenta_high,
    mann_whitney,
    z_test,
)


def seen(
    candidate: list[int], incumbent: list[int], trials: int = 100, *, relative: bool = False
) -> Series:
    of = np.full(len(candidate), trials)
    return Series(
        {"candidate": np.array(candidate), "incumbent": np.array(incumbent)},
        {"candidate": of, "incumbent": of},
        0.05,
        relative,
    )


def test_a_failure_limit_of_0_alarms_at_the_first_window_beyond_the_threshold() -> None:
    assert failure_limit(seen([5, 5, 6, 0], [0, 0, 0, 0])) == 3
    assert failure_limit(seen([5, 5, 5, 5], [0, 0, 0, 0])) is None


def test_a_failure_count_alarms_at_the_third_of_five_windows() -> None:
    assert failure_count(seen([9, 0, 9, 0, 9, 0], [0] * 6)) == 5
    assert failure_count(seen([9, 9, 0, 0, 0, 9, 0], [0] * 7)) is None
    assert failure_count(seen([9, 9], [0, 0])) is None


def test_a_relative_threshold_moves_with_the_incumbent() -> None:
    assert failure_limit(seen([44, 46], [40, 40], relative=True)) == 2
    assert failure_limit(seen([44, 45], [40, 40], relative=True)) is None


def test_a_window_without_the_incumbent_has_no_relative_threshold() -> None:
    alone = Series(
        {"candidate": np.array([50]), "incumbent": np.array([0])},
        {"candidate": np.array([100]), "incumbent": np.array([0])},
        0.03,
        relative=True,
    )
    assert [rule(alone) for rule in (failure_limit, z_test, mann_whitney)] == [None] * 3


def test_the_z_test_is_the_pooled_one_of_all_windows_so_far() -> None:
    # 12 of 200 against 4 of 200: z = 2.04; after the first window 5 against 3: z = 0.72
    assert z_test(seen([5, 7], [3, 1])) == 2
    assert z_test(seen([5, 3], [3, 4])) is None
    assert z_test(seen([0, 0], [0, 0])) is None


def test_repeated_z_tests_alarm_far_more_often_than_5_percent_over_120_looks() -> None:
    chance = np.random.default_rng(1)
    alarms = 0
    for _ in range(300):
        draws = chance.binomial(500, 0.02, (2, 120))
        alarms += z_test(seen(list(draws[0]), list(draws[1]), 500)) is not None
    assert 0.22 < alarms / 300 < 0.45


def test_kayenta_passes_a_candidate_whose_errors_rose_in_seven_minutes_of_ten() -> None:
    candidate = np.array([100.0] * 7 + [1.0] * 3)
    assert not kayenta_high(candidate, np.full(10, 1.0))
    assert kayenta_high(np.full(10, 100.0), np.full(10, 1.0) + np.arange(10) / 100)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 8), min_size=3, max_size=25),
    st.lists(st.integers(0, 8), min_size=3, max_size=25),
)
def test_kayentas_interval_is_the_rank_test_at_a_quarter_of_the_shift(
    one: list[int], other: list[int]
) -> None:
    candidate, incumbent = np.array(one, float), np.array(other, float)
    shift = float(np.median(np.subtract.outer(candidate, incumbent)))
    moved = candidate - FRACTION * shift
    if shift <= 0 or len({*moved.tolist(), *other}) == 1:
        assert not kayenta_high(candidate, incumbent)
        return
    p = stats.mannwhitneyu(moved, incumbent, alternative="greater", method="asymptotic").pvalue
    if p != pytest.approx(0.01, rel=1e-6):
        assert kayenta_high(candidate, incumbent) == (p < 0.01)


def test_mann_whitney_looks_at_the_windows_so_far_and_says_after_how_many() -> None:
    chance = np.random.default_rng(4)
    worse = seen(list(chance.binomial(100, 0.2, 120)), list(chance.binomial(100, 0.05, 120)))
    assert mann_whitney(worse) == 10
