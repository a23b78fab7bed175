"""The evidence: published figures, and what must hold for all counts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from rollout.judging.evidence import ln_betainc, ln_e_minus, ln_e_plus, ln_e_ratio

COUNTS = st.integers(0, 2000)
THRESHOLDS = st.floats(0.001, 0.999)


@pytest.mark.parametrize(
    ("successes", "failures", "threshold", "e"),
    [(17, 3, 0.5, 87.53509), (25, 5, 0.5, 486.0638), (10, 10, 0.5, 0.270260)],
)
def test_e_plus_equals_the_reference(
    successes: int, failures: int, threshold: float, e: float
) -> None:
    assert math.exp(ln_e_plus(successes, failures, threshold)) == pytest.approx(e, rel=1e-6)


def test_e_minus_equals_the_reference() -> None:
    assert math.exp(ln_e_minus(0, 1000, 0.005)) == pytest.approx(29.8284, rel=1e-5)


@pytest.mark.parametrize(("pi", "fewest"), [(0.5, 9), (0.25, 5), (0.05, 2)])
def test_the_fewest_all_candidate_errors_that_prove_a_breach(pi: float, fewest: int) -> None:
    assert ln_e_plus(fewest, 0, pi) >= math.log(100) > ln_e_plus(fewest - 1, 0, pi)


def test_the_ratio_test_equals_the_reference() -> None:
    assert ln_e_ratio((60, 63, 32), (0.4, 0.4, 0.2), (1, 1, 1)) == pytest.approx(-4.18381398)
    counts, shares = (821588, 815482), (0.5, 0.5)
    assert ln_e_ratio(counts, shares) == pytest.approx(6.532, abs=5e-4)
    assert ln_e_ratio(counts, shares, (5000, 5000)) == pytest.approx(8.766, abs=5e-4)


@given(st.integers(0, 40), st.integers(0, 40), st.floats(0.05, 0.95))
def test_e_plus_is_the_mean_likelihood_ratio_above_the_threshold(
    successes: int, failures: int, threshold: float
) -> None:
    def ratio(theta: float) -> float:
        odds = successes * math.log(theta / threshold)
        return math.exp(odds + failures * math.log((1 - theta) / (1 - threshold)))

    total, _ = integrate.quad(ratio, threshold, 1 - 1e-12)
    found = math.exp(ln_e_plus(successes, failures, threshold))
    assert found == pytest.approx(total / (1 - threshold), rel=1e-4)


@given(COUNTS, COUNTS, THRESHOLDS)
def test_one_more_observation_never_turns_the_evidence_around(
    successes: int, failures: int, threshold: float
) -> None:
    now = ln_e_plus(successes, failures, threshold)
    assert ln_e_plus(successes + 1, failures, threshold) > now - 1e-6
    assert ln_e_plus(successes, failures + 1, threshold) < now + 1e-6


@given(st.integers(0, 300), THRESHOLDS)
def test_the_expected_evidence_at_the_threshold_is_one(n: int, threshold: float) -> None:
    total = 0.0
    for s in range(n + 1):
        ways = math.lgamma(n + 1) - math.lgamma(s + 1) - math.lgamma(n - s + 1)
        chance = ways + s * math.log(threshold) + (n - s) * math.log1p(-threshold)
        total += math.exp(chance + ln_e_plus(s, n - s, threshold))
    assert total == pytest.approx(1, rel=1e-6)


def test_no_data_is_no_evidence() -> None:
    assert ln_e_plus(0, 0, 0.3) == pytest.approx(0)
    assert ln_e_ratio((0, 0), (0.3, 0.7)) == pytest.approx(0)


def test_the_logarithm_of_the_incomplete_beta_survives_its_underflow() -> None:
    # I_x(a, 1) = x^a exactly.
    assert ln_betainc(100_000, 1, 0.5) == pytest.approx(100_000 * math.log(0.5))
    # and both ways agree where both work: I = 1e-271
    assert ln_betainc(900, 1, 0.5) == pytest.approx(900 * math.log(0.5))


@pytest.mark.parametrize(
    ("counts", "shares"), [((-1, 2), (0.5, 0.5)), ((1, 2), (0.5, 0.6)), ((1, 2), (0.0, 1.0))]
)
def test_impossible_counts_and_shares_are_refused(
    counts: tuple[int, int], shares: tuple[float, float]
) -> None:
    with pytest.raises(ValueError, match="are"):
        ln_e_ratio(counts, shares)
