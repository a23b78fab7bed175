"""Integer counts in, evidence out, as natural logarithms of e-values. Pure.

An e-value of E against a hypothesis means: had the hypothesis been true, a bet against it would
have multiplied its stake by E. Under the hypothesis the chance that E *ever* reaches 1/alpha is at
most alpha (Ville's inequality), whatever rule ends the looking: so the judge may look at every
tick. The formulas are P1 and the sample-ratio test of the judge's statistics (Beta and Dirichlet
mixtures); each is a function of counts alone, so replicas merge by addition and order never
matters.

Logarithms throughout: E overflows a float within minutes of real traffic.
"""

import math
from collections.abc import Sequence
from typing import Final

from scipy import special

RATIO_CONCENTRATION: Final = 100.0
"""The Dirichlet prior of the sample-ratio test is this times the intended shares."""
_ACCURATE: Final = 1e-280
"""Below this, betainc may have lost digits to underflow."""


def ln_e_plus(successes: int, failures: int, threshold: float) -> float:
    """Weigh the evidence that the share of successes lies above `threshold` (P1, E+).

    H0: theta <= threshold, 0 < threshold < 1; Beta(1, 1) prior truncated to theta > threshold.
    Valid at every look, also for a theta that moves below the threshold.
    """
    _check((successes, failures), (threshold, 1 - threshold))
    # With a = b = 1: lnB(a, b) = 0 and I_{1-t}(b, a) = 1 - t.
    return (
        float(special.betaln(1 + successes, 1 + failures))
        + ln_betainc(1 + failures, 1 + successes, 1 - threshold)
        - math.log1p(-threshold)
        - successes * math.log(threshold)
        - failures * math.log1p(-threshold)
    )


def ln_e_minus(successes: int, failures: int, threshold: float) -> float:
    """Weigh the evidence that the share of successes lies below `threshold` (P1, E-)."""
    return ln_e_plus(failures, successes, 1 - threshold)


def ln_e_ratio(
    counts: Sequence[int], shares: Sequence[float], prior: Sequence[float] | None = None
) -> float:
    """Weigh the evidence that `counts` were not drawn with the intended `shares`.

    `shares` are positive and sum to 1; `prior` is the Dirichlet's a, by default 100 times the
    shares. ln E = lnB(a + S) - lnB(a) - sum S_i ln theta_i (Lindon & Malek, 2011.03567).
    """
    _check(counts, shares)
    alpha = [RATIO_CONCENTRATION * share for share in shares] if prior is None else list(prior)
    after = [a + count for a, count in zip(alpha, counts, strict=True)]
    chance = sum(n * math.log(share) for n, share in zip(counts, shares, strict=True))
    return _ln_dirichlet(after) - _ln_dirichlet(alpha) - chance


def ln_betainc(a: float, b: float, x: float) -> float:
    """Give ln I_x(a, b), the regularised incomplete beta function, also where I_x underflows.

    There x lies far below the mean a/(a+b), and the series of DLMF 8.17.8 has falling terms:
    I_x(a, b) = x^a (1-x)^b / (a B(a, b)) * sum_k (a+b)_k / (a+1)_k x^k.
    """
    direct = float(special.betainc(a, b, x))
    if direct > _ACCURATE:
        return math.log(direct)
    term = total = 1.0
    k = 0
    while term > total * 1e-17:
        term *= (a + b + k) / (a + 1 + k) * x
        total += term
        k += 1
    return (
        a * math.log(x)
        + b * math.log1p(-x)
        - math.log(a)
        - float(special.betaln(a, b))
        + math.log(total)
    )


def _ln_dirichlet(alpha: Sequence[float]) -> float:
    """Give ln of the multivariate beta function."""
    return float(sum(special.gammaln(a) for a in alpha) - special.gammaln(sum(alpha)))


def _check(counts: Sequence[int], shares: Sequence[float]) -> None:
    if any(count < 0 for count in counts):
        raise ValueError(f"counts are 0 or more, not {list(counts)}")
    if any(share <= 0 for share in shares) or not math.isclose(sum(shares), 1):
        raise ValueError(f"shares are above 0 and sum to 1, unlike {list(shares)}")
