"""An evaluation asks every system the same, as serving would, and says what it found."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.progress import Progress
from training_samples import make_corpus, make_sample
from typer.testing import CliRunner

from backends import checkpoint
from backends.model import Config, MemoryAugmentedGRU, predict
from backends.training.evaluation import Arm, Difference, difference, evaluate, predict_all
from backends.training.heldout import choose_held_out, write_held_out
from backends.training.judging import Job, judge
from backends.training.questions import Question, choose_questions
from backends.training.recipe import recipe_for
from backends.training.tables import main_table, say_difference
from backends.training.trained import SeedError
from deploy.cli import app

SILENT = Progress(disable=True)


@pytest.fixture(scope="module")
def model() -> MemoryAugmentedGRU:
    torch.set_num_threads(1)  # the work is too small to share
    return checkpoint.seeded(1, Config(delta="free")).model


def test_an_arm_predicts_what_it_would_serve_for_its_newest_vectors(
    tmp_path: Path, model: MemoryAugmentedGRU
) -> None:
    bank = make_corpus(tmp_path, chains=3).vectors
    questions = [Question(0, 0, 5), Question(0, 0, 9), Question(1, 24, 20), Question(2, 48, 8)]
    found = predict_all(Arm("phase1", model, 8), bank, questions, SILENT)
    for row, question in zip(found, questions, strict=True):
        newest = np.asarray(bank[slice(*question.window(8))], dtype=np.float32)
        context = torch.from_numpy(newest)[None]
        served = predict(context, model(context))[0]
        assert np.allclose(row, served.numpy(), atol=1e-5)


def test_every_system_is_asked_the_same_and_repeating_is_what_it_says(
    tmp_path: Path, model: MemoryAugmentedGRU
) -> None:
    corpus = make_corpus(tmp_path, chains=4)
    questions = choose_questions([(0, 24), (24, 48)], 4, seed=0)
    arms = [Arm("phase1", model, 8), Arm("phase2", model, 20)]
    found = evaluate(arms, corpus.vectors, questions, "a walk", SILENT)
    assert [system.name for system in found.systems] == [
        "phase1",
        "phase2",
        "repeat the last",
        *(f"mean of the last {k}" for k in (2, 3, 5)),
        *(f"leaky mean, decay {decay}" for decay in (0.6, 0.8)),
    ]
    repeated = found.systems[2]
    assert repeated.whole["hit@5"] == 100  # a walk's next vector is the nearest one that is left
    assert repeated.by_pool == {}  # every pool would be larger than this bank
    assert found.queries == 8
    assert found.lengths["<=100"] == 8
    assert "100.0" in main_table(found)[1][2][1]


def test_the_unit_of_a_difference_is_the_chain() -> None:
    questions = [Question(chain, 0, 200) for chain in range(40) for _ in range(5)]
    better, worse = np.ones(200, dtype=np.int64), np.ones(200, dtype=np.int64)
    worse[::5] = 99  # one query in five of each chain
    everything = np.ones(200, dtype=bool)
    ranks = {"a": better, "b": worse}
    found = difference("a", "b", "all contexts", ranks, questions, everything)
    assert found.chains == 40
    assert found.mean == pytest.approx(20)
    assert 0 < found.low < 20
    assert found.clipped == 0


def test_a_chain_counts_at_most_twenty_points_and_that_is_told() -> None:
    questions = [Question(chain, 0, 200) for chain in range(40)]
    ranks = {"a": np.ones(40, dtype=np.int64), "b": np.repeat([99, 1], [10, 30])}
    found = difference("a", "b", "x", ranks, questions, np.ones(40, dtype=bool))
    assert found.mean == pytest.approx(5)
    assert found.clipped == 10
    assert "10 of the chains cut to 20 points" in say_difference(found)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(1, 3, "is above"), (-3, -1, "is below"), (-1, 1, "is not told apart from")],
)
def test_a_difference_is_said_as_what_it_shows(low: float, high: float, words: str) -> None:
    found = Difference(
        of="a", less="b", where="x", chains=1, queries=1, clipped=0, mean=0, low=low, high=high
    )
    assert words in say_difference(found)


@pytest.fixture
def job(tmp_path: Path, model: MemoryAugmentedGRU) -> Job:
    """Both arms with the same weights, a sample of two chains, a corpus, and its held-out file."""
    weights = tmp_path / "phase1.safetensors"
    checkpoint.save(model, weights, trained=False, dtype=torch.bfloat16)
    sample = tmp_path / "sample.npz"
    made = make_sample(sample)
    corpus = make_corpus(tmp_path / "corpus", licence="PSF-2.0")
    held_out = tmp_path / "heldout.npz"
    write_held_out(held_out, choose_held_out(corpus, made.ids, 0))
    return Job(
        phase1=weights, phase2=weights, out=tmp_path / "out", corpus=None, queries=None,
        per_bucket=2, seed=0, threads=1, sample=sample, held_out=held_out,
    )  # fmt: skip


QUIET = Console(quiet=True)


def test_an_evaluation_writes_json_plots_and_a_card_per_arm(job: Job) -> None:
    found = judge(replace(job, corpus=job.sample.parent / "corpus"), QUIET, SILENT)
    assert list(found) == ["shipped", "whole-bank"]
    assert found["whole-bank"].bank == 48 + 30 * 24
    assert found["shipped"].bank < found["whole-bank"].bank
    assert found["shipped"].chains == found["whole-bank"].chains  # every test chain may ship
    document = json.loads((job.out / "evaluation.json").read_text())
    assert document["phase1"] == document["phase2"] == checkpoint.load(job.phase1).identity
    assert document["shipped"]["queries"] == found["shipped"].queries
    card = (job.out / "phase2.md").read_text()
    for words in (document["phase2"], "## Where it fails", "nothing is known of it", "whole bank"):
        assert words in card
    for name in ("shipped.svg", "whole-bank.svg"):
        assert (job.out / name).stat().st_size > 1000


def test_the_same_files_give_the_same_bytes(job: Job) -> None:
    for name in ("one", "two"):
        judge(replace(job, out=job.out / name), QUIET, SILENT)
    first = {path.name: path.read_bytes() for path in (job.out / "one").iterdir()}
    assert first == {path.name: path.read_bytes() for path in (job.out / "two").iterdir()}
    assert len(first) == 4


def test_the_queries_can_be_bounded(job: Job) -> None:
    assert judge(replace(job, queries=3), QUIET, SILENT)["shipped"].queries == 3


def test_a_card_tells_the_recipe_and_the_history_beside_the_weights(job: Job) -> None:
    folder = job.phase1.parent
    (folder / "config.json").write_text(recipe_for("phase1", epochs=9).model_dump_json())
    record = {"epoch": 3, "loss": 1.0, "seconds": 7200, "hit@5": 21.5, "repeat_hit@5": 18.25}
    (folder / "phase1.history.json").write_text(json.dumps([record]))
    (folder / "phase1.config.json").write_text(recipe_for("phase1", epochs=8).model_dump_json())
    judge(job, QUIET, SILENT)
    card = (job.out / "phase1.md").read_text()
    for words in ("epochs 8", "Of 3 epochs number 3", "21.50 %", "18.25 %", "120 minutes"):
        assert words in card


def test_weights_of_another_split_are_refused(job: Job) -> None:
    recipe = recipe_for("phase1", seed=3)
    (job.phase1.parent / "config.json").write_text(recipe.model_dump_json())
    with pytest.raises(SeedError, match="phase1 was trained with seed 3"):
        judge(job, QUIET, SILENT)


def test_held_out_chains_of_another_split_are_refused(job: Job) -> None:
    with pytest.raises(SeedError, match="holds the test chains of seed 0, not of 1"):
        judge(replace(job, seed=1), QUIET, SILENT)


def test_missing_weights_are_told_in_a_sentence(job: Job) -> None:
    options = ["--sample", str(job.sample), "--held-out", str(job.held_out)]
    missing = str(job.out / "phase1.safetensors")
    weights = ["--phase1", missing, "--phase2", str(job.phase2)]
    result = CliRunner().invoke(app, ["evaluate", *weights, *options])
    assert result.exit_code == 1
    assert f"cannot read the checkpoint {missing}" in result.stderr
