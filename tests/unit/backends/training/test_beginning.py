"""Where a training begins: at a whitened leaky mean of the context, before the first step."""

import numpy as np
import pytest
import torch

from backends.model import Config, MemoryAugmentedGRU, predict
from backends.protocol import Floats
from backends.training.begin import hold_matrices, new_model
from backends.training.recipe import recipe_for
from backends.training.recurrence import predict_positions, read_window

DECAY = 0.7


def draw_windows(count: int, length: int) -> Floats:
    """Vectors of length 1 of rank 64, as real text's lie in few of their 768 dimensions."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(count, length, 64)) @ rng.normal(size=(64, 768))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=-1, keepdims=True), dtype=np.float32)


def whitening(windows: Floats) -> Floats:
    """C^-1/2 of the windows' second moment C, a thousandth added to each variance."""
    rows = windows.reshape(-1, 768).astype(np.float64)
    variances, directions = np.linalg.eigh(rows.T @ rows / len(rows))
    roots = 1 / np.sqrt(np.maximum(variances, 0) + 1e-3)
    return np.asarray((directions * roots) @ directions.T, dtype=np.float32)


@pytest.fixture(scope="module")
def windows() -> Floats:
    return draw_windows(48, 24)


@pytest.fixture(scope="module")
def model(windows: Floats) -> MemoryAugmentedGRU:
    torch.set_num_threads(1)  # the work is too small to share
    with torch.random.fork_rng():
        torch.manual_seed(0)
        recipe = recipe_for("phase1", delta="free", chrono=100, integrate=DECAY)
        return new_model(recipe, windows).eval()


@pytest.mark.parametrize("length", [1, 4, 24])
def test_a_training_begins_at_the_whitened_leaky_mean_of_the_context(
    model: MemoryAugmentedGRU, windows: Floats, length: int
) -> None:
    context = windows[:, :length]
    weights = DECAY ** np.arange(length - 1, -1, -1)
    leaky = np.einsum("t,mtd->md", weights, context)
    leaky @= whitening(windows)
    leaky /= np.linalg.norm(leaky, axis=1, keepdims=True)
    formula = context[:, -1] + 6 * leaky
    formula /= np.linalg.norm(formula, axis=1, keepdims=True)
    with torch.inference_mode():
        tensor = torch.from_numpy(context)
        predicted = predict(tensor, model(tensor)).numpy()
    assert (predicted * formula).sum(axis=1).mean() > 0.98


def test_the_delta_begins_six_times_as_long_as_the_last_vector(
    model: MemoryAugmentedGRU, windows: Floats
) -> None:
    with torch.inference_mode():
        assert model(torch.from_numpy(windows)).norm(dim=-1).mean() == pytest.approx(6, abs=1e-2)


def test_where_matrices_are_held_biases_and_norms_alone_learn() -> None:
    model = MemoryAugmentedGRU(Config())
    hold_matrices(model)
    learning = [weight.numel() for weight in model.parameters() if weight.requires_grad]
    assert 15_000 < sum(learning) < 20_000
    assert not model.gru.weight_hh_l0.requires_grad


def test_the_beginning_is_causal(model: MemoryAugmentedGRU, windows: Floats) -> None:
    whole, prefix = torch.from_numpy(windows), torch.from_numpy(windows[:, :9])
    with torch.inference_mode():
        at_eight = predict_positions(model, whole[:, 8], read_window(model, whole)[:, 8])
        alone = predict(prefix, model(prefix))
    assert torch.allclose(at_eight, alone, atol=1e-5)
