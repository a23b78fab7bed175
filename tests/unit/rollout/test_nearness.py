"""Cosines to the truth: P2 of the judge's statistics, from counters, rounded against each claim."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.judging.bounded import mean_interval
from rollout.judging.nearness import nearness
from rollout.snapshot import Counter, difference_bin
from rollout.tally import read

differences = st.lists(st.floats(-2, 2), min_size=1, max_size=60)


def counted(values: list[float]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        name = Counter.truth_difference(value)
        counts[name] = counts.get(name, 0) + 1
    return counts


def ln_e(values: list[float], low: float) -> float:
    """P2 as the reference writes it, with m0 = 0."""
    grown = [
        sum(math.log1p(0.9 / -low * 2 ** (-k / 2) * value) for value in values) for k in range(24)
    ]
    top = max(grown)
    return top + math.log(sum(math.exp(one - top) for one in grown) / 24)


@given(differences)
def test_a_difference_is_cut_off_and_rounded_down_to_a_bin_of_0_002(values: list[float]) -> None:
    for value in values:
        cut = max(-0.3, min(0.3, value))
        assert difference_bin(value) * 0.002 <= cut + 1e-9
        assert cut < (difference_bin(value) + 1) * 0.002 + 1e-9
    assert (difference_bin(-7), difference_bin(0), difference_bin(7)) == (-150, 0, 150)
    read({f"-|<=100|{name}": by for name, by in counted(values).items()})


@given(differences)
def test_each_claim_is_weighed_by_the_ends_of_the_bins_that_speak_against_it(
    values: list[float],
) -> None:
    found = nearness(counted(values), by_key=False)
    bins = [difference_bin(value) for value in values]
    lower = [max(-0.3, 0.002 * bin_) for bin_ in bins]
    upper = [min(0.3, 0.002 * (bin_ + 1)) for bin_ in bins]
    assert found.n == len(values)
    assert found.ln_e_nearer == pytest.approx(ln_e(lower, -0.3), abs=1e-6)
    assert found.ln_e_farther == pytest.approx(ln_e([-value for value in upper], -0.3), abs=1e-6)
    assert found.difference is not None
    assert found.low is not None
    assert found.high is not None
    assert -0.3 <= found.low <= found.difference <= found.high <= 0.3
    exact = [max(-0.3, min(0.3, value)) for value in values]
    assert found.difference == pytest.approx(sum(exact) / len(exact), abs=0.001 + 1e-9)
    each = (1,) * len(values)
    grid = 0.6 / 20**3  # what a border is found to, outwards
    assert found.low <= mean_interval(tuple(exact), each, -0.3, 0.3, 0.05)[0] + grid
    assert found.high >= mean_interval(tuple(exact), each, -0.3, 0.3, 0.05)[1] - grid
    assert found.high == pytest.approx(
        mean_interval(tuple(upper), each, -0.3, 0.3, 0.05)[1], abs=grid
    )


def test_an_arm_that_is_nearer_is_found_so_and_equal_arms_are_not() -> None:
    rng = np.random.default_rng(3)
    nearer = nearness(counted(rng.normal(0.02, 0.05, 500).tolist()), by_key=False)
    assert nearer.ln_e_nearer is not None
    assert nearer.ln_e_nearer > math.log(100)
    assert nearer.low is not None
    assert nearer.low > 0
    equal = nearness(counted(rng.normal(0.0, 0.05, 500).tolist()), by_key=False)
    assert equal.low is not None
    assert equal.high is not None
    assert equal.low < 0 < equal.high


def test_equal_arms_are_rarely_called_nearer_however_often_one_looks() -> None:
    rng = np.random.default_rng(5)
    called = 0
    for _ in range(200):
        seen = counted([])
        values = rng.normal(0.0, 0.1, 60).tolist()
        for n, value in enumerate(values, start=1):
            name = Counter.truth_difference(value)
            seen[name] = seen.get(name, 0) + 1
            if n % 4:
                continue
            evidence = nearness(seen, by_key=False).ln_e_nearer
            if evidence is not None and evidence >= math.log(20):
                called += 1
                break
    assert called <= 200 * 0.05 + 3 * math.sqrt(200 * 0.05 * 0.95)


def test_means_of_the_arms_are_shown_beside_it_and_nothing_is_no_zero() -> None:
    counts = {
        Counter.truth_cosine("incumbent", 0.5): 2,
        Counter.truth_cosine("incumbent", 0.7): 2,
        Counter.truth_cosine("candidate", -0.25): 4,
    }
    assert nearness(counts, by_key=False).mean == {"incumbent": 0.6, "candidate": -0.25}
    nothing = nearness({Counter.labels("candidate"): 4}, by_key=False)
    assert (nothing.n, nothing.difference, nothing.low, nothing.ln_e_nearer) == (
        0,
        None,
        None,
        None,
    )
    assert nothing.mean == {"incumbent": None, "candidate": None}


def test_where_the_key_is_the_unit_the_first_pair_of_each_counts() -> None:
    counts = counted([0.1, 0.1, 0.1, -0.1])
    counts |= {Counter.first(Counter.truth_difference(-0.1)): 1}
    assert nearness(counts, by_key=False).n == 4
    assert nearness(counts, by_key=True).n == 1
