"""Bounded scores: the reference's figures, and what must hold for all counts."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.judging.bounded import growth_above, ln_e_mean_above, ln_e_mean_below, mean_interval

TERNARY = (1.0, -1.0, 0.0)
COUNTS = st.tuples(*[st.integers(0, 500)] * 3)
MARGINS = st.floats(0.005, 0.5)


def test_wins_losses_and_ties_equal_the_reference() -> None:
    assert ln_e_mean_above(TERNARY, (60, 40, 400), -0.02, -1.0) == pytest.approx(2.369200, abs=1e-6)


def test_the_cells_of_a_split_equal_the_reference() -> None:
    values = (0.8, -1.2, -0.8, 1.2)  # (Y - 0.6)(A / 0.5 - (1 - A) / 0.5)
    found = ln_e_mean_above(values, (700, 300, 600, 400), 0.0, -1.2)
    assert found == pytest.approx(8.205155, abs=1e-6)


@given(COUNTS, MARGINS)
def test_it_is_the_average_of_the_stakes(counts: tuple[int, int, int], margin: float) -> None:
    stakes = [0.9 / (1 - margin) * 2 ** (-k / 2) for k in range(24)]
    grown = [
        sum(n * math.log1p(stake * (v + margin)) for v, n in zip(TERNARY, counts, strict=True))
        for stake in stakes
    ]
    top = max(grown)
    expected = top + math.log(sum(math.exp(one - top) for one in grown) / 24)
    assert ln_e_mean_above(TERNARY, counts, -margin, -1.0) == pytest.approx(expected, abs=1e-9)


@given(COUNTS, COUNTS, MARGINS)
def test_order_and_the_way_of_adding_up_never_matter(
    one: tuple[int, int, int], other: tuple[int, int, int], margin: float
) -> None:
    merged = tuple(a + b for a, b in zip(one, other, strict=True))
    split = ln_e_mean_above(TERNARY * 2, one + other, -margin, -1.0)
    assert split == pytest.approx(ln_e_mean_above(TERNARY, merged, -margin, -1.0), abs=1e-9)
    turned = ln_e_mean_above(TERNARY[::-1], merged[::-1], -margin, -1.0)
    assert turned == pytest.approx(ln_e_mean_above(TERNARY, merged, -margin, -1.0), abs=1e-9)


@given(COUNTS, MARGINS)
def test_a_better_observation_speaks_for_and_a_worse_one_against(
    counts: tuple[int, int, int], margin: float
) -> None:
    def ln_e(better: int = 0, worse: int = 0) -> float:
        more = (counts[0] + better, counts[1] + worse, counts[2])
        return ln_e_mean_above(TERNARY, more, -margin, -1.0)

    assert ln_e(better=1) > ln_e() > ln_e(worse=1)


@given(COUNTS, MARGINS)
def test_below_is_above_mirrored(counts: tuple[int, int, int], margin: float) -> None:
    mirrored = ln_e_mean_above(TERNARY, (counts[1], counts[0], counts[2]), margin, -1.0)
    assert ln_e_mean_below(TERNARY, counts, -margin, 1.0) == pytest.approx(mirrored)


@given(
    st.integers(1, 12),
    st.floats(0.01, 0.4),
    st.floats(0, 0.5),
)
def test_the_expected_e_value_under_the_hypothesis_is_one(
    n: int, margin: float, worse: float
) -> None:
    # at the border: P(better) - P(worse) = -margin
    better = max(0.0, worse - margin)
    worse = better + margin
    chances = {1: better, -1: worse, 0: 1 - better - worse}
    total = 0.0
    for up, down in product(range(n + 1), repeat=2):
        if up + down <= n:
            same = n - up - down
            ways = math.factorial(n) / math.prod(map(math.factorial, (up, down, same)))
            chance = ways * chances[1] ** up * chances[-1] ** down * chances[0] ** same
            total += chance * math.exp(ln_e_mean_above(TERNARY, (up, down, same), -margin, -1.0))
    assert total == pytest.approx(1, rel=1e-9)


def test_the_chance_that_a_true_hypothesis_is_ever_refuted_is_at_most_alpha() -> None:
    rng = np.random.default_rng(5)
    runs, steps, alpha = 400, 60, 0.05
    crossed = 0
    for _ in range(runs):
        counts = np.zeros(3, dtype=int)
        for _ in range(steps):
            counts += rng.multinomial(20, (0.10, 0.13, 0.77))  # 3 points worse: on the border
            if ln_e_mean_above(TERNARY, tuple(map(int, counts)), -0.03, -1.0) >= -math.log(alpha):
                crossed += 1
                break
    assert crossed / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


@given(COUNTS.filter(any))
def test_the_interval_holds_the_means_that_neither_side_refutes(
    counts: tuple[int, int, int],
) -> None:
    low, high = mean_interval(TERNARY, counts, -1.0, 1.0, 0.05)
    mean = (counts[0] - counts[1]) / sum(counts)
    assert -1 <= low <= mean <= high <= 1
    bar = math.log(2 / 0.05)
    for inside in np.linspace(low + 1e-3, high - 1e-3, 5):
        if low + 1e-3 < inside < high - 1e-3:
            assert ln_e_mean_above(TERNARY, counts, float(inside), -1.0) < bar
            assert ln_e_mean_below(TERNARY, counts, float(inside), 1.0) < bar
    if low > -1:
        assert ln_e_mean_above(TERNARY, counts, low, -1.0) >= bar - 1e-9
    if high < 1:
        assert ln_e_mean_below(TERNARY, counts, high, 1.0) >= bar - 1e-9


def test_growth_is_what_one_more_like_those_adds_at_the_best_stake() -> None:
    counts = (60, 40, 400)
    grown = growth_above(TERNARY, counts, -0.02, -1.0)
    many = tuple(1000 * n for n in counts)
    assert ln_e_mean_above(TERNARY, many, -0.02, -1.0) == pytest.approx(500_000 * grown, rel=1e-3)
    assert growth_above(TERNARY, (0, 0, 0), -0.02, -1.0) == 0


@pytest.mark.parametrize(
    ("values", "counts", "m0"),
    [((1.0, -2.0), (1, 1), 0.0), ((1.0,), (-1,), 0.0), ((1.0,), (1,), -1.0)],
)
def test_impossible_scores_are_refused(
    values: tuple[float, ...], counts: tuple[int, ...], m0: float
) -> None:
    with pytest.raises(ValueError, match=r"must lie above|are 0 or more"):
        ln_e_mean_above(values, counts, m0, -1.0)
