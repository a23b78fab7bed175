"""The GRU that trains is torch's GRU, at every position, in value and in gradient."""

import torch

from backends.model import Config, MemoryAugmentedGRU, predict
from backends.shape import DIMENSION
from backends.training.recurrence import predict_positions, read_window


def make_model() -> MemoryAugmentedGRU:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MemoryAugmentedGRU(Config(delta="free")).eval()


def test_every_position_and_every_gradient_is_that_of_torchs_own_gru() -> None:
    model = make_model()
    context = torch.randn(3, 7, DIMENSION, generator=torch.Generator().manual_seed(1))
    weights = list(model.gru.parameters()) + list(model.input_norm.parameters())
    read = model.first_read().expand(3, 7, DIMENSION)
    expected, _ = model.gru(torch.cat([model.input_norm(context), read], dim=-1))
    states = read_window(model, context)
    assert torch.allclose(states, expected, atol=1e-6)
    mix = torch.randn(states.shape, generator=torch.Generator().manual_seed(2))
    mine = torch.autograd.grad((states * mix).sum(), weights)
    theirs = torch.autograd.grad((expected * mix).sum(), weights)
    for one, other in zip(mine, theirs, strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()


def test_the_prediction_at_a_position_is_the_one_that_serving_gives_for_that_context() -> None:
    model = make_model()
    context = torch.randn(1, 9, DIMENSION, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        states = read_window(model, context)
        at_five = predict_positions(model, context[:, 5], states[:, 5])
        served = predict(context[:, :6], model(context[:, :6]))
    assert torch.allclose(at_five, served, atol=1e-5)


def test_bfloat16_products_stay_near_float32() -> None:
    model = make_model()
    context = torch.randn(2, 20, DIMENSION, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        exact, fast = read_window(model, context), read_window(model, context, torch.bfloat16)
    assert torch.nn.functional.cosine_similarity(exact, fast, dim=-1).min() > 0.999
