"""A simulation as a whole: real controller, fake clock, figures with their errors."""

import asyncio
import json
from pathlib import Path

import pytest
from rich.console import Console
from simulate_samples import short_plan
from typer.testing import CliRunner

from deploy.cli import app
from rollout.plan import DEFAULT_PLAN
from rollout.planfile import write_plan
from rollout.simulate import pool
from rollout.simulate.picture import draw
from rollout.simulate.replicate import WE, Outcome, SimulationError, at_once, replicate
from rollout.simulate.rivals import RIVALS
from rollout.simulate.road import Site
from rollout.simulate.scenario import SCENARIOS, Levels, Setting, setting
from rollout.simulate.study import Study
from rollout.simulate.summary import Needed, Share, Summary, limit

RUN = CliRunner()
LOOKS = 6


def made(name: str, levels: Levels | None = None) -> Setting:
    return setting(short_plan(), SCENARIOS[name], levels or Levels(rps=20.0))


# --- scenarios -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_is_harmful_exactly_where_the_plan_does_not_tolerate_it(name: str) -> None:
    of = made(name)
    harmful = name.startswith(("regression-", "margin-"))
    assert bool(of.harms) == harmful
    if harmful:
        assert of.harms == (name.partition("-")[2],)
    barrier = {"errors": 0, "latency": 0, "hits": 1}
    assert of.barrier == (barrier[of.harms[0]] if harmful else None)


def test_a_margin_lies_exactly_where_the_plan_says() -> None:
    plan = short_plan(error_margin=0.5, error_ratio=2, max_error_rate=0.3, hit_margin=4)
    errors = setting(plan, SCENARIOS["margin-errors"], Levels(error=0.001)).world
    assert errors.candidate.error == pytest.approx(0.001 + 0.005)
    hits = setting(plan, SCENARIOS["margin-hits"], Levels()).world
    assert hits.incumbent.hits[1] - hits.candidate.hits[1] == pytest.approx(0.04)


def test_levels_that_a_person_sets_win_over_the_scenario() -> None:
    of = made("regression-errors", Levels(candidate_error=0.002, candidate_hit=0.5, slower=1.1))
    assert of.world.candidate.error == 0.002
    assert of.world.candidate.hits[1] == pytest.approx(0.5)
    assert of.world.candidate.median_s == pytest.approx(1.1 * of.world.incumbent.median_s)
    assert of.harms == ("hits",)


def test_sticky_keys_are_simulated_with_keys_as_the_unit() -> None:
    assert made("sticky-keys").plan.unit == "key"
    assert made("sticky-keys").world.keyed
    assert not made("aa").world.keyed


# --- one replicate -------------------------------------------------------------------------------


def test_a_candidate_that_fails_far_too_often_is_rolled_back_by_the_real_controller() -> None:
    of = made("regression-errors", Levels(rps=20.0, candidate_error=0.2))
    ours, *others = replicate(of, Site(1, 0), LOOKS)
    assert (ours.party, ours.end, ours.stage) == (WE, "rolled_back", 0)
    assert ours.requests < 20 * 1800
    assert [one.party for one in others] == list(RIVALS)


def test_a_stage_whose_deadline_comes_undecided_says_what_was_not_decided() -> None:
    ours = replicate(made("aa", Levels(rps=0.2)), Site(1, 0), LOOKS)[0]
    assert (ours.end, ours.stage) == ("held", 0)
    assert "paired errors" in ours.why.split(", ")


def test_a_plan_that_compares_latencies_begins_after_traffic_of_the_incumbent() -> None:
    plan = short_plan(latency_margins={"p95": 50})
    stages = [one.model_copy(update={"require": ("latency_relative",)}) for one in plan.stages[:2]]
    plan = plan.model_copy(update={"stages": (*stages, plan.stages[2])})
    equal = setting(plan, SCENARIOS["aa"], Levels(rps=50.0))
    slower = setting(plan, SCENARIOS["aa"], Levels(rps=50.0, slower=1.6))
    assert replicate(equal, Site(1, 0), LOOKS)[0].stage > 0
    assert replicate(slower, Site(1, 0), LOOKS)[0].stage == 0


