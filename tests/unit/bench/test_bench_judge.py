"""The judge's bench: its grid, its file of finished chunks, its arithmetic."""

from pathlib import Path

import pytest
from bench_checkpoint import Checkpoint, digest, key_of, sources
from bench_cost import costs
from bench_grid import CHUNK, DETECT_S, Cell, grid
from bench_judge import alpha, detected, spread

from rollout.plan import Plan
from rollout.simulate.pool import Chunk
from rollout.simulate.replicate import Outcome
from rollout.simulate.summary import Share, Summary

ROLLED = Outcome("turnout", "rolled_back", 0, 500, 900.0, (), "errors", 7)


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return grid(60, dense=30)


def test_the_grid_holds_every_rate_base_and_scenario_once(cells: list[Cell]) -> None:
    keys = [key_of(cell) for cell in cells]
    assert len(set(keys)) == len(keys) == 7 * 6 + 5 * 3 + 2
    assert {"aa@1/0.001", "sticky-keys@200/0.01", "margin-hits@20/0.001"} <= set(keys)


def test_every_plan_of_the_grid_is_one_that_could_be_started(cells: list[Cell]) -> None:
    for cell in cells:
        Plan.model_validate(cell.setting.plan.model_dump())


def test_a_grid_tolerates_its_harmless_candidates_and_not_its_harmful_ones(
    cells: list[Cell],
) -> None:
    for cell in cells:
        harmful = cell.name.startswith(("regression", "margin", "detect"))
        assert bool(cell.setting.harms) == harmful, key_of(cell)
        assert alpha(Summary.of(cell.setting, [ROLLED])) == (0.05 if harmful else 0.01)


def test_the_bench_goes_on_from_the_chunks_that_were_finished(
    cells: list[Cell], tmp_path: Path
) -> None:
    path, cell = tmp_path / "deep" / "chunks.jsonl", cells[0]
    of = digest(cells)
    kept = Checkpoint(path, of)
    first, second, third = kept.missing(cell)
    assert (first.count, third.count) == (CHUNK, 60 - 2 * CHUNK)
    kept.add(cell, second, [ROLLED] * 3)
    with path.open("a") as lines:
        lines.write('{"cell": "aa@1/0.001", "first": 0, "en')  # it was killed as it wrote
    again = Checkpoint(path, of)
    assert [chunk.first for chunk in again.missing(cell)] == [first.first, third.first]
    assert list(again.outcomes(cell)) == [ROLLED] * 3
    again.add(cell, first, [ROLLED])
    assert list(Checkpoint(path, of).outcomes(cell)) == [ROLLED] * 4


def test_chunks_of_another_judge_or_another_grid_count_for_nothing(
    cells: list[Cell], tmp_path: Path
) -> None:
    path, cell = tmp_path / "chunks.jsonl", cells[0]
    kept = Checkpoint(path, digest(cells))
    kept.add(cell, kept.missing(cell)[0], [ROLLED])
    assert digest(cells) != digest(cells[1:])
    assert list(Checkpoint(path, digest(cells[1:])).outcomes(cell)) == []
    assert list(Checkpoint(path, digest(cells)).outcomes(cell)) == []  # the file was begun anew


def test_the_digest_is_of_the_code_that_decides_and_of_no_other() -> None:
    names = {file.name for file in sources("rollout.simulate.replicate")}
    assert {"judge.py", "bets.py", "memory.py", "tally.py", "controller.py", "looks.py"} <= names
    assert names.isdisjoint({"api.py", "cli.py", "charts.py", "picture.py", "redis.py"})


def test_a_fresh_start_forgets(cells: list[Cell], tmp_path: Path) -> None:
    path, cell = tmp_path / "chunks.jsonl", cells[0]
    Checkpoint(path, "x").add(cell, next(cell.chunks()), [ROLLED])
    assert len(Checkpoint(path, "x", fresh=True).missing(cell)) == 3


def test_detection_is_a_rollback_in_time_and_not_a_late_one() -> None:
    late = Outcome("turnout", "rolled_back", 0, 500, DETECT_S + 60)
    other = Outcome("z-test", "rolled_back", 0, 500, 60.0)
    undecided = Outcome("turnout", "undecided", 0, 500, 60.0)
    assert detected([ROLLED, late, other, undecided]) == Share(1, 3)


def test_a_share_is_told_in_percent_with_its_interval() -> None:
    found = spread(Share(20, 2000))
    assert found.value == 1.0
    assert 0.6 < found.low < 1 < found.high < 1.4
    assert spread(Share(0, 50)).low == 0


def test_a_tick_is_timed_in_the_last_stage_alone() -> None:
    found = costs(1)
    for middle, high in found.values():
        assert 0 < middle.value <= high.value < 1
    assert found["tick"][0].count >= 5
    assert isinstance(next(grid(1, dense=2)[0].chunks()), Chunk)
