"""Agreement with a float64 reference on real contexts, and how often the nearest neighbour differs.

The reference is the plain model in float64, run once over each document: the GRU is causal, so the
states of one pass are those of every prefix. The engine answers twice: prefixes of many lengths
from scratch, and each document vector by vector from the state before, as a context that grows
does. In both, context n of document c is its first n vectors, and its candidates are the bank less
those. The error is relative to the reference's length, which is 1.

A top-1 that differs is a tie when the reference itself scores both candidates within `TIE`: then
float32, in which the scores are computed, cannot tell them apart either.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from bench_contexts import LONGEST, chains
from bench_statistics import Numbers
from numpy.typing import NDArray

from backends.model import MemoryAugmentedGRU, predict
from backends.protocol import DIMENSION, Floats

BATCH: Final = 16
TIE: Final = 1e-6
SCRATCH_FILE, CONTINUED_FILE = "scratch.npz", "continued.npz"

Places = NDArray[np.int64]
"""Contexts [N, 2]: the document, and how many of its first vectors."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How an engine's answers compare with the reference's, over `contexts` of them."""

    contexts: int
    worst_error: float
    median_error: float
    worst_cosine: float
    same_top1: int
    ties: int

    @property
    def share_same(self) -> float:
        """Share of contexts with the same top-1, ties counted as the same."""
        return (self.same_top1 + self.ties) / self.contexts


def places(count: int) -> Places:
    """Choose `count` contexts: lengths spread evenly over 1..500, documents in turn, like by like.

    Sorted by length, so that a batch holds like lengths.
    """
    lengths = np.sort(np.linspace(1, LONGEST, count).round().astype(np.int64))
    return np.stack([np.arange(count) % len(chains()), lengths], axis=1)


def answer_from_scratch(read: Callable[..., Sequence[Any]], count: int, folder: Path) -> None:
    """Have an engine read `count` contexts whole, in batches; write its answers to `folder`."""
    chosen = places(count)
    vectors: list[Floats] = []
    for start in range(0, count, BATCH):
        windows = [
            chains()[chain].vectors[:length] for chain, length in chosen[start : start + BATCH]
        ]
        vectors += [answer.vector for answer in read(windows)]
    np.savez(folder / SCRATCH_FILE, places=chosen, vectors=np.array(vectors))


def answer_continued(read: Callable[..., Sequence[Any]], length: int, folder: Path) -> None:
    """Have an engine read `length` vectors of every document, one at a time, from its states."""
    documents = chains()
    states: list[Any] = [None] * len(documents)
    vectors: list[Floats] = []
    for place in range(length):
        answers = read([chain.vectors[place : place + 1] for chain in documents], states)
        states = [answer.state for answer in answers]
        vectors += [answer.vector for answer in answers]
    chosen = [(chain, place + 1) for place in range(length) for chain in range(len(documents))]
    np.savez(
        folder / CONTINUED_FILE,
        places=np.array(chosen, np.int64).reshape(-1, 2),
        vectors=np.array(vectors, np.float32).reshape(-1, DIMENSION),
    )


@torch.inference_mode()
def reference(model: MemoryAugmentedGRU) -> Numbers:
    """Predict after every prefix of every document in float64: [documents, 500, 768]."""
    exact = MemoryAugmentedGRU(model.config).double().eval()
    exact.load_state_dict({name: value.double() for name, value in model.state_dict().items()})
    context = torch.tensor(np.stack([chain.vectors[:LONGEST] for chain in chains()])).double()
    read = exact.first_read().expand(*context.shape[:2], DIMENSION)
    states, _ = exact.gru(torch.cat([exact.input_norm(context), read], dim=-1))
    flat = context.reshape(-1, 1, DIMENSION)
    vectors: Numbers = predict(flat, exact.delta(states.flatten(0, 1))).numpy()
    return vectors.reshape(*context.shape)


def compare(exact: Numbers, file: Path) -> Agreement | None:
    """Compare the answers in `file` with the reference; None where there are none."""
    with np.load(file) as arrays:
        chosen, found = arrays["places"], arrays["vectors"].astype(np.float64)
    if not len(chosen):
        return None
    wanted = exact[chosen[:, 0], chosen[:, 1] - 1]
    errors = np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    cosines = (
        (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    )
    same, ties = _top1(wanted, found, chosen)
    return Agreement(
        contexts=len(chosen),
        worst_error=float(errors.max()),
        median_error=float(np.median(errors)),
        worst_cosine=float(cosines.min()),
        same_top1=same,
        ties=ties,
    )


def _top1(wanted: Numbers, found: Numbers, chosen: Places) -> tuple[int, int]:
    """Count the contexts whose nearest candidate is the same, and the ties among the others."""
    documents = chains()
    bank = np.concatenate([chain.vectors for chain in documents]).astype(np.float64)
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    first_row = np.cumsum([0, *(len(chain) for chain in documents)])
    same = ties = 0
    for start in range(0, len(chosen), 1024):
        rows = slice(start, start + 1024)
        left, right = wanted[rows] @ bank.T, found[rows] @ bank.T
        for row, (chain, length) in enumerate(chosen[rows]):
            own = slice(first_row[chain], first_row[chain] + length)
            left[row, own] = right[row, own] = -np.inf
        best, other = left.argmax(axis=1), right.argmax(axis=1)
        every = np.arange(len(best))
        equal = best == other
        same += int(equal.sum())
        ties += int((~equal & (left[every, best] - left[every, other] <= TIE)).sum())
    return same, ties