def test_the_same_seed_gives_the_same_outcomes_and_another_seed_others() -> None:
    of = made("ar1-drift")
    one, again, other = (replicate(of, Site(seed, 3), LOOKS) for seed in (5, 5, 6))
    assert one == again
    assert [outcome.requests for outcome in one] != [outcome.requests for outcome in other]


def test_a_rival_that_never_alarms_promotes_after_the_minimum_durations() -> None:
    of = made("aa", Levels(rps=20.0, error=0.0))
    quiet = next(one for one in replicate(of, Site(1, 0), LOOKS) if one.party == "z-test")
    assert (quiet.end, quiet.stage, quiet.seconds) == ("promoted", 2, 3 * 1800)
    assert quiet.requests == pytest.approx(20 * 3 * 1800, rel=0.02)


def test_what_would_wait_for_something_real_is_refused() -> None:
    with pytest.raises(SimulationError, match="nothing to wait for"):
        at_once(asyncio.sleep(0))


# --- many ----------------------------------------------------------------------------------------


def test_outcomes_do_not_depend_on_how_the_work_was_cut() -> None:
    of = made("aa")
    whole = [one for chunk in pool.cut(of, 1, 4, LOOKS, size=4) for one in chunk.outcomes()]
    parts = [one for chunk in pool.cut(of, 1, 4, LOOKS, size=3) for one in chunk.outcomes()]
    assert whole == parts


def test_processes_give_what_one_process_gives_and_may_be_left_early() -> None:
    chunks = list(pool.cut(made("aa"), 1, 4, LOOKS, size=1))
    alone = {chunk.first: outcomes for chunk, outcomes in pool.run(chunks, 1)}
    running = pool.run(chunks, 2)
    chunk, outcomes = next(running)
    assert outcomes == alone[chunk.first]
    running.close()  # what an interrupt does: returns, and leaves no process


def outcome(**changes: object) -> Outcome:
    usual = {"party": WE, "end": "promoted", "stage": 2, "requests": 100, "seconds": 3600.0}
    return Outcome(**{**usual, **changes})  # type: ignore[arg-type] # paired above


def test_a_share_has_its_monte_carlo_error_and_a_share_of_0_has_one_too() -> None:
    assert Share(50, 100).value == 0.5
    assert Share(50, 100).error == pytest.approx(0.049, abs=0.001)
    assert Share(0, 2000).error == pytest.approx(0.0007, abs=0.0001)
    assert limit(0.01, 2000) == pytest.approx(0.01 + 3 * 0.002225, abs=1e-5)
    assert Share(33, 2000).keeps(0.01)
    assert not Share(34, 2000).keeps(0.01)


def test_requests_to_a_decision_count_what_was_never_decided_as_more_than_all_others() -> None:
    found = [outcome(requests=n) for n in (10, 20, 30, 40, 50)]
    found += [outcome(end="undecided", requests=1)] * 4
    row = Summary.of(made("aa"), found).row(WE)
    assert row.requests == Needed(median=50, p90=None)
    assert row.inconclusive == Share(4, 9)


def test_a_bad_candidate_that_left_its_barrier_was_let_through_even_if_rolled_back_later() -> None:
    of = made("regression-hits")
    ends = [("rolled_back", 1), ("rolled_back", 2), ("promoted", 2), ("held", 0)]
    row = Summary.of(of, [outcome(end=end, stage=stage) for end, stage in ends]).row(WE)
    assert row.let_through == row.false == Share(2, 4)
    assert row.right == Share(2, 4)


