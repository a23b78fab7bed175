"""The held-out requests that both arms are asked, and what serving does to them. Pure.

A request is the beginning of a chain: its first n vectors, whose truth is the vector n. As in
serving, an arm reads the newest `window` of them, and the candidates are the bank less all n.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

BUCKETS: Final = ((5, 100), (101, 200), (201, 350), (351, 500), (501, 1000))
"""Context lengths, first and last, in vectors: the tiers' borders and between them."""


@dataclass(frozen=True, slots=True)
class Question:
    """The first `length` rows of chain `chain`, from row `start` of the bank; the next is true."""

    chain: int
    start: int
    length: int

    @property
    def truth(self) -> int:
        """The row that came next."""
        return self.start + self.length

    def window(self, longest: int) -> tuple[int, int]:
        """Return the rows [from, to) that an arm with this window reads."""
        return max(self.start, self.truth - longest), self.truth


def choose_questions(
    spans: Sequence[tuple[int, int]], per_bucket: int, seed: int
) -> list[Question]:
    """Choose up to `per_bucket` lengths in each bucket that each chain is long enough for."""
    rng = np.random.default_rng([seed, 4])
    questions: list[Question] = []
    for chain, (begin, end) in enumerate(spans):
        for low, high in BUCKETS:
            lengths = np.arange(low, min(high, end - begin - 1) + 1)
            chosen = rng.choice(lengths, min(per_bucket, lengths.size), replace=False)
            questions += [Question(chain, begin, int(length)) for length in np.sort(chosen)]
    return questions


def thin(questions: Sequence[Question], most: int, seed: int) -> list[Question]:
    """Keep `most` of the questions at random, in their order; the same ones for the same seed."""
    if most >= len(questions):
        return list(questions)
    kept = np.random.default_rng([seed, 5]).choice(len(questions), most, replace=False)
    return [questions[place] for place in np.sort(kept)]


def name_bucket(low: int, high: int) -> str:
    """Name a bucket as the table does."""
    if low == BUCKETS[0][0]:
        return f"<={high}"
    return f">{low - 1}" if high == BUCKETS[-1][1] else f"{low}-{high}"
