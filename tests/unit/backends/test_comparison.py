import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.comparison import cosine, overlap, rank_biased_overlap

ids = st.lists(st.integers(0, 20), max_size=12, unique=True)


def test_cosine_of_known_angles() -> None:
    east, north = np.array([1, 0], np.float32), np.array([0, 3], np.float32)
    assert cosine(east, 5 * east) == 1.0
    assert cosine(east, -east) == -1.0
    assert cosine(east, north) == 0.0
    north_east = np.array([1, 1], np.float32)
    assert cosine(east, north_east) == pytest.approx(0.5**0.5)


def test_a_vector_without_direction_agrees_with_nothing() -> None:
    assert cosine(np.zeros(3, np.float32), np.ones(3, np.float32)) == 0.0


def test_cosine_of_tiny_and_huge_vectors_does_not_underflow_or_overflow() -> None:
    assert cosine(np.full(768, 1e-30, np.float32), np.full(768, 1e30, np.float32)) == 1.0


def test_overlap_is_the_share_of_the_first_k() -> None:
    assert overlap([1, 2, 3, 4], [4, 3, 9, 8], 4) == 0.5
    assert overlap([1, 2], [2, 1], 1) == 0.0
    assert overlap([1, 2], [2, 1], 2) == 1.0


def test_overlap_counts_what_a_shorter_list_lacks_as_disagreement() -> None:
    assert overlap([1, 2, 3, 4], [1, 2], 10) == 0.5
    assert overlap([], [], 10) == 1.0


def test_rank_biased_overlap_of_a_hand_computed_example() -> None:
    # A = [1, 2, 3], B = [2, 1, 9], p = 0.9: the agreements at depths 1, 2, 3 are 0, 1, 2/3.
    by_hand = (1 - 0.9) / 0.9 * (0 * 0.9 + 1 * 0.9**2 + 2 / 3 * 0.9**3) + 2 / 3 * 0.9**3
    assert rank_biased_overlap([1, 2, 3], [2, 1, 9], 0.9) == pytest.approx(by_hand)


def test_rank_biased_overlap_of_uneven_lists_matches_equation_32_by_hand() -> None:
    # S = [1, 2], L = [1, 9, 2]: X = 1, 1, 2; s = 2, l = 3; X_s = 1.
    p = 0.8
    sums = 1 / 1 * p + 1 / 2 * p**2 + 2 / 3 * p**3
    extrapolated = 1 * (3 - 2) / (2 * 3) * p**3
    by_hand = (1 - p) / p * (sums + extrapolated) + ((2 - 1) / 3 + 1 / 2) * p**3
    assert rank_biased_overlap([1, 2], [1, 9, 2], p) == pytest.approx(by_hand)


def test_rank_biased_overlap_minds_the_top_more_than_the_bottom() -> None:
    same = list(range(10))
    top_swapped, bottom_swapped = [1, 0, *same[2:]], [*same[:8], 9, 8]
    assert rank_biased_overlap(same, top_swapped) < rank_biased_overlap(same, bottom_swapped)


@given(ids, ids)
def test_agreements_are_symmetric_and_between_0_and_1(a: list[int], b: list[int]) -> None:
    assert overlap(a, b, 5) == overlap(b, a, 5)
    assert rank_biased_overlap(a, b) == pytest.approx(rank_biased_overlap(b, a))
    assert 0 <= overlap(a, b, 5) <= 1
    assert 0 <= rank_biased_overlap(a, b) <= 1 + 1e-12


@given(ids)
def test_a_list_agrees_with_itself_wholly(a: list[int]) -> None:
    assert overlap(np.array(a, np.int64), tuple(a), 10) == 1.0
    assert rank_biased_overlap(a, a) == pytest.approx(1.0)