def test_a_plan_is_followed_stage_by_stage() -> None:
    found = [
        outcome(passed=(10, 20, 30)),
        outcome(passed=(12,), stage=1, end="undecided"),
        outcome(passed=(), stage=0, end="rolled_back"),
    ]
    stretches = Summary.of(made("aa"), found).stretches
    assert [one.entered.count for one in stretches] == [3, 2, 1]
    assert [(one.passed.count, one.passed.of) for one in stretches] == [(2, 3), (1, 2), (1, 1)]


def test_an_interrupt_keeps_the_figures_of_what_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(
        plan=short_plan(), names=("aa",), levels=Levels(), seed=1, replicates=20, looks=LOOKS
    )
    done = iter([chunk.outcomes() for chunk in pool.cut(made("aa"), 1, 2, LOOKS, size=2)])

    def outcomes(_: pool.Chunk) -> list[Outcome]:
        for found in done:
            return found
        raise KeyboardInterrupt

    monkeypatch.setattr(pool.Chunk, "outcomes", outcomes)
    study.run(1, Console(quiet=True))
    assert study.interrupted
    assert study.summaries()[0].replicates == 2


# --- the verb ------------------------------------------------------------------------------------


def test_the_verb_prints_json_with_every_party_and_draws_a_plot(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(write_plan(short_plan()))
    words = ["simulate", str(plan), "-s", "aa", "-s", "regression-errors", "-n", "3"]
    words += ["--looks", "4", "--rps", "5", "--processes", "1", "--json"]
    words += ["--plot", str(tmp_path / "plot.svg")]
    done = RUN.invoke(app, words)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    one, other = document["scenarios"]
    assert [party["party"] for party in one["parties"]] == [WE, *RIVALS]
    assert one["barrier"] is None
    assert other["barrier"] == "shadow"
    assert one["parties"][0]["false_rollback"]["of"] == 3
    picture = (tmp_path / "plot.svg").read_text()
    assert "regression-errors" in picture


def test_the_verb_prints_tables_for_people() -> None:
    words = ["simulate", "-s", "aa", "-n", "1", "--looks", "2", "--rps", "0.5", "--processes", "1"]
    done = RUN.invoke(app, words)
    assert done.exit_code == 0, done.output
    for words_ in ("false", "undecided %", "mann-whitney", "shadow-5", "standard error"):
        assert words_ in done.stdout


def test_the_verb_lists_the_scenarios() -> None:
    told = RUN.invoke(app, ["simulate", "--list"]).stdout
    assert all(name in told for name in SCENARIOS)


def test_an_unknown_scenario_is_refused_with_those_that_there_are() -> None:
    done = RUN.invoke(app, ["simulate", "-s", "nothing"])
    assert done.exit_code == 2
    assert "regression-hits" in done.output


def test_a_faulty_plan_is_refused_with_its_lines(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("name: x\ncandidate: phase2\nstages: []\nlabel_window_s: 0\n")
    done = RUN.invoke(app, ["simulate", str(plan)])
    assert done.exit_code == 2
    assert "plan.yaml:3" in done.output


def test_the_same_figures_give_the_same_plot(tmp_path: Path) -> None:
    summary = Summary.of(made("aa"), [outcome(), outcome(end="undecided")])
    for name in ("one.svg", "two.svg"):
        draw(tmp_path / name, [summary])
    one, two = ((tmp_path / name).read_bytes() for name in ("one.svg", "two.svg"))
    assert one == two


def test_how_finely_a_decision_is_timed_is_told() -> None:
    seconds = {"min_duration_s": 3.0, "max_duration_s": 60.0}
    hasty = tuple(stage.model_copy(update=seconds) for stage in short_plan().stages)
    for plan, told in (
        (short_plan(stages=hasty), "two looks lie 1 min apart at least, which is 1,200 requests"),
        (DEFAULT_PLAN, "two looks lie 42 min apart at least, which is 50,400 requests"),
    ):
        study = Study(
            plan=plan, names=("aa",), levels=Levels(rps=20.0), seed=1, replicates=1, looks=4
        )
        assert [one for one in study.remarks() if one.startswith(told)], study.remarks()
