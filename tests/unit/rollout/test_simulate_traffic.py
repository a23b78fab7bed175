"""The traffic of a simulation: what is drawn is what gateways would have counted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulate_samples import short_plan

from rollout.plan import Stage
from rollout.simulate.looks import MOST_WINDOWS, grid
from rollout.simulate.replicate import Run
from rollout.simulate.road import Site
from rollout.simulate.scenario import SCENARIOS, Levels, Setting, setting
from rollout.simulate.traffic import LABEL_NAMES, Block, Keys, Visit, arriving, label_counts
from rollout.simulate.world import (
    AT_ONCE,
    LATE,
    Arm,
    Concord,
    World,
    drift_path,
    keyed_groups,
    plain_groups,
    together,
)
from rollout.snapshot import Mark
from rollout.tally import read

HITS = (0.30, 0.593, 0.70)
SAME = Arm(error=0.01, hits=HITS, median_s=0.1)
MARKS = {"budget": Mark(incumbent=0.2, candidate=0.2)}
HALF = Stage(name="half", mode="ab", weight=50, shadow_sample=50, min_duration_s=0, min_requests=0)


def world(**changes: object) -> World:
    usual = {"rps": 20.0, "incumbent": SAME, "candidate": SAME, "groups": plain_groups()}
    return World(**{**usual, **changes})  # type: ignore[arg-type] # names and values are paired above


def drawn(of: World, stage: Stage = HALF, grains: int = 500, keys: Keys | None = None) -> Block:
    visit = Visit(of, stage, MARKS, grain_s=60, rng=np.random.default_rng(5), keys=keys)
    return visit.block(np.zeros(grains))


def totals(block: Block) -> dict[str, int]:
    return {name: int(by.sum()) for name, by in block.counts.items()}


def shares(block: Block) -> dict[str, float]:
    counts = totals(block)
    labels = label_counts(block.truths[""].sum((1, 2))[:, None])[:, 0]
    told = dict(zip(LABEL_NAMES, labels.tolist(), strict=True))
    pairs = sum(counts[f"pair.error.{ab}"] for ab in ("00", "01", "10", "11"))
    return {
        "candidate": counts["assigned.candidate"]
        / (counts["assigned.candidate"] + counts["assigned.incumbent"]),
        "error": counts["error.candidate.status"] / counts["assigned.candidate"],
        "pair error": (counts["pair.error.01"] + counts["pair.error.11"]) / pairs,
        "hit5": told["hit5.candidate"] / told["labels.candidate"],
        "discordant": (told["pair.hit5.01"] + told["pair.hit5.10"])
        / sum(told[f"pair.hit5.{ab}"] for ab in ("00", "01", "10", "11")),
        "over": counts["over.candidate.budget"] / counts["assigned.candidate"],
    }


def test_arms_draw_the_shares_that_their_world_has() -> None:
    found = shares(drawn(world()))
    assert found["candidate"] == pytest.approx(0.5, abs=0.003)
    assert found["error"] == pytest.approx(0.01, abs=0.001)
    assert found["pair error"] == pytest.approx(0.01, abs=0.001)
    assert found["hit5"] == pytest.approx(0.593, abs=0.003)
    assert found["discordant"] == pytest.approx(0.20, abs=0.003)
    # P(lognormal above twice its median), s = 0.5
    assert found["over"] == pytest.approx(0.0828, abs=0.002)


@given(
    st.lists(st.floats(0.01, 1), min_size=2, max_size=4),
    st.lists(st.floats(0.01, 1), min_size=2, max_size=4),
    st.floats(0, 1),
)
def test_outcomes_drawn_together_keep_the_margins_of_each_arm(
    one: list[float], other: list[float], concord: float
) -> None:
    margins = (np.array(one) / sum(one), np.array(other) / sum(other))
    joint = together(margins[0], margins[1], concord)
    assert joint.min() >= -1e-12
    assert joint.sum(1) == pytest.approx(margins[0])
    assert joint.sum(0) == pytest.approx(margins[1])


def test_the_same_fate_leaves_no_discordant_pair_and_independence_the_product() -> None:
    arm = np.array([0.4, 0.6])
    assert together(arm, arm, 1.0) == pytest.approx(np.diag([0.4, 0.6]))
    assert together(arm, arm, 0.0)[1, 1] == pytest.approx(0.36)


def test_what_was_served_and_what_was_paired_are_of_the_same_requests() -> None:
    counts = totals(drawn(world(concord=Concord(errors=1.0), mirror_lost=0.0)))
    assert counts["mirror.intended"] == (counts["mirror.compared"] + counts["mirror.dropped.error"])
    assert counts["pair.error.01"] == counts["pair.error.10"] == 0
    assert counts["pair.error.11"] <= (
        counts["error.candidate.status"] + counts["error.incumbent.status"]
    )
    assert counts["pair.due"] == counts["pair.error.00"]


def test_in_the_shadow_the_incumbent_answers_all_and_the_weight_is_paired() -> None:
    shadow = HALF.model_copy(update={"mode": "shadow", "weight": 5.0, "shadow_sample": 0.0})
    counts = totals(drawn(world(), shadow))
    assert counts["assigned.candidate"] == 0
    assert counts["mirror.intended"] / counts["assigned.incumbent"] == pytest.approx(
        0.05, abs=0.002
    )


def test_late_truths_are_told_of_misses_last_and_some_never() -> None:
    truths = drawn(world()).truths[""].sum(1)
    parts = arriving(truths, LATE, np.random.default_rng(1))
    told = [dict(zip(LABEL_NAMES, label_counts(part).sum(1), strict=True)) for part in parts]
    first, last = (one["hit5.candidate"] / one["labels.candidate"] for one in (told[0], told[2]))
    assert first > 0.7
    assert last < 0.4
    assert sum(part.sum() for part in parts) == truths.sum()
    within = [sum(one[name] for one in told[:3]) for name in ("hit5.candidate", "labels.candidate")]
    assert within[0] / within[1] == pytest.approx(0.593, abs=0.01)  # closed windows are fair


def test_truths_that_come_at_once_all_come() -> None:
    truths = drawn(world(), grains=3).truths[""].sum(1)
    assert np.array_equal(arriving(truths, AT_ONCE, np.random.default_rng(1))[0], truths)


# --- keys ----------------------------------------------------------------------------------------


def keyed() -> tuple[World, Keys]:
    of = world(rps=2.0, groups=keyed_groups(200))
    return of, Keys.of(of)


def test_a_key_is_first_only_once_in_a_stage_however_long_it_lasts() -> None:
    of, keys = keyed()
    block = drawn(of, grains=5000, keys=keys)
    counts = totals(block)
    firsts = counts["first.assigned.candidate"] + counts["first.assigned.incumbent"]
    assert firsts <= keys.total.sum()
    assert firsts == pytest.approx(keys.total.sum(), rel=0.02)
    for name, by in block.counts.items():
        if name.startswith("first."):
            assert (by <= block.counts[name.removeprefix("first.")]).all()
    requests = counts["assigned.candidate"] + counts["assigned.incumbent"]
    assert requests == pytest.approx(2.0 * 60 * 5000, rel=0.07)  # whole keys round the rate


def test_keys_stay_with_the_candidate_while_the_weight_grows() -> None:
    _, keys = keyed()
    chance = np.random.default_rng(2)
    quarter = keys.at(0.25, chance)
    half = keys.at(0.5, chance)
    assert (half >= quarter).all()
    assert half.sum() / keys.total.sum() == pytest.approx(0.5, abs=0.02)
    assert np.array_equal(keys.at(1.0, chance), keys.total)


def test_requests_of_sticky_keys_are_not_independent() -> None:
    of, _ = keyed()
    totals_of = []
    for seed in range(60):
        visit = Visit(of, HALF, MARKS, grain_s=3600, rng=np.random.default_rng(seed),
                      keys=Keys.of(of))  # fmt: skip
        counts = totals(visit.block(np.zeros(2)))
        totals_of.append(counts["assigned.candidate"] - counts["assigned.incumbent"])
    requests = 2.0 * 3600 * 2
    assert np.var(totals_of) > 5 * requests  # of requests dealt one by one: about `requests`


# --- drift ---------------------------------------------------------------------------------------


def test_a_trend_rises_over_the_rollout_and_ar1_stays_about_zero() -> None:
    times = np.arange(0.0, 600_000.0, 60.0)
    chance = np.random.default_rng(3)
    trend = drift_path("trend", times, 300_000.0, chance)
    assert (trend[0], trend[-1]) == (0, 1)
    path = drift_path("ar1", times, 1.0, chance)
    assert np.mean(path) == pytest.approx(0, abs=0.3)
    assert np.std(path) == pytest.approx(1, abs=0.15)
    assert np.corrcoef(path[1:], path[:-1])[0, 1] == pytest.approx(0.97, abs=0.01)


# --- what the store is given ---------------------------------------------------------------------


def made(name: str, **changes: object) -> Setting:
    return setting(short_plan(**changes), SCENARIOS[name], Levels(rps=5.0))


@pytest.mark.parametrize("name", ["aa", "sticky-keys", "label-delay"])
def test_every_counter_is_of_the_closed_set_that_gateways_write(name: str) -> None:
    of = made(name)
    grids = tuple(grid(stage, 4) for stage in of.plan.stages)
    run = Run(of, grids, Site(1, 0))
    run.ours()
    counted = run.counted()
    assert counted
    for stage, counts in counted.items():
        found = read(counts)  # raises CountsError on a name that is not of the set
        total = found.total
        assert total["assigned.incumbent"] + total.get("assigned.candidate", 0) > 0, stage
        assert total["labels.incumbent" if stage != "full" else "labels.candidate"] > 0, stage


def test_a_long_stage_has_longer_windows_and_not_more_of_them() -> None:
    week = HALF.model_copy(update={"min_duration_s": 7 * 86_400.0, "max_duration_s": None})
    laid = grid(week, 16)
    assert laid.window <= MOST_WINDOWS
    assert laid.window * laid.grain_s >= 7 * 86_400
    assert laid.looks == tuple(sorted(set(laid.looks)))
    assert laid.looks[-1] == laid.horizon
    assert laid.window in laid.looks


def test_a_deadline_ends_the_looking() -> None:
    stage = HALF.model_copy(update={"min_duration_s": 3600.0, "max_duration_s": 7200.0})
    laid = grid(stage, 8)
    assert (laid.grain_s, laid.window, laid.horizon) == (60, 60, 120)
    assert 60 in laid.looks
