"""The baselines are the formulas that they are named after."""

import numpy as np
import pytest

from backends.training.baselines import BASELINES, WATCHED

NAMED = {baseline.short: baseline for baseline in BASELINES}


def draw(rows: int) -> np.ndarray[tuple[int, int], np.dtype[np.float16]]:
    drawn = np.random.default_rng(0).normal(size=(rows, 768)).astype(np.float16)
    return drawn / np.float16(28)


@pytest.mark.parametrize("decay", [0.6, 0.8])
def test_a_leaky_mean_is_its_recurrence_over_the_whole_context(decay: float) -> None:
    vectors = draw(200)
    begins, ends = np.array([0, 10, 150]), np.array([200, 13, 151])
    found = NAMED[f"leaky{decay}"].predict(vectors, begins, ends)
    for row, begin, end in zip(found, begins, ends, strict=True):
        state = np.zeros(768)
        for vector in vectors[begin:end].astype(np.float64):
            state = decay * state + (1 - decay) * vector
        assert np.allclose(row, state / np.linalg.norm(state), atol=1e-5)


def test_a_mean_of_the_last_k_never_reaches_before_its_context() -> None:
    vectors = draw(20)
    found = NAMED["mean5"].predict(vectors, np.array([4, 4]), np.array([20, 6]))
    for row, newest in zip(found, (vectors[15:20], vectors[4:6]), strict=True):
        mean = newest.astype(np.float64).mean(axis=0)
        assert np.allclose(row, mean / np.linalg.norm(mean), atol=1e-5)


def test_a_training_watches_three_of_them() -> None:
    assert [baseline.short for baseline in WATCHED] == ["repeat", "mean2", "leaky0.6"]
