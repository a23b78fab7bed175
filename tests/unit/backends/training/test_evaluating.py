"""An evaluation asks every system the same, as serving would, and says what it found."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from training_samples import make_corpus, source

from backends import checkpoint
from backends.model import Config, MemoryAugmentedGRU, predict
from backends.training.archive import About, Archive, write_archive
from backends.training.card import main_table, say_difference
from backends.training.evaluation import Arm, Difference, difference, evaluate, predict_all
from backends.training.judging import Job, judge
from backends.training.questions import Question, choose_questions


@pytest.fixture(scope="module")
def model() -> MemoryAugmentedGRU:
    torch.set_num_threads(1)  # the work is too small to share
    return checkpoint.seeded(1, Config(delta="free")).model


def test_an_arm_predicts_what_it_would_serve_for_its_newest_vectors(
    tmp_path: Path, model: MemoryAugmentedGRU
) -> None:
    bank = make_corpus(tmp_path, chains=3).vectors
    questions = [Question(0, 0, 5), Question(0, 0, 9), Question(1, 24, 20), Question(2, 48, 8)]
    found = predict_all(Arm("phase1", model, 8), bank, questions)
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
    found = evaluate(arms, corpus.vectors, questions)
    assert [system.name for system in found.systems][:3] == ["phase1", "phase2", "repeat the last"]
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
    assert 0 < found.low < 20 < found.high


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(1, 3, "is above"), (-3, -1, "is below"), (-1, 1, "is not told apart from")],
)
def test_a_difference_is_said_as_what_it_shows(low: float, high: float, words: str) -> None:
    found = Difference(of="a", less="b", where="x", chains=1, queries=1, mean=0, low=low, high=high)
    assert words in say_difference(found)


def test_an_evaluation_writes_json_plot_and_a_card_per_arm(
    tmp_path: Path, model: MemoryAugmentedGRU
) -> None:
    corpus = make_corpus(tmp_path / "made", chains=2)
    sample = tmp_path / "sample.npz"
    write_archive(
        sample,
        Archive(
            vectors=np.asarray(corpus.vectors),
            ids=corpus.ids,
            chain=corpus.chain,
            texts=tuple(f"text {i}" for i in range(48)),
            mean=corpus.mean,
            about=About(encoder="e", pooling="p", chains=(source("a"), source("b"))),
        ),
    )
    weights = tmp_path / "weights.safetensors"
    checkpoint.save(model, weights, trained=False, dtype=torch.bfloat16)
    out = tmp_path / "out"
    job = Job(weights, weights, out, None, 2, 0, 1, sample)
    found = judge(job, Console(quiet=True))
    document = json.loads((out / "evaluation.json").read_text())
    assert document["phase1"] == document["phase2"] == checkpoint.load(weights).identity
    assert document["queries"] == found.queries == 4
    card = (out / "phase2.md").read_text()
    assert document["phase2"] in card
    assert "## Where it fails" in card
    assert (out / "evaluation.svg").stat().st_size > 1000
