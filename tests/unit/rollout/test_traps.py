"""Traps that other canary judges fall into: named ones, and how many requests ours needs."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from judged import AB25, AB50, World, look
from scipy import special

from rollout.judging.bounded import ln_e_mean_above
from rollout.judging.evidence import ln_e_plus
from rollout.judging.guard import guard
from rollout.judging.readings import Seen
from rollout.judging.trials import Trial
from rollout.plan import DEFAULT_PLAN, Plan, Stage

BREACH = math.log(100)


def plan_of(guard_: dict[str, float], **changes: object) -> Plan:
    return Plan.model_validate({**DEFAULT_PLAN.model_dump(), "guard": guard_, **changes})


ERRORS = plan_of({"errors": 1})


def beside(candidate: int, incumbent: int, requests: int) -> Seen:
    """As many requests for each arm, and their errors."""
    world = World(AB50, incumbent=requests, candidate=requests)
    return replace(world, candidate_errors=candidate, incumbent_errors=incumbent).seen()


def test_what_fails_a_hundredfold_in_seven_minutes_of_ten_is_not_passed_as_by_a_rank_test() -> None:
    by_minute = [100] * 7 + [1] * 3, [1] * 10
    mine, theirs = map(sum, by_minute)
    found = look(beside(mine, theirs, 10_000), plan=ERRORS)
    assert found.guard.kind == "FAIL"


def test_one_error_against_none_is_no_regression_whatever_the_relative_difference() -> None:
    assert look(beside(1, 0, 1000), plan=ERRORS).guard.kind == "PASS"


def test_five_hundred_errors_against_three_hundred_and_forty_are_one() -> None:
    assert look(beside(500, 340, 1000), plan=ERRORS).guard.kind == "FAIL"


def test_a_share_that_changes_between_the_stages_does_not_turn_two_wins_into_a_loss() -> None:
    """Kohavi's example of Simpson's paradox: the treatment wins on Friday and on Saturday."""
    friday = Stage(name="fri", mode="ab", weight=1, min_duration_s=0, min_requests=1)
    saturday = friday.model_copy(update={"name": "sat", "weight": 50, "require": ("hits",)})
    last = friday.model_copy(update={"name": "all", "weight": 100})
    stages = [one.model_dump() for one in (friday, saturday, last)]
    plan = plan_of({"hits": 1}, stages=stages, hit_margin=0.1, targets={5: 2})
    days = [
        World(stage, incumbent=c, candidate=t, labels=(c, t), hits=hits)
        for stage, c, t, hits in (
            (friday, 990_000, 10_000, (20_000, 230)),
            (saturday, 500_000, 500_000, (5_000, 6_000)),
        )
    ]
    found = look(*(day.seen() for day in days), plan=plan)
    check = next(check for check in found.gate.checks if check.name == "Hit@5")
    assert (check.kind, found.guard.kind) == ("PASS", "PASS")
    pooled = saturday.model_copy(update={"weight": 25.5})
    both = World(
        pooled, incumbent=1_490_000, candidate=510_000, labels=(1_490_000, 510_000),
        hits=(25_000, 6_230),
    )  # fmt: skip
    wrong = next(
        check for check in look(both.seen(), plan=plan).gate.checks if check.name == "Hit@5"
    )
    assert wrong.kind == "FAIL"
    assert wrong.evidence is not None
    assert wrong.evidence.estimate == pytest.approx(1.22 - 1.68, abs=0.01)  # points, pooled
    per_day = [100 * (day.hits[1] / day.labels[1] - day.hits[0] / day.labels[0]) for day in days]
    assert per_day == pytest.approx([0.28, 0.2], abs=0.01)


def test_a_hundred_and_twenty_looks_at_identical_arms_seldom_fire_the_guard() -> None:
    """Beside a one-sided z-test at 5 %, looked at as often, which fires far more often."""
    rng = np.random.default_rng(20261125)
    runs, looks, rate = 80, 120, 0.02
    fired = by_z = 0
    for _ in range(runs):
        total = np.zeros(4, dtype=np.int64)  # requests and errors of candidate and incumbent
        ours = z_test = False
        high = 0.0
        for _ in range(looks):
            mine = int(rng.binomial(60, 0.25))
            total += (mine, 60 - mine, rng.binomial(mine, rate), rng.binomial(60 - mine, rate))
            n_c, n_i, e_c, e_i = map(int, total)
            world = World(AB25, incumbent=n_i, candidate=n_c)
            seen = replace(world, candidate_errors=e_c, incumbent_errors=e_i).seen()
            verdict, high = guard(ERRORS, [Trial(seen, ERRORS)], high)
            ours = ours or verdict.kind == "FAIL"
            z_test = z_test or z_score(e_c, n_c, e_i, n_i) > 1.645
        fired, by_z = fired + ours, by_z + z_test
    alpha = ERRORS.alpha_rollback
    assert fired / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)
    assert by_z / runs > 0.15


def z_score(e_c: int, n_c: int, e_i: int, n_i: int) -> float:
    pooled = (e_c + e_i) / (n_c + n_i)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / n_c + 1 / n_i)) if 0 < pooled < 1 else 1.0
    return (e_c / n_c - e_i / n_i) / spread


# --- how many observations a decision takes ------------------------------------------------------


def paired_errors(rng: np.random.Generator, step: int) -> Iterator[float]:
    n01 = n10 = 0
    while True:
        found = rng.multinomial(step, (0.005 * 0.999, 0.001 * 0.995, 1 - 0.005 * 0.999 - 0.000995))
        n01, n10 = n01 + int(found[0]), n10 + int(found[1])
        yield ln_e_plus(n01, n10, 0.5)


def split_errors(rng: np.random.Generator, step: int) -> Iterator[float]:
    mine = theirs = 0
    while True:
        mine += int(rng.binomial(step, 0.0025))
        theirs += int(rng.binomial(step, 0.0005))
        yield ln_e_plus(mine, theirs, 0.5)


def paired_hits(rng: np.random.Generator, step: int) -> Iterator[float]:
    n01 = n10 = 0
    while True:
        found = rng.multinomial(step, (0.136, 0.064, 0.8))  # 20 % discordant, 7.2 points apart
        n01, n10 = n01 + int(found[0]), n10 + int(found[1])
        yield ln_e_plus(n01, n10, 0.5)


def split_hits(rng: np.random.Generator, step: int) -> Iterator[float]:
    cells = np.zeros(4, dtype=np.int64)
    while True:
        cells += rng.multinomial(step, (0.3325, 0.1675, 0.2965, 0.2035))
        yield ln_e_mean_above((0.8, -1.2, -0.8, 1.2), tuple(map(int, cells)), 0.0, -1.2)


def target(rng: np.random.Generator, step: int) -> Iterator[float]:
    hits = n = 0
    while True:
        hits, n = hits + int(rng.binomial(step, 0.665)), n + step
        yield ln_e_plus(hits, n - hits, 0.55)


def slow_answers(rng: np.random.Generator, step: int) -> Iterator[float]:
    """Half of the requests each; lognormal latency (s = 0.5), and the candidate's p95 20 % up."""
    mark = 1.6448536269514722  # the incumbent's p95, in standard deviations of ln(latency)
    over = 1 - special.ndtr(mark - math.log(1.2) / 0.5)
    mine = theirs = 0
    while True:
        mine += int(rng.binomial(step, 0.5 * over))
        theirs += int(rng.binomial(step, 0.5 * 0.05))
        yield ln_e_plus(mine, theirs, 0.5)


@pytest.mark.parametrize(
    ("observe", "step", "median", "late"),
    [
        (slow_answers, 10, 1150, None),
        (paired_errors, 50, 3500, 6500),
        (split_errors, 100, 7000, 13_000),
        (paired_hits, 10, 370, 800),
        (split_hits, 50, 2200, 4000),
        (target, 5, 170, 375),
    ],
)
def test_a_decision_takes_as_many_observations_as_the_method_promises(
    observe: Callable[[np.random.Generator, int], Iterator[float]],
    step: int,
    median: int,
    late: int | None,
) -> None:
    rng = np.random.default_rng(7)
    needed = [
        step * next(place for place, ln_e in enumerate(observe(rng, step), 1) if ln_e >= BREACH)
        for _ in range(200)
    ]
    found = np.quantile(needed, (0.5, 0.9))
    assert found[0] == pytest.approx(median, rel=0.2)
    if late is not None:
        assert found[1] == pytest.approx(late, rel=0.2)
