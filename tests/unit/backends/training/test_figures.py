"""Ranks, pools and sequences say what they claim to say."""

import numpy as np
import pytest

from backends.training.pools import hit_chance
from backends.training.questions import BUCKETS, choose_questions, name_bucket, thin
from backends.training.ranks import rank_truths
from backends.training.sequences import ln_e_above, mean_interval


def units(rows: int, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    drawn = np.random.default_rng(seed).normal(size=(rows, 768)).astype(np.float16)
    return drawn.astype(np.float32) / np.float32(28)


def test_a_rank_counts_the_better_candidates_less_the_querys_own_context() -> None:
    bank = units(500, 1).astype(np.float16)
    predicted = units(6, 2)
    truths = bank[100:106].astype(np.float32)
    own = [np.arange(10 * query) for query in range(6)]
    ranks = rank_truths(predicted, truths, bank, own)
    wide = bank.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    for query in range(6):
        scores = wide @ predicted[query]
        better = [row for row in range(500) if scores[row] > scores[100 + query] + 1e-6]
        assert ranks[query] == 1 + len([row for row in better if row not in own[query]])


def test_a_pool_as_large_as_the_bank_is_the_bank_and_a_small_one_is_what_drawing_gives() -> None:
    ranks, others = np.array([1, 4, 6, 400]), np.full(4, 999)
    assert hit_chance(ranks, others, 1000, 5).tolist() == [1, 1, 0, 0]
    rng = np.random.default_rng(0)
    drawn = [(rng.choice(999, 49, replace=False) < 399).sum() < 20 for _ in range(4000)]
    chance = hit_chance(ranks, others, 50, 20)[3]
    assert chance == pytest.approx(np.mean(drawn), abs=0.03)


def test_the_evidence_is_the_one_of_the_judges_statistics() -> None:
    values = [1.0] * 60 + [-1.0] * 40 + [0.0] * 400
    assert ln_e_above(values, -0.02, -1.0, count=24) == pytest.approx(2.369200, abs=1e-6)


def test_the_interval_holds_the_mean_and_narrows() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.05, 0.05, 400).clip(-0.3, 0.3)
    few, many = mean_interval(list(values[:40]), -0.3, 0.3), mean_interval(list(values), -0.3, 0.3)
    assert few[0] < many[0] < values.mean() < many[1] < few[1]
    assert many[0] > 0


def test_no_values_refute_nothing() -> None:
    low, high = mean_interval([], -0.3, 0.3)
    assert (low, high) == pytest.approx((-0.3, 0.3))


def test_questions_lie_in_their_buckets_and_their_truth_in_the_chain() -> None:
    questions = choose_questions([(0, 600), (600, 640)], 3, seed=0)
    assert len(questions) == 5 * 3 + 3
    for question in questions:
        begin, end = [(0, 600), (600, 640)][question.chain]
        assert begin < question.truth < end
    assert questions[3].window(100) == (questions[3].truth - 100, questions[3].truth)
    assert [name_bucket(*b) for b in BUCKETS] == ["<=100", "101-200", "201-350", "351-500", ">500"]


def test_a_bound_on_the_queries_keeps_the_same_ones_in_order() -> None:
    questions = choose_questions([(0, 600), (600, 1200)], 8, seed=0)
    kept = thin(questions, 10, seed=0)
    assert len(kept) == 10
    assert kept == thin(questions, 10, seed=0) == [q for q in questions if q in kept]
    assert thin(questions, 1000, seed=0) == questions
