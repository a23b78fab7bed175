"""A training learns, goes on after a kill as if nothing had happened, and its weights load."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress
from training_samples import make_corpus

from backends import checkpoint
from backends.model import Config, MemoryAugmentedGRU
from backends.shape import HIDDEN
from backends.training import train as training
from backends.training.begin import new_model, remember_long, write_memory
from backends.training.recipe import Recipe, rate_at, recipe_for
from backends.training.sides import Sides
from backends.training.state import Position, ResumeError
from backends.training.train import train

SIDES = Sides(
    train=tuple((24 * i, 24 * i + 24) for i in range(4)),
    validation=((24 * 28, 24 * 29), (24 * 29, 24 * 30)),
    test=(),
    proof="",
)


def tiny(**more: object) -> Recipe:
    settings: dict[str, object] = {
        "context_length": 12, "batch": 8, "micro_batch": 4, "epochs": 2, "positions": 4,
        "negatives": 16, "learning_rate": 1e-3, "contrast": 1.0, "delta": "free",
        "zero_head": True, "validation_queries": 20, "validation_bank": 200,
        "precision": "float32",
    }  # fmt: skip
    return recipe_for("phase1", **{**settings, **more})


def run(folder: Path, recipe: Recipe, save_every_s: float = 60.0) -> Position:
    torch.set_num_threads(1)  # the work is too small to share
    corpus = make_corpus(folder.parent / "corpus")
    with Progress(disable=True) as progress:
        return train(corpus, SIDES, recipe, folder, progress, save_every_s)


def test_a_training_writes_loadable_weights_its_config_and_its_history(tmp_path: Path) -> None:
    end = run(tmp_path / "run", tiny())
    loaded = checkpoint.load(tmp_path / "run" / "phase1.safetensors")
    assert loaded.trained
    assert loaded.model.config == Config(delta="free")
    assert (tmp_path / "run" / "phase1.safetensors").stat().st_size <= 26_000_000
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert [record["epoch"] for record in history] == [0, 1, 2]
    assert end.epoch == 2
    assert (tmp_path / "run" / "history.svg").exists()
    assert Recipe.model_validate_json((tmp_path / "run" / "config.json").read_text()) == tiny()


class KilledError(Exception):
    """Stands for a kill -9: nothing of the process is used afterwards."""


def test_a_killed_training_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", tiny())
    step = training._step
    taken: list[int] = []

    def dying(*arguments: object) -> float:
        if len(taken) == 2:
            raise KilledError
        taken.append(1)
        return step(*arguments)  # type: ignore[arg-type]  # handed through as they came

    monkeypatch.setattr(training, "_step", dying)
    with pytest.raises(KilledError):
        run(tmp_path / "killed", tiny(), save_every_s=0)  # after every step
    monkeypatch.setattr(training, "_step", step)
    resumed = run(tmp_path / "killed", tiny())
    assert resumed.best == whole.best
    assert [record["loss"] for record in resumed.history] == [
        record["loss"] for record in whole.history
    ]
    weights = [
        checkpoint.load(tmp_path / name / "phase1.safetensors").model.state_dict()
        for name in ("whole", "killed")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_another_recipe_does_not_go_on_with_this_training(tmp_path: Path) -> None:
    run(tmp_path / "run", tiny(epochs=1))
    with pytest.raises(ResumeError, match=r"learning_rate was 0\.001"):
        run(tmp_path / "run", tiny(epochs=1, learning_rate=2e-3))


def test_a_training_goes_on_with_the_state_and_the_history_of_an_older_version(
    tmp_path: Path,
) -> None:
    run(tmp_path / "run", tiny(epochs=1))
    path = tmp_path / "run" / "state.pt"
    state = torch.load(path, weights_only=True)
    del state["loss"]
    old = {name: value for name, value in state["history"][0].items() if "leaky" not in name}
    state["history"], state["recipe"] = [old], tiny().model_dump_json()
    torch.save(state, path)
    assert run(tmp_path / "run", tiny()).history[0] == old
    assert len(json.loads((tmp_path / "run" / "history.json").read_text())) == 2


def test_a_validation_stands_beside_the_baselines(tmp_path: Path) -> None:
    _, record = run(tmp_path / "run", tiny(epochs=1)).history
    assert {f"{short}_hit@5" for short in ("repeat", "mean2", "leaky0.6")} <= record.keys()


def test_the_options_of_the_roadmap_run(tmp_path: Path) -> None:
    options = {"soft_negatives": 0.05, "hard_negatives": 0.07, "hard_from": 0.1, "overlap": 6}
    end = run(tmp_path / "run", tiny(epochs=1, memory_write=True, chrono=12, **options))
    assert end.epoch == 1


def test_a_zero_head_starts_at_repeating_the_last_vector() -> None:
    sample = np.zeros((1, 1, 768), dtype=np.float32)  # read by `integrate` alone
    model = new_model(tiny(), sample).eval()
    with torch.inference_mode():
        assert not model(torch.randn(2, 5, 768)).any()


def test_chrono_initialisation_spreads_the_update_gates_memory_up_to_the_longest() -> None:
    model = MemoryAugmentedGRU(Config())
    remember_long(model, 500)
    biases = dict(model.gru.named_parameters())
    bias = biases["bias_ih_l0"][HIDDEN : 2 * HIDDEN]
    assert bias.min() >= 0
    assert 5.5 < bias.max() <= torch.tensor(499.0).log()
    assert not biases["bias_hh_l0"][HIDDEN : 2 * HIDDEN].any()


def test_the_memory_is_written_as_the_original_does() -> None:
    model = MemoryAugmentedGRU(Config(delta="free")).eval()
    before, states = model.memory.memory.clone(), torch.randn(6, HIDDEN)
    outputs = model.delta(states)
    write_memory(model, states)
    weights = model.memory.write_gate(states).softmax(-1).mean(0)
    expected = 0.9 * before + 0.1 * weights[:, None] * outputs.mean(0)
    assert torch.allclose(model.memory.memory, expected, atol=1e-6)


def test_the_learning_rate_warms_up_for_an_epoch_and_falls_to_zero() -> None:
    recipe = recipe_for("phase2", epochs=10)
    rates = [rate_at(step, 20, recipe) for step in range(201)]
    assert rates[0] == pytest.approx(1e-4 / 20)
    assert max(rates) == rates[19] == pytest.approx(1e-4)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_the_arms_differ_in_their_window_and_alpha() -> None:
    assert (
        recipe_for("phase1").model_dump() | {"arm": "phase2"}
        == recipe_for("phase2", context_length=100, contrast=0.05).model_dump()
    )
