"""What the judge says: checks with their evidence, verdicts of them, and the two that a tick needs.

Four kinds, and the difference between them is the point: PASS is measured good, FAIL is measured
bad, INCONCLUSIVE is not enough yet, ERROR is could-not-measure. No data never passes. A verdict is
the worst of its checks, in the order ERROR, FAIL, INCONCLUSIVE, PASS: where the measuring itself is
broken, neither a good nor a bad figure may be believed.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field

from rollout.snapshot import Frozen

Kind = Literal["PASS", "FAIL", "INCONCLUSIVE", "ERROR"]
Unit = Literal["%", "points", ""]
"""Of a figure: a share, a difference of shares, or a score between -1 and 1."""
Per = Literal[
    "requests", "candidate requests", "pairs", "labelled requests", "labelled candidate requests",
    "labelled pairs",
]  # fmt: skip
"""What a test counts. By `unit: key` it is the first of each key."""
GUARD: Final = "rollback guard"
"""The name of the check that is the guard's average."""
SEVERITY: Final[tuple[Kind, ...]] = ("ERROR", "FAIL", "INCONCLUSIVE", "PASS")
_SAID: Final[dict[Kind, str]] = {
    "ERROR": "could not be measured",
    "FAIL": "failed",
    "INCONCLUSIVE": "not enough yet",
    "PASS": "passed",
}
_LARGEST: Final = 700.0
"""exp of more overflows, and JSON knows no infinity."""


def _formerly(per: object) -> object:
    """Read records of a version that called the labels of the candidate's requests `labels`."""
    return "labelled candidate requests" if per == "labels" else per


class Part(Frozen):
    """One form of a test whose e-value is the average of several."""

    form: str
    """paired: the same request asked of both arms; split: the requests of each arm; rate: the
    candidate's alone."""
    counts: dict[str, int]
    """What it is a function of in the stage, by name."""
    ln_e: float
    """ln of its own e-value, over the stages that it is multiplied over."""
    rule: str


class Stake(Frozen):
    """One entry of the average of e-values that the rollback guard is."""

    name: str
    stage: str | None
    """None: multiplied over all stages."""
    stratum: str | None
    weight: float
    """Its part of the average: those of all entries sum to 1."""
    ln_e: float
    """ln of its e-value; 0 while it has not started."""


class Evidence(Frozen):
    """The counts and the test behind a check: enough to compute the e-value again."""

    metric: str
    stage: str
    """The stage of `counts`."""
    stratum: str | None = None
    """A context-length bucket; None is all of them."""
    counts: dict[str, int]
    """What the test is a function of, by name; of several `parts`, the first."""
    ln_e: float
    """The natural logarithm of the e-value; over stages, the sum of `by_stage`."""
    e_value: float
    """exp(ln_e), or the largest number of JSON where that overflows."""
    threshold: float
    """The e-value from which on the check is decided."""
    by_stage: dict[str, float] = Field(default_factory=dict)
    """ln of each stage's factor, where evidence is multiplied over stages; else empty."""
    estimate: float | None = None
    """The share, mean or difference that was observed in `stage`."""
    interval: tuple[float, float] | None = None
    """A 95 % confidence sequence of it, valid at every look."""
    unit: Unit = ""
    """Of `estimate` and `interval`."""
    rule: str
    """The test and its hypothesis in words."""
    needed: int | None = None
    """How many more of `per` are projected to a decision; None where none is in sight."""
    per: Annotated[Per, BeforeValidator(_formerly)] = "requests"
    """What `needed` counts."""
    parts: tuple[Part, ...] = ()
    """Where the e-value is the average of several, each of them, the largest first; else empty."""


class Check(Frozen):
    """One thing that was looked at: what was found, what was asked for, and what follows."""

    name: str
    kind: Kind
    observed: str
    required: str
    reason: str
    decides: bool = True
    """False: reported, and never part of the verdict's kind."""
    lack: float = 0
    """Of a minimum: how much more is needed, in seconds, requests or pairs."""
    evidence: Evidence | None = None


class Verdict(Frozen):
    """What the checks of a stage add up to. `reason` is one sentence for a release engineer."""

    kind: Kind
    checks: tuple[Check, ...]
    reason: str
    stakes: tuple[Stake, ...] = ()
    """Of the rollback guard: all that its e-value is the weighted average of."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the judge says: the gate of the present stage, and the rollback guard."""

    gate: Verdict
    guard: Verdict
    """FAIL when the guard fires, in whatever state the rollout is."""
    guard_high: float = 0.0
    """ln of the highest average e-value that the guard ever saw: hand it in at the next look."""

    @classmethod
    def of(cls, gate: Verdict) -> Self:
        """Take the checks of a gate that measured bad for the guard."""
        bad = tuple(check for check in gate.checks if check.kind == "FAIL" and check.decides)
        fine = Verdict(kind="PASS", checks=(), reason="nothing was measured bad")
        return cls(gate=gate, guard=combine(bad) if bad else fine)


def combine(checks: tuple[Check, ...]) -> Verdict:
    """Take the worst kind of the `checks` that decide, and the reasons of those of that kind.

    Of checks that all passed the names are enough: their reasons stand beside them.
    """
    deciding = [check for check in checks if check.decides]
    kind = min((check.kind for check in deciding), key=SEVERITY.index)
    if kind == "PASS" and len(deciding) > 1:
        reasons = f"all {len(deciding)} checks ({', '.join(check.name for check in deciding)})"
    else:
        reasons = "; ".join(check.reason for check in deciding if check.kind == kind)
    return Verdict(kind=kind, checks=checks, reason=f"{_SAID[kind]}: {reasons}")


def unreadable(reason: str) -> Verdict:
    """Say that the counts themselves cannot be read: could not measure, so nothing may advance."""
    check = Check(
        name="counts", kind="ERROR", observed="unreadable", required="readable", reason=reason
    )
    return combine((check,))


def e_value(ln_e: float) -> float:
    """Give exp(ln_e) as a number that JSON can hold."""
    return math.exp(min(ln_e, _LARGEST))
