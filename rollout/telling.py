"""How the judge writes its figures into checks. Pure."""

from rollout.bets import named
from rollout.sequences import needed
from rollout.trials import Tested
from rollout.verdict import Evidence, e_value


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
    bet, counts = tested.leading
    all_counts = dict(named(bet, counts))
    rules = [bet.rule]
    for other, numbers in tested.others:
        all_counts |= named(other, numbers)
        rules.append(other.rule)
    averaged = "the average of the e-values of: " if len(rules) > 1 else ""
    return Evidence(
        metric=metric,
        stage=stage,
        stratum=stratum,
        counts=all_counts,
        ln_e=tested.ln_e,
        e_value=e_value(tested.ln_e),
        threshold=e_value(bar),
        by_stage=tested.by_stage,
        estimate=bet.estimate(counts),
        interval=bet.interval(counts),
        unit=bet.told,
        rule=averaged + "; ".join(rules),
        needed=needed(tested.ln_e, bar, bet.growth(counts), tested.size),
        per=bet.per,
    )
