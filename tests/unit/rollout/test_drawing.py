"""Axes of charts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.reporting.drawing import log_ticks


@given(st.floats(-6, 9), st.floats(0.02, 12))
def test_a_logarithmic_axis_has_two_to_five_ticks_on_it(power: float, decades: float) -> None:
    low, high = 10**power, 10 ** (power + decades)
    ticks = log_ticks(low, high)
    assert ticks == sorted(ticks)
    assert all(low <= tick <= high for tick in ticks)
    assert 2 <= len(ticks) <= 5


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (130, 270, [150, 200, 250]),
        (1800, 42_000, [2000, 5000, 10_000, 20_000]),
        (1, 1e6, [1, 10, 100, 1000, 10_000, 100_000, 1e6]),
        (100, 104, [100, 101, 102, 103, 104]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, expected: list[float]) -> None:
    found = log_ticks(low, high, most=7 if math.log10(high / low) > 5 else 5)
    assert found == pytest.approx(expected)
