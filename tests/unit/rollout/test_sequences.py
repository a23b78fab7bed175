"""Confidence sequences of shares, and projections: published figures and what must always hold."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.judging.evidence import ln_e_plus
from rollout.judging.sequences import best_rho, needed, share_growth, share_interval


@pytest.mark.parametrize(
    ("hits", "n", "t_opt", "low", "high"),
    [(700, 1000, 100, 0.651629, 0.745949), (15, 50, 50, 0.129556, 0.511896)],
)
def test_the_sequence_of_a_share_equals_that_of_confseq(
    hits: int, n: int, t_opt: float, low: float, high: float
) -> None:
    assert share_interval(hits, n, t_opt) == pytest.approx((low, high), abs=2e-6)


def test_the_precision_of_the_mixture_equals_that_of_confseq() -> None:
    assert best_rho(100, 0.05) == pytest.approx(12.60056, abs=1e-5)


def test_the_sequence_covers_the_truth_at_all_times_at_once() -> None:
    rng = np.random.default_rng(11)
    runs, steps, alpha, truth = 300, 60, 0.05, 0.3
    missed = 0
    for _ in range(runs):
        hits = n = 0
        for _ in range(steps):
            hits, n = hits + int(rng.binomial(10, truth)), n + 10
            low, high = share_interval(hits, n, 100.0, alpha)
            if not low <= truth <= high:
                missed += 1
                break
    assert missed / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.floats(1, 10_000))
def test_the_interval_lies_around_the_observed_share(hits: int, misses: int, t_opt: float) -> None:
    n = hits + misses
    low, high = share_interval(hits, n, t_opt)
    assert 0 <= low <= high <= 1
    if n:
        assert low <= hits / n <= high
        mirrored = share_interval(misses, n, t_opt)
        assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-6)


def test_before_the_first_trial_everything_is_possible() -> None:
    assert share_interval(0, 0, 100) == (0, 1)


@pytest.mark.parametrize(("hits", "n", "t_opt"), [(2, 1, 10), (-1, 1, 10), (1, 2, 0)])
def test_what_is_no_share_is_refused(hits: int, n: int, t_opt: float) -> None:
    with pytest.raises(ValueError, match="is no share"):
        share_interval(hits, n, t_opt)


def test_the_growth_of_a_share_is_what_its_e_value_grows_by() -> None:
    grown = share_growth(30, 70, 0.2, above=True)
    step = ln_e_plus(60_000, 140_000, 0.2) - ln_e_plus(30_000, 70_000, 0.2)
    assert step / 100_000 == pytest.approx(grown, rel=1e-3)
    assert share_growth(30, 70, 0.2, above=False) == 0
    assert share_growth(0, 100, 0.01, above=False) == pytest.approx(-math.log(0.99))


def test_a_projection_is_the_bar_and_two_over_the_growth() -> None:
    bar = math.log(20)
    assert needed(0.0, bar, 0.01, 0) == math.ceil((bar + 2) / 0.01)
    assert needed(bar, bar, 0.0, 100) == 0
    assert needed(1.0, bar, 0.0, 100) is None


@given(st.floats(-50, 2.9), st.floats(1e-9, 10), st.integers(0, 10**9))
def test_what_is_not_decided_needs_at_least_one_more(ln_e: float, growth: float, n: int) -> None:
    more = needed(ln_e, math.log(20), growth, n)
    assert more is None or more >= 1
