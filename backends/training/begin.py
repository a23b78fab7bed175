"""The weights before the first step, and what training writes into the memory."""

import math

import torch
from torch import Tensor, nn

from backends.model import HIDDEN, LAYERS, Config, MemoryAugmentedGRU
from backends.training.recipe import Recipe

_KEPT = 0.9
"""Of the memory, at each write of the original."""


def new_model(recipe: Recipe) -> MemoryAugmentedGRU:
    """Make the model that a training starts from. Uses torch's global seed: set it before."""
    model = MemoryAugmentedGRU(Config(delta=recipe.delta))
    if recipe.chrono:
        remember_long(model, recipe.chrono)
    if recipe.zero_head:
        head = model.output_proj[-1]
        assert isinstance(head, nn.Linear)  # noqa: S101 - tells mypy what model.py says
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    return model


@torch.no_grad()
def remember_long(model: MemoryAugmentedGRU, longest: int) -> None:
    """Set the update gates' biases so that units forget over 1 to `longest` - 1 steps.

    Chrono initialisation: b_z = ln(u), u uniform in [1, longest - 1] (Tallec and Ollivier, "Can
    recurrent neural networks warp time?", 2018). torch's update gate keeps what it is open for.
    """
    update = slice(HIDDEN, 2 * HIDDEN)
    for layer in range(LAYERS):
        into, over = (
            getattr(model.gru, f"bias_ih_l{layer}"),
            getattr(model.gru, f"bias_hh_l{layer}"),
        )
        spread = torch.empty(HIDDEN).uniform_(1, max(longest - 1, math.e))
        into[update] = spread.log()
        over[update] = 0


@torch.no_grad()
def write_memory(model: MemoryAugmentedGRU, states: Tensor) -> None:
    """Blend a step's outputs into the memory, as the original does: the GRU's states [m, 512].

    memory <- 0.9 memory + 0.1 outer(mean write weights, mean raw output).
    """
    fused = model.fusion(torch.cat([states, model.memory(states)], dim=-1))
    outputs = model.output_proj(fused)  # [m, 768], raw: before any scaling
    weights = model.memory.write_gate(states).softmax(dim=-1).mean(dim=0)  # [2048]
    written = torch.outer(weights, outputs.mean(dim=0))
    model.memory.memory.mul_(_KEPT).add_(written, alpha=1 - _KEPT)
