"""What training minimises: MSE + 0.5 (1 - cos) + alpha InfoNCE, and two options. Pure.

All vectors have length 1. Shapes: m predictions and truths [m, 768]; candidates [c, 768], which
hold each truth at `place` [m]; `allowed` [m, c] is False where a candidate lies in the query's own
context (serving leaves those out, so training does not learn to avoid them) and True at the truth.

InfoNCE: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own custom

from backends.training.recipe import Recipe


def loss_of(
    predicted: Tensor,
    candidates: Tensor,
    place: Tensor,
    allowed: Tensor,
    recipe: Recipe,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the loss of m predictions, a scalar."""
    truth = candidates[place]
    loss = F.mse_loss(predicted, truth) + 0.5 * (1 - (predicted * truth).sum(dim=-1)).mean()
    if not (recipe.contrast or recipe.soft_negatives or recipe.hard_negatives):
        return loss
    table = candidates.to(dtype)
    logits = (predicted.to(dtype) @ table.T).float() / recipe.temperature  # [m, c]
    logits = logits.masked_fill(~allowed, -torch.inf)
    if recipe.contrast:
        loss = loss + recipe.contrast * F.cross_entropy(logits, place)
    if recipe.soft_negatives or recipe.hard_negatives:
        likeness = (truth.to(dtype) @ table.T).float()  # [m, c]
        if recipe.soft_negatives:
            soft = soft_loss(logits, likeness, allowed, recipe.temperature)
            loss = loss + recipe.soft_negatives * soft
        if recipe.hard_negatives:
            hard = hard_loss(logits, likeness, place, recipe.hard_from, recipe.hard_to)
            loss = loss + recipe.hard_negatives * hard
    return loss


def soft_loss(logits: Tensor, likeness: Tensor, allowed: Tensor, temperature: float) -> Tensor:
    """Cross entropy against soft labels: a candidate counts as much as it is like the truth."""
    labels = (likeness / temperature).masked_fill(~allowed, -torch.inf).softmax(dim=-1)
    chances = logits.log_softmax(dim=-1).masked_fill(~allowed, 0.0)
    return -(labels * chances).sum(dim=-1).mean()


def hard_loss(logits: Tensor, likeness: Tensor, place: Tensor, low: float, high: float) -> Tensor:
    """InfoNCE among the truth and the candidates whose cosine to it lies in [low, high].

    The mean over the queries that have such a candidate; zero when none has.
    """
    hard = (likeness >= low) & (likeness <= high) & logits.isfinite()
    hard.scatter_(1, place[:, None], value=False)
    having = hard.any(dim=1)
    if not having.any():
        return logits.new_zeros(())
    hard.scatter_(1, place[:, None], value=True)
    return F.cross_entropy(logits.masked_fill(~hard, -torch.inf)[having], place[having])
