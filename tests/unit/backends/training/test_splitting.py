"""Chains stay whole, sides stay apart, windows stay inside a chain."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.training.split import LeakError, check_leaks, split_chains
from backends.training.windows import cut_windows, pick_positions, shuffle_batches


def test_every_chain_is_on_one_side_and_its_side_needs_no_other_chain() -> None:
    titles = [f"chain {i}" for i in range(500)]
    split = split_chains(titles, seed=1)
    assert sorted((*split.train, *split.validation, *split.test)) == list(range(500))
    assert len(split.validation) in range(8, 40)
    assert len(split.test) in range(25, 80)
    fewer = split_chains(titles[:250], seed=1)
    assert set(fewer.train) == {chain for chain in split.train if chain < 250}


def test_a_text_on_two_sides_is_refused() -> None:
    ids = {"train": np.array([1, 2, 3]), "validation": np.array([9, 3])}
    with pytest.raises(LeakError, match="share 0 chains and 1 texts"):
        check_leaks(ids, {"train": [0], "validation": [1]})


def test_a_clean_split_says_so_in_figures() -> None:
    ids = {"train": np.array([1, 2, 3]), "demo": np.array([9])}
    line = check_leaks(ids, {"train": [0], "demo": [0][:0]})
    assert line.endswith("shared between any two: 0 chains, 0 texts")


@given(
    st.lists(st.integers(2, 90), min_size=1, max_size=5),
    st.integers(2, 20),
    st.integers(0, 10),
    st.booleans(),
)
def test_windows_cover_every_truth_and_never_cross_a_chain(
    sizes: list[int], length: int, overlap: int, shift: bool
) -> None:
    overlap = min(overlap, length - 1)
    edges = np.cumsum([0, *sizes])
    spans = [(int(a), int(b)) for a, b in itertools.pairwise(edges)]
    windows = cut_windows(spans, length, overlap, np.random.default_rng(0) if shift else None)
    truths: set[int] = set()
    for window in windows:
        begin, end = next(span for span in spans if span[0] <= window.start < span[1])
        assert begin <= window.start < window.start + window.length < end
        assert window.length <= length
        truths |= set(range(window.start + 1, window.start + window.length + 1))
    possible = {row for begin, end in spans for row in range(begin + 1, end)}
    assert truths <= possible
    # a lone vector at a seam is the only thing that may be missed
    assert len(possible - truths) <= 2 * len(spans)


def test_an_epochs_batches_hold_every_window_once() -> None:
    windows = cut_windows([(0, 100), (100, 130)], 10, 0)
    batches = shuffle_batches(windows, 4, np.random.default_rng(0))
    assert sorted(w.start for b in batches for w in b) == sorted(w.start for w in windows)


def test_positions_are_distinct_and_within_their_window() -> None:
    rows, positions = pick_positions([5, 50], 8, np.random.default_rng(0))
    assert rows.tolist() == [0] * 5 + [1] * 8
    assert positions[:5].tolist() == [0, 1, 2, 3, 4]
    assert len(set(positions[5:].tolist())) == 8
