"""Where the truth ranks among the candidates, less the query's own context. Pure numpy.

The rank of a truth is 1 + the number of candidates that score above it, as in serving: exact inner
products with the bank's vectors brought to length 1. A candidate that equals the truth's score
ranks behind it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
KS: Final = (1, 5, 10)
BLOCK: Final = 16_384
_AT_ONCE: Final = 2_048
_MARGIN: Final = 1e-6
"""The truth itself stands in the bank, and its score there may differ by rounding."""


def rank_truths(
    predicted: Floats,
    truths: Floats,
    bank: NDArray[np.float16] | Floats,
    own_context: Sequence[Ints],
    advance: Callable[[], None] = lambda: None,
) -> Ints:
    """Rank each truth among `bank` [N, 768] (mapped or not) less its query's own rows.

    `own_context[q]` are the bank's rows that query q leaves out (its context), if there is one for
    q. Shapes: predicted and truths [m, 768]. Returns ranks [m], from 1. `advance` is called after
    each block of 16,384 candidates.
    """
    limits = (predicted * _unit(truths)).sum(axis=1) + np.float32(_MARGIN)
    above = np.zeros(len(predicted), dtype=np.int64)
    for first in range(0, len(bank), BLOCK):
        block = _unit(bank[first : first + BLOCK]).T  # [768, block]
        for start in range(0, len(predicted), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            above[some] += (predicted[some] @ block > limits[some, None]).sum(axis=1)
        advance()
    for query, rows in enumerate(own_context):
        if rows.size:
            own = _unit(bank[rows]) @ predicted[query]
            above[query] -= int((own > limits[query]).sum())
    return above + 1


def summarize(ranks: Ints, cosines: Floats) -> Mapping[str, float]:
    """Return Hit@1/5/10 in percent, the mean reciprocal rank and the mean cosine to the truth."""
    hits = {f"hit@{k}": 100 * float((ranks <= k).mean()) for k in KS}
    return {**hits, "mrr": float((1 / ranks).mean()), "cosine": float(cosines.mean())}


def _unit(rows: NDArray[np.float16] | Floats) -> Floats:
    wide = np.asarray(rows, dtype=np.float32)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), dtype=np.float32)
