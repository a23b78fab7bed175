"""The weights before the first step, and what training writes into the memory.

Where a training begins decides how far a small machine gets. From torch's own weights, 800 steps
did not even find "the mean of the last few vectors", which needs no training at all. `integrate`
begins beyond it: the units of each layer carry the context's main components through the GRU as a
leaky mean, and the head turns them back into a vector. On the way the components are whitened:
what all texts share says little about which comes next, and it would drown what does.
"""

import math
from typing import Final, cast

import torch
from torch import Tensor, nn

from backends.model import Config, MemoryAugmentedGRU
from backends.protocol import Floats
from backends.shape import DIMENSION, HIDDEN, LAYERS
from backends.training.recipe import Recipe

_KEPT: Final = 0.9
"""Of the memory, at each write of the original."""
_OPEN: Final = -3.0
"""An update gate's bias that lets nearly all of the new state through: sigmoid(-3) = 0.05."""
_CARRIED: Final = 0.15
"""A carried component's root mean square: small, where tanh is all but linear."""
_FLOOR: Final = 1e-3
"""Added to a component's variance before it is divided by the root: rare ones stay quiet."""
_LIFT: Final = 4.0
"""Lifts the fusion's units to where GELU is all but linear; its norm takes the lift off again."""
_DELTA: Final = 6.0
"""The delta's mean length at the start, beside the last vector's 1: it is what predicts."""


def new_model(recipe: Recipe, sample: Floats) -> MemoryAugmentedGRU:
    """Make the model that a training starts from. Uses torch's global seed: set it before.

    `sample` [m, n, 768] are windows of the training's own chains, which `integrate` learns its
    components and its scale from.
    """
    model = MemoryAugmentedGRU(Config(delta=recipe.delta))
    model.gru.dropout = recipe.dropout
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = recipe.dropout
    if recipe.chrono:
        remember_long(model, recipe.chrono)
    if recipe.zero_head:
        head = _linear(model.output_proj, -1)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    if recipe.integrate:
        integrate(model, sample, recipe.integrate)
    return model


@torch.no_grad()
def integrate(model: MemoryAugmentedGRU, sample: Floats, decay: float) -> None:
    """Begin at normalize(last + 6 normalize(W leaky mean of the context)), near enough.

    W is C^-1/2, where C is the second moment of `sample` [m, n, 768], on its 512 main components.
    The leaky mean h <- decay h + (1 - decay) x runs in the last layer; the layers below hand the
    components on. The gates' weights and the memory keep torch's values.
    """
    context = torch.from_numpy(sample)
    main, variances = _main_components(context.flatten(0, 1))  # [768, 512], [512]
    whitened = main * (variances + _FLOOR).rsqrt()
    for layer in range(LAYERS):
        _carry(model.gru, layer, whitened, decay)
    _read_out(model, main)
    model.eval()
    length = model(context).norm(dim=-1).mean()
    _linear(model.output_proj, -1).weight.mul_(_DELTA / length)


def _carry(gru: nn.GRU, layer: int, main: Tensor, decay: float) -> None:
    """Let the layer's units follow the components that reach it, `main` [768, 512]."""
    weights = {
        name: cast("Tensor", getattr(gru, f"{name}_l{layer}"))
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    new = slice(2 * HIDDEN, 3 * HIDDEN)  # the candidate state's rows
    update = slice(HIDDEN, 2 * HIDDEN)
    if layer == 0:
        # The norm brings a vector of length 1 to length sqrt(768); so large an input would also
        # slam the gates to and fro.
        weights["weight_ih"][:, :DIMENSION] *= 0.1
        carry = _CARRIED * main.T / math.sqrt(DIMENSION)
    else:
        carry = torch.eye(HIDDEN)
    for weight in weights.values():
        weight[new] = 0
    weights["weight_ih"][new, : carry.shape[1]] = carry
    weights["bias_ih"][update] = _OPEN if layer < LAYERS - 1 else math.log(decay / (1 - decay))
    weights["bias_hh"][update] = 0


def _read_out(model: MemoryAugmentedGRU, main: Tensor) -> None:
    """Let fusion and head turn the last layer's units back into a vector.

    gelu(u) - gelu(-u) = u: a pair of the head's 1,024 units hands each component on exactly.
    """
    signed = torch.cat([torch.eye(HIDDEN), -torch.eye(HIDDEN)])  # [1024, 512]
    into = _linear(model.fusion, 0)
    into.weight.zero_()
    into.weight[:, :HIDDEN] = torch.eye(HIDDEN)
    into.bias.fill_(_LIFT)
    middle = _linear(model.output_proj, 0)
    middle.weight.copy_(signed)
    middle.bias.zero_()
    out = _linear(model.output_proj, -1)
    out.weight.copy_(main @ signed.T)
    out.bias.zero_()


def _linear(layers: nn.Sequential, place: int) -> nn.Linear:
    """Return one of the layers: a cast for mypy, for model.py says what stands there."""
    return cast("nn.Linear", layers[place])


def _main_components(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the directions [768, 512] in which `vectors` [m, 768] are longest, longest first.

    And the mean square of the vectors in each, [512].
    """
    found = torch.linalg.eigh(vectors.T @ vectors / len(vectors))
    return found.eigenvectors.flip(1)[:, :HIDDEN].contiguous(), found.eigenvalues.flip(0)[:HIDDEN]


def hold_matrices(model: MemoryAugmentedGRU) -> None:
    """Let the biases and the norms alone learn: 17 thousand numbers that no chain's text fits into.

    A unit's update bias is its time constant, a norm's gain its component's weight. BitFit: Ben
    Zaken et al., "Simple Parameter-efficient Fine-tuning for Transformer-based Masked
    Language-models", 2022.
    """
    for weight in model.parameters():
        weight.requires_grad_(weight.ndim == 1)


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
