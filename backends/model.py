"""The Memory-Augmented GRU: what both arms run, at different windows and with their own weights.

Shapes: B contexts of n vectors. A context is read once, oldest vector first:

    context  [B, n, 768] -- LayerNorm --> [B, n, 768]
    read(0)        [768] -- the memory read with a zero query, the same for every step and input
    cat                  --> [B, n, 1536] -- GRU, 4 layers --> the last step's state [B, 512]
    read(state) [B, 768] -- a second read, of what this context calls for
    cat                  --> [B, 1280] -- fusion --> [B, 512] -- head --> delta [B, 768]

The prediction is `normalize(x_last + delta)`. With `delta: unit` the delta has length 1, which
cannot reach a truth that points away from x_last; with `delta: free` it has any length.

The first read depends on the weights alone, so its half of the first layer's input product is a
constant. `folded_gru` moves it into that layer's bias: the same function at half the width.

State-dict names are those of the original checkpoints. The memory is a buffer: training writes it,
by way of `write_gate`, which serving never runs.
"""

from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own custom

from backends.shape import DIMENSION, HEAD, HIDDEN, LAYERS, SLOTS

DROPOUT: Final = 0.1

Delta = Literal["unit", "free"]


@dataclass(frozen=True, slots=True)
class Config:
    """What a checkpoint may choose. Raises ValueError for anything else."""

    delta: Delta = "unit"

    def __post_init__(self) -> None:
        if self.delta not in get_args(Delta):
            raise ValueError(f'delta is {self.delta!r}: it must be "unit" or "free"')


class Memory(nn.Module):
    """2,048 learned slots, read by cosine similarity: softmax(cos(query, slot)) weighs the slots.

    Like a content-based read of a Neural Turing Machine (Graves et al. 2014, section 3.3.1) whose
    key strength is 1.
    """

    memory: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("memory", torch.randn(SLOTS, DIMENSION) / DIMENSION**0.5)
        self.query_proj = nn.Linear(HIDDEN, DIMENSION)
        self.write_gate = nn.Linear(HIDDEN, SLOTS)  # runs in training only

    def forward(self, state: Tensor) -> Tensor:
        """Read the memory: [B, 512] -> [B, 768]."""
        query = F.normalize(self.query_proj(state), dim=-1)  # [B, 768]
        similarity = query @ F.normalize(self.memory, dim=-1).T  # [B, 2048]
        return similarity.softmax(dim=-1) @ self.memory


class MemoryAugmentedGRU(nn.Module):
    """Context [B, n, 768] -> delta [B, 768]. Exactly 11,292,160 trainable parameters."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.input_norm = nn.LayerNorm(DIMENSION)
        self.memory = Memory()
        self.gru = nn.GRU(2 * DIMENSION, HIDDEN, LAYERS, batch_first=True, dropout=DROPOUT)
        self.fusion = nn.Sequential(
            nn.Linear(HIDDEN + DIMENSION, HIDDEN),
            nn.GELU(),
            nn.Dropout(DROPOUT),
            nn.LayerNorm(HIDDEN),
        )
        self.output_proj = nn.Sequential(
            nn.Linear(HIDDEN, HEAD), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(HEAD, DIMENSION)
        )

    def forward(self, context: Tensor) -> Tensor:
        """Compute the delta [B, 768] that leads from a context's last vector to the next."""
        read = self.first_read().expand(*context.shape[:2], DIMENSION)  # [B, n, 768]
        states, _ = self.gru(torch.cat([self.input_norm(context), read], dim=-1))  # [B, n, 512]
        return self.delta(states[:, -1])

    def first_read(self) -> Tensor:
        """Read the memory with a zero state, so that the query is query_proj's bias: [768]."""
        zero = self.memory.memory.new_zeros(1, HIDDEN)
        read: Tensor = self.memory(zero)[0]
        return read

    def delta(self, state: Tensor) -> Tensor:
        """Turn the GRU's last state [B, 512] into the delta [B, 768]."""
        fused = self.fusion(torch.cat([state, self.memory(state)], dim=-1))  # [B, 512]
        raw: Tensor = self.output_proj(fused)  # [B, 768]
        return F.normalize(raw, dim=-1) if self.config.delta == "unit" else raw

    @torch.no_grad()
    def folded_gru(self) -> nn.GRU:
        """Make a GRU that reads [B, n, 768] alone: the first read is in its first layer's bias."""
        gru = nn.GRU(DIMENSION, HIDDEN, LAYERS, batch_first=True)
        weights = {name: weight.detach() for name, weight in self.gru.named_parameters()}
        product = weights["weight_ih_l0"]  # [1536, 1536]: the input's half, then the read's
        constant = product[:, DIMENSION:] @ self.first_read()  # [1536]
        weights["weight_ih_l0"] = product[:, :DIMENSION]
        weights["bias_ih_l0"] = weights["bias_ih_l0"] + constant
        gru.load_state_dict(weights)
        return gru.eval().requires_grad_(requires_grad=False)


def predict(context: Tensor, delta: Tensor) -> Tensor:
    """Predict the vector after each context: [B, n, 768], [B, 768] -> [B, 768] of length 1."""
    return F.normalize(context[:, -1] + delta, dim=-1)
