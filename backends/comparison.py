"""How far two predictions are apart: the vectors by their angle, the neighbours by their ranks.

Three views of one pair, because each misses something: `cosine` sees a drift of the vectors that
leaves every neighbour in place; `overlap` sees which neighbours changed but not their order;
`rank_biased_overlap` sees the order, and weighs the top of the list most. All are symmetric in the
two predictions, and 1.0 means that nothing differs.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

IdList = Sequence[int] | NDArray[np.int64]


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Cosine of the angle between two vectors of one shape, from -1 to 1, computed in float64.

    A vector of length zero has no direction: its cosine with anything is 0.0.
    """
    wide_a, wide_b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    lengths = float(np.linalg.norm(wide_a) * np.linalg.norm(wide_b))
    if lengths == 0.0:
        return 0.0
    return max(-1.0, min(1.0, float(wide_a @ wide_b) / lengths))


def overlap(ids_a: IdList, ids_b: IdList, k: int) -> float:
    """Share of the first `k` ids that both lists hold, from 0 to 1, whatever their order.

    Shares are of `k`, or of the longer list where neither has `k` ids. Two empty lists agree.
    """
    first_a, first_b = _plain(ids_a)[:k], _plain(ids_b)[:k]
    longest = max(len(first_a), len(first_b))
    return len(set(first_a) & set(first_b)) / longest if longest else 1.0


def rank_biased_overlap(ids_a: IdList, ids_b: IdList, p: float = 0.9) -> float:
    """Agreement of two rankings from 0 to 1, where depth d weighs p**(d - 1).

    The extrapolated form, RBO_ext, for lists of any two lengths: equation 32 of Webber, Moffat,
    Zobel, "A similarity measure for indefinite rankings", ACM TOIS 28(4), 2010. With p = 0.9 the
    first ten ranks hold 86 % of the weight. Ids must not repeat within a list. Two empty lists
    agree; an empty one and another do not.
    """
    shorter, longer = sorted((_plain(ids_a), _plain(ids_b)), key=len)
    short, long = len(shorter), len(longer)
    if not short:
        return 0.0 if long else 1.0
    seen_shorter: set[int] = set()
    seen_longer: set[int] = set()
    common = common_at_short = 0
    total = 0.0
    for depth in range(1, long + 1):
        seen_longer.add(longer[depth - 1])
        common += longer[depth - 1] in seen_shorter
        if depth <= short:
            seen_shorter.add(shorter[depth - 1])
            common += shorter[depth - 1] in seen_longer
            common_at_short = common
        beyond = common_at_short * max(depth - short, 0) / short
        total += (common + beyond) / depth * p**depth
    tail = ((common - common_at_short) / long + common_at_short / short) * p**long
    return min(1.0, (1 - p) / p * total + tail)


def _plain(ids: IdList) -> list[int]:
    return [int(i) for i in ids]
