"""The bench's own arithmetic: what it would print about times that are known."""

from pathlib import Path

import numpy as np
import pytest
from bench_agreement import TIE, compare
from bench_contexts import LONGEST, SHORT, chains, mixed_lengths, window
from bench_figures import Asked
from bench_statistics import line, median, paired_ratio, tail_ratio

CHANCE = np.random.default_rng(7)


def test_a_slow_spell_that_both_feel_leaves_the_paired_ratio_as_it_was() -> None:
    spell = [*CHANCE.uniform(1, 3, 20)]
    found = paired_ratio([4 * slow for slow in spell], spell)
    assert (found.value, found.low, found.high) == pytest.approx((4, 4, 4))


def test_the_interval_of_a_median_narrows_with_more_rounds() -> None:
    few, many = (median([*CHANCE.normal(10, 1, count)]) for count in (8, 800))
    assert many.low < 10.1
    assert many.high > 9.9
    assert many.high - many.low < (few.high - few.low) / 3


def test_the_tail_is_told_in_medians() -> None:
    assert tail_ratio([*[1.0] * 90, *[3.0] * 10], 0.99).value == pytest.approx(3)


def test_a_line_gives_back_the_cost_of_a_request_and_of_a_megabyte() -> None:
    sizes = [size for size in (0.1, 0.5, 1.5, 6.0) for _ in range(9)]
    fitted = line(sizes, [0.4 + 0.25 * size + CHANCE.normal(0, 0.01) for size in sizes])
    assert fitted.intercept.value == pytest.approx(0.4, abs=0.02)
    assert fitted.slope.low <= 0.25 <= fitted.slope.high


def test_a_longer_window_of_a_draw_extends_the_shorter_one_and_no_two_draws_begin_alike() -> None:
    assert np.array_equal(window(5, 500)[:499], window(5, 499))
    firsts = {window(draw, 1).tobytes() for draw in range(500)}
    assert len(firsts) == 500


def test_half_of_the_mixed_lengths_are_short() -> None:
    lengths = mixed_lengths(4000, seed=1)
    assert min(lengths) >= 5
    assert LONGEST - 5 < max(lengths) <= LONGEST
    assert sum(length <= SHORT for length in lengths) / 4000 == pytest.approx(0.5, abs=0.03)


def test_answers_of_the_reference_agree_with_it_and_others_are_told(tmp_path: Path) -> None:
    exact = CHANCE.standard_normal((len(chains()), LONGEST, 768))
    exact /= np.linalg.norm(exact, axis=2, keepdims=True)
    places = np.array([(chain, 40 * chain + 1) for chain in range(len(chains()))])
    right = exact[places[:, 0], places[:, 1] - 1]
    wrong = right.copy()
    wrong[0] = -wrong[0]
    for name, vectors in (("right", right), ("wrong", wrong)):
        np.savez(tmp_path / f"{name}.npz", places=places, vectors=vectors)
    agreed, told = (compare(exact, tmp_path / f"{name}.npz") for name in ("right", "wrong"))
    assert agreed
    assert told
    assert (agreed.worst_error, agreed.share_same) == pytest.approx((0, 1))
    assert (told.worst_error, told.worst_cosine) == pytest.approx((2, -1))
    assert (told.same_top1, told.ties, told.contexts) == (11, 0, 12)
    assert TIE < 1e-5  # or a tie would hide what fp32 engines are asked for


def test_what_was_asked_is_met_or_not() -> None:
    assert str(Asked(at_least=4, aim=8)) == "at least 4, aim 8"
    assert Asked(at_least=4, aim=8).met_by(5)
    assert not Asked(at_least=4).met_by(3.9)
    assert not Asked(at_most=2.5).met_by(2.6)
