"""What a controller reads twice is what it read once: kept figures never differ from fresh ones."""

import pytest
from simulate_samples import short_plan

from rollout.judging.judge import judge
from rollout.judging.readings import Seen
from rollout.shown import Reader
from rollout.store.port import Observations
from rollout.tally import CountsError

PLAN = short_plan()
SHADOW, HALF, _ = PLAN.stages
STRATUM = "-|101-200|"


def counts(**named: int) -> dict[str, int]:
    return {STRATUM + name.replace("__", "."): by for name, by in named.items()}


def found(shadow: dict[str, int], half: dict[str, int]) -> Observations:
    return Observations(counts={SHADOW.name: shadow, HALF.name: half})


LEFT = counts(assigned__incumbent=400, pair__error__00=190, pair__error__01=2, mirror__intended=200)
EARLY = counts(assigned__incumbent=50, assigned__candidate=52, error__candidate__status=1)
LATE = counts(assigned__incumbent=500, assigned__candidate=520, error__candidate__status=90)


def test_a_stage_whose_counts_are_as_before_is_handed_on_as_it_was() -> None:
    reader = Reader()
    first = reader.read("r", (SHADOW, HALF), found(LEFT, EARLY))
    again = reader.read("r", (SHADOW, HALF), found(dict(LEFT), LATE))
    assert again[0].seen is first[0].seen
    assert again[1].seen is not first[1].seen
    assert again[1].counts.total.total["assigned.candidate"] == 520


def test_counts_of_another_rollout_or_epoch_are_read_anew() -> None:
    reader = Reader()
    first = reader.read(("r", 1), (SHADOW,), found(LEFT, {}))
    other = reader.read(("r", 2), (SHADOW,), found(LEFT, {}))
    assert other[0].seen is not first[0].seen


def test_a_judgement_of_kept_stages_is_the_one_of_fresh_stages() -> None:
    reader = Reader()
    for half in (EARLY, LATE, LATE):
        kept = [one.seen for one in reader.read("r", (SHADOW, HALF), found(LEFT, half))]
        fresh = [Seen(one.stage, one.counts, one.labels) for one in kept]
        for plan in (PLAN, PLAN.model_copy(update={"max_error_rate": 30.0})):
            assert judge(plan, kept, 100.0) == judge(plan, fresh, 100.0)
    assert judge(PLAN, kept, 100.0).guard.kind == "FAIL"


def test_unreadable_counts_are_refused_each_time() -> None:
    reader = Reader()
    for _ in range(2):
        with pytest.raises(CountsError):
            reader.read("r", (SHADOW,), found({STRATUM + "nonsense": 1}, {}))
