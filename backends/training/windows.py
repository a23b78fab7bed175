"""Which stretches of which chains an epoch reads, in which order. Pure: randomness comes in.

A window of n vectors supervises positions first..n-1: the truth of a position is the vector after
it, so a window needs n + 1 vectors of one chain and never crosses into another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Window:
    """`length` vectors from row `start` of the corpus; the row after them is the last truth."""

    start: int
    length: int


def cut_windows(
    spans: Sequence[tuple[int, int]],
    length: int,
    overlap: int,
    rng: np.random.Generator | None = None,
) -> list[Window]:
    """Cover each span of rows [from, to) with windows, `overlap` vectors shared by neighbours.

    With `rng`, the first window of a span starts at a random row within one stride, so that every
    epoch sees other contexts; the rows before it are then a shorter window of their own.
    """
    stride = length - overlap
    windows: list[Window] = []
    for begin, end in spans:
        last_truth = end - 1
        shift = int(rng.integers(stride)) if rng is not None else 0
        if shift > 1:
            windows.append(Window(begin, min(shift, last_truth - begin)))
        start = begin + shift
        while start < last_truth:
            windows.append(Window(start, min(length, last_truth - start)))
            if start + length >= last_truth:
                break
            start += stride
    return [window for window in windows if window.length > 1]


def shuffle_batches(
    windows: Sequence[Window], size: int, rng: np.random.Generator
) -> list[list[Window]]:
    """Make batches of windows of like length, in random order: little padding, much variety."""
    jitter = rng.permutation(len(windows))
    by_length = sorted(jitter, key=lambda place: windows[place].length)
    batches = [
        [windows[place] for place in by_length[first : first + size]]
        for first in range(0, len(by_length), size)
    ]
    return [batches[place] for place in rng.permutation(len(batches))]


def pick_positions(
    lengths: Sequence[int], wanted: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pick up to `wanted` distinct positions of each window (0: all): (window, position) pairs."""
    rows, positions = [], []
    for row, length in enumerate(lengths):
        count = min(wanted or length, length)
        chosen = np.sort(rng.choice(length, size=count, replace=False))
        rows.append(np.full(count, row))
        positions.append(chosen)
    return np.concatenate(rows), np.concatenate(positions)
