"""How the judge writes its figures into checks. Pure."""

from collections.abc import Mapping
from typing import Final

from rollout.judging.bets import named
from rollout.judging.sequences import needed
from rollout.judging.trials import Tested
from rollout.verdict import Evidence, Part, e_value


def share(value: float | None) -> str:
    """A percentage, or that there is none yet."""
    return "none yet" if value is None else f"{value:.4g} %"


def progress(found: object, need: object, what: str, *, enough: bool) -> str:
    """Say how far it is, or that it is far enough: `12 of 40 pairs`, `56 pairs (20 needed)`."""
    return f"{found} {what} ({need} needed)" if enough else f"{found} of {need} {what}"


def evidence(
    tested: Tested, bar: float, *, metric: str, stage: str, stratum: str | None
) -> Evidence:
    """Write down what was tested, `bar` being the ln of the e-value that decides."""
    if tested.leading is None:
        raise ValueError("nothing was tested")
    leading, sides = tested.leading, (tested.leading, *tested.others)
    bet, counts = leading.bet, leading.counts
    averaged = "the average of the e-values of: " if len(sides) > 1 else ""
    parts = tuple(
        Part(form=one.form, counts=named(one.bet, one.counts), ln_e=one.ln_e, rule=one.bet.rule)
        for one in sides
    )
    return Evidence(
        metric=metric,
        stage=stage,
        stratum=stratum,
        counts=named(bet, counts),
        ln_e=tested.ln_e,
        e_value=e_value(tested.ln_e),
        threshold=e_value(bar),
        by_stage=tested.by_stage,
        estimate=bet.estimate(counts),
        interval=bet.interval(counts),
        unit=bet.told,
        rule=averaged + "; ".join(part.rule for part in parts),
        needed=needed(tested.ln_e, bar, bet.growth(counts), tested.size),
        per=bet.per,
        parts=parts if len(parts) > 1 else (),
    )


_FORMS: Final[Mapping[str, str]] = {
    "paired": "on pairs", "split": "on the split", "rate": "of the candidate",
}  # fmt: skip


def said(tested: Tested) -> str:
    """Write the counts of a test, by form where it has several."""
    if tested.leading is None:
        raise ValueError("nothing was tested")
    if not tested.others:
        return tested.leading.bet.said(tested.leading.counts)
    sides = (tested.leading, *tested.others)
    return "; ".join(f"{_FORMS[one.form]} {one.bet.said(one.counts)}" for one in sides)
