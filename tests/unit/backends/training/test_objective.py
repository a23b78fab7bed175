"""The loss is the recipe's, and what a query's context holds is no negative."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own custom

from backends.training.objective import hard_loss, loss_of, soft_loss
from backends.training.recipe import recipe_for


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_the_loss_is_mse_and_half_the_cosine_distance_and_alpha_times_infonce() -> None:
    predicted, candidates = unit(4, 8), unit(10, 8, seed=1)
    place, allowed = torch.tensor([0, 3, 5, 9]), torch.ones(4, 10, dtype=torch.bool)
    truth = candidates[place]
    cosines = (predicted * truth).sum(-1)
    scores = (predicted @ candidates.T / 0.07).softmax(-1)[torch.arange(4), place]
    expected = (predicted - truth).square().mean() + 0.5 * (1 - cosines).mean()
    expected = expected - 0.05 * scores.log().mean()
    loss = loss_of(predicted, candidates, place, allowed, recipe_for("phase1"))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_candidate_in_the_querys_own_context_is_no_negative() -> None:
    candidates = unit(3, 8)
    predicted, place = candidates[:1], torch.tensor([1])  # predicts its own last vector exactly
    recipe = recipe_for("phase1", contrast=1.0)
    all_allowed = torch.ones(1, 3, dtype=torch.bool)
    without = torch.tensor([[False, True, True]])
    harsh = loss_of(predicted, candidates, place, all_allowed, recipe)
    fair = loss_of(predicted, candidates, place, without, recipe)
    assert fair < harsh
    assert fair.isfinite()


def test_soft_labels_of_the_truth_alone_are_infonce() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    likeness = torch.tensor([[1.0, -50.0, -50.0]])
    allowed = torch.ones(1, 3, dtype=torch.bool)
    expected = F.cross_entropy(logits, torch.tensor([0]))
    assert torch.allclose(soft_loss(logits, likeness, allowed, 0.07), expected)


def test_hard_negatives_are_those_in_the_band_alone() -> None:
    logits = torch.tensor([[2.0, 1.0, 5.0, 9.0]])
    likeness = torch.tensor([[1.0, 0.8, 0.95, 0.1]])
    expected = F.cross_entropy(logits[:, :2], torch.tensor([0]))
    assert torch.allclose(hard_loss(logits, likeness, torch.tensor([0]), 0.75, 0.9), expected)


def test_without_a_hard_negative_the_term_is_zero() -> None:
    logits, likeness = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 0.1]])
    assert hard_loss(logits, likeness, torch.tensor([0]), 0.75, 0.9).item() == 0
