"""The model at every position of a window, fast enough to train on two cores.

The GRU is causal: its state after position t has read positions 0 to t alone. So one pass over a
window gives a prediction for each of its positions, and each can be supervised.

torch's own GRU computes each step's part of the weight gradient by itself and adds it up, which
costs more than all the rest where batches are small. Here a layer's recurrence is one autograd
function: the forward pass keeps the gates, the backward pass walks back once and makes the weight
gradient with a single product at the end. The gate equations are those of torch.nn.GRU:

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)          z likewise
    n = tanh(W_in x + b_in + r (W_hn h + b_hn))         h' = n + z (h - n)

Products run in bfloat16 where asked, sums and gates in float32. Inside, time comes
first: [n, B, .].
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own custom

from backends.model import MemoryAugmentedGRU
from backends.shape import DIMENSION, HIDDEN, LAYERS

_GATES = 3 * HIDDEN


class _Recurrence(torch.autograd.Function):
    """One layer's walk through time: (inputs [n, B, 1536], W_hh, b_hh) -> states [n, B, 512]."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype
    ) -> Tensor:
        steps, batch, _ = inputs.shape
        states = inputs.new_zeros(steps + 1, batch, HIDDEN)
        gates = inputs.new_empty(steps, batch, 2 * HIDDEN)  # r, z
        candidates = inputs.new_empty(steps, batch, HIDDEN)  # n
        recalls = inputs.new_empty(steps, batch, HIDDEN)  # W_hn h + b_hn
        turned = weight.to(dtype).T.contiguous()
        for t in range(steps):
            state = states[t]
            product = torch.add(bias, state.to(dtype) @ turned)
            gate = torch.sigmoid(inputs[t, :, : 2 * HIDDEN] + product[:, : 2 * HIDDEN])
            recall = product[:, 2 * HIDDEN :]
            new = torch.tanh(torch.addcmul(inputs[t, :, 2 * HIDDEN :], gate[:, :HIDDEN], recall))
            torch.lerp(new, state, gate[:, HIDDEN:], out=states[t + 1])
            gates[t], candidates[t], recalls[t] = gate, new, recall
        ctx.save_for_backward(states, gates, candidates, recalls, weight)
        ctx.dtype = dtype
        return states[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor | None, Tensor, None]:
        (above,) = gradients
        states, gates, candidates, recalls, weight = ctx.saved_tensors
        before, dtype = states[:-1], ctx.dtype
        reset, update = gates[..., :HIDDEN], gates[..., HIDDEN:]
        to_new = (1 - update) * (1 - candidates.square())
        to_update = (before - candidates) * update * (1 - update)
        to_reset = recalls * reset * (1 - reset)
        down = above.new_empty(*above.shape[:2], _GATES)
        recalled = torch.empty_like(candidates)
        matrix = weight.to(dtype)
        carried = torch.zeros_like(above[0])
        inner = down.new_empty(above.shape[1], _GATES)
        for t in range(len(above) - 1, -1, -1):
            state = above[t] + carried
            new = state * to_new[t]
            torch.mul(new, to_reset[t], out=inner[:, :HIDDEN])
            torch.mul(state, to_update[t], out=inner[:, HIDDEN : 2 * HIDDEN])
            torch.mul(new, reset[t], out=inner[:, 2 * HIDDEN :])
            down[t, :, : 2 * HIDDEN] = inner[:, : 2 * HIDDEN]
            down[t, :, 2 * HIDDEN :] = new
            recalled[t] = inner[:, 2 * HIDDEN :]
            carried = torch.addcmul((inner.to(dtype) @ matrix).float(), state, update[t])
        hidden = torch.cat([down[..., : 2 * HIDDEN], recalled], dim=-1).flatten(0, 1)
        for_weight = None
        if ctx.needs_input_grad[1]:
            for_weight = (hidden.to(dtype).T @ before.flatten(0, 1).to(dtype)).float()
        return down, for_weight, hidden.sum(dim=0), None


_walk = cast("Callable[[Tensor, Tensor, Tensor, torch.dtype], Tensor]", _Recurrence.apply)


def read_window(
    model: MemoryAugmentedGRU, context: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Read windows [B, n, 768] and return the last layer's state at every position, [B, n, 512].

    Differentiable in every weight; dropout between layers when the model is in training mode.
    """
    weights = {name: cast("Tensor", weight) for name, weight in model.gru.named_parameters()}
    layer: Tensor = model.input_norm(context).transpose(0, 1)  # [n, B, 768]
    for index in range(LAYERS):
        into = weights[f"weight_ih_l{index}"]
        bias = weights[f"bias_ih_l{index}"]
        if index == 0:  # the first memory read is the same at every step: a part of the bias
            bias = bias + into[:, DIMENSION:] @ model.first_read()
            into = into[:, :DIMENSION]
        else:
            layer = F.dropout(layer, model.gru.dropout, training=model.training)
        inputs = F.linear(layer.to(dtype), into.to(dtype)).float() + bias
        over, bias = weights[f"weight_hh_l{index}"], weights[f"bias_hh_l{index}"]
        layer = _walk(inputs, over, bias, dtype)
    return layer.transpose(0, 1)


def predict_positions(
    model: MemoryAugmentedGRU, last: Tensor, states: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Predict what follows: last vectors [m, 768], states [m, 512] -> [m, 768] of length 1."""
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        delta = model.delta(states)
    return F.normalize(last + delta.float(), dim=-1)
