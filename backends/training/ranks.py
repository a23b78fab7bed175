"""Where the truth ranks among the candidates, less the query's own context. Pure numpy.

The rank of a truth is 1 + the number of candidates that score above it, as in serving: exact inner
products of vectors of length 1. A candidate that equals the truth's score ranks behind it.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
KS: Final = (1, 5, 10)
_BLOCK: Final = 16_384


def rank_truths(
    predicted: Floats, truths: Floats, bank: NDArray[np.float16], own_context: list[Ints]
) -> Ints:
    """Rank each truth among `bank` [N, 768] (mapped or not) less its query's own rows.

    `own_context[q]` are the bank's rows that query q leaves out (its context). Shapes: predicted
    and truths [m, 768]. Returns ranks [m], from 1.
    """
    score = (predicted * truths).sum(axis=1)
    above = np.zeros(len(predicted), dtype=np.int64)
    margin = score + 1e-6  # the truth itself stands in the bank, rounded
    for first in range(0, len(bank), _BLOCK):
        block = np.asarray(bank[first : first + _BLOCK], dtype=np.float32)
        scores = predicted @ block.T  # [m, block]
        above += (scores > margin[:, None]).sum(axis=1)
    for query, rows in enumerate(own_context):
        if rows.size:
            own = np.asarray(bank[rows], dtype=np.float32) @ predicted[query]
            above[query] -= int((own > margin[query]).sum())
    return above + 1


def summarize(ranks: Ints, cosines: Floats) -> Mapping[str, float]:
    """Return Hit@1/5/10 in percent, the mean reciprocal rank and the mean cosine to the truth."""
    hits = {f"hit@{k}": 100 * float((ranks <= k).mean()) for k in KS}
    return {**hits, "mrr": float((1 / ranks).mean()), "cosine": float(cosines.mean())}
