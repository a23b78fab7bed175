"""The bench's input: windows of the demo's real text, the same in every process.

A window is named by a draw (any whole number) and its length. No two of 7,200 draws share a first
vector, so a cache of prefixes finds nothing that it has seen, unless that is wanted.
"""

import functools
import math
import random
from typing import Final

import numpy as np

from backends.protocol import DIMENSION, Floats
from deploy.chains import SHIPPED, Chain, load_chains

BANK: Final = SHIPPED
STRIDE: Final = 637
"""Prime to the 7,200 vectors: draws visit every start once, and neighbours lie in other texts."""
SHORT: Final = 50
LONGEST: Final = 500
SHORTEST: Final = 5


@functools.cache
def chains() -> tuple[Chain, ...]:
    """Read the shipped documents, once."""
    return load_chains(BANK).chains


def window(draw: int, length: int) -> Floats:
    """Take `length` vectors of a chain: float32 [length, 768]. Longer ones run on into the next."""
    whole = _all_vectors()
    rows = (draw * STRIDE + np.arange(length)) % len(whole)
    return np.ascontiguousarray(whole[rows])


@functools.cache
def _all_vectors() -> Floats:
    return np.concatenate([chain.vectors for chain in chains()])


def short_and_distinct(count: int, length: int, seed: int) -> Floats:
    """Make `count` contexts that nobody has seen: random unit vectors [count, length, 768]."""
    made = np.random.default_rng(seed).standard_normal((count, length, DIMENSION), np.float32)
    unit: Floats = made / np.linalg.norm(made, axis=2, keepdims=True)
    return unit


def mixed_lengths(count: int, seed: int) -> list[int]:
    """Draw lengths from 5 to 500, log-uniform: half of them are short (50 vectors at most)."""
    draw = random.Random(seed)  # noqa: S311 - repeatable, not unguessable
    low, high = math.log(SHORTEST), math.log(LONGEST + 1)
    return [int(math.exp(draw.uniform(low, high))) for _ in range(count)]
