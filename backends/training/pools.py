"""How Hit@k depends on the number of candidates. Pure.

A pool of P candidates holds the truth and P - 1 others, drawn from the bank without replacement.
If a of the bank's M others score above the truth, the number of those in the pool is
hypergeometric, so the chance of a hit follows exactly, and no pool needs to be drawn:

    P(hit@k) = P(H <= k - 1),  H ~ Hypergeometric(M, a, P - 1)
"""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Ints = NDArray[np.int64]


def hit_chance(ranks: Ints, others: Ints, pool: int, k: int) -> NDArray[np.float64]:
    """Return each query's chance of Hit@k in a random pool of `pool` candidates.

    `ranks` [m] is the truth's rank in the whole bank, `others` [m] the candidates there besides
    it. A pool as large as the bank is the bank.
    """
    drawn = np.minimum(pool - 1, others)
    chance: NDArray[np.float64] = stats.hypergeom.cdf(k - 1, others, ranks - 1, drawn)
    return chance
