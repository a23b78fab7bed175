"""What a gate still waits for, and how long that takes. Pure.

Everything comes from the verdict itself: so nothing is missing that the judge has, and the judge
lacks nothing that is not named.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from rollout.explanation import Missing
from rollout.pace import Pace
from rollout.verdict import Check, Per, Verdict
from rollout.wording import count, span

_MINIMA: Final[dict[str, Per]] = {"minimum requests": "requests", "minimum pairs": "pairs"}
_COVERS: Final[dict[str, Per]] = {"mirror coverage": "pairs", "label coverage": "labelled requests"}


def missing(gate: Verdict, pace: Pace | None) -> Iterator[Missing]:
    """Name what keeps a gate undecided, in the order of its checks."""
    for check in gate.checks:
        if check.kind == "INCONCLUSIVE" and check.decides:
            yield _lacks(check, pace)


def earliest(lacking: Sequence[Missing]) -> float | None:
    """Give the time until the last of them is there; 0 when nothing is missing."""
    longest = max((math.inf if one.seconds is None else one.seconds for one in lacking), default=0)
    return longest if math.isfinite(longest) else None


def _lacks(check: Check, pace: Pace | None) -> Missing:
    proof = check.evidence
    if check.name == "minimum duration":
        return Missing(
            check=check.name,
            quantity="seconds",
            needed=check.lack,
            seconds=check.lack,
            outlook="projected",
            told=f"{span(check.lack)} more until the least duration ({check.required})",
        )
    if check.name in _MINIMA:
        return _more(check.name, _MINIMA[check.name], int(check.lack), pace)
    if proof is not None and proof.needed is not None:
        return _more(check.name, proof.per, proof.needed, pace)
    nothing = proof is None or not any(proof.counts.values())
    return Missing(
        check=check.name,
        quantity=proof.per if proof else _COVERS.get(check.name, "requests"),
        needed=None,
        seconds=None,
        outlook="too_early" if nothing else "undecided",
        told=f"nothing was counted for the check {check.name!r} yet"
        if nothing
        else f"no decision of the check {check.name!r} is in sight yet",
    )


def _more(check: str, per: Per, needed: int, pace: Pace | None) -> Missing:
    rate = pace.per_s[per] if pace else None
    what = f"{count(needed)} more {per} for the check {check!r}"
    if pace is None or rate is None:
        return Missing(
            check=check, quantity=per, needed=needed, seconds=None, outlook="too_early",
            told=f"{what}: how fast they come is not known yet",
        )  # fmt: skip
    if not rate:
        return Missing(
            check=check, quantity=per, needed=needed, seconds=None, outlook="never",
            told=f"{what}: never, while none come",
        )  # fmt: skip
    opens = pace.opens_s[per]
    seconds = opens + needed / rate
    after = f", of which the first are read in {span(opens)}" if opens else ""
    return Missing(
        check=check,
        quantity=per,
        needed=needed,
        seconds=seconds,
        outlook="projected",
        told=f"{what}: about {span(seconds)} at the present rate{after}",
    )
