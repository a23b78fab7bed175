"""How an arm is trained: every figure a setting, with the recipe's default. Pure."""

import math
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

ARMS: Final = {
    "phase1": {"context_length": 100, "contrast": 0.05},
    "phase2": {"context_length": 500, "contrast": 0.03},
}
"""What the arms differ in; any other arm starts from Phase 2's figures."""


class Recipe(BaseModel):
    """The settings of one training. Raises pydantic's ValidationError for impossible ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    arm: str = Field("phase2", description="The arm that the weights are for.")
    context_length: int = Field(500, ge=2, description="Vectors in a window.")
    overlap: int = Field(0, ge=0, description="Vectors that neighbouring windows share.")
    random_starts: bool = Field(True, description="Cut the chains elsewhere in every epoch.")
    positions: int = Field(
        0, ge=0, description="Positions of a window to supervise, at random; 0: all."
    )
    trainable: Literal["all", "biases"] = Field(
        "all", description="What learns: all, or the biases and norms alone, where chains are few."
    )
    epochs: int = Field(50, ge=1, description="The most epochs.")
    batch: int = Field(256, ge=1, description="Windows per step, by accumulation.")
    micro_batch: int = Field(32, ge=1, description="Windows that are read at once.")
    learning_rate: float = Field(1e-4, gt=0, description="AdamW's, at its highest.")
    warmup_epochs: float = Field(1.0, ge=0, description="Epochs of linear warm-up, then cosine.")
    weight_decay: float = Field(1e-4, ge=0, description="AdamW's.")
    clip: float = Field(1.0, gt=0, description="The gradient's largest norm.")
    patience: int = Field(3, ge=1, description="Epochs without a better validation Hit@5.")
    contrast: float = Field(0.03, ge=0, description="InfoNCE's weight, alpha.")
    temperature: float = Field(0.07, gt=0, description="InfoNCE's.")
    negatives: int = Field(
        2048, ge=0, description="Candidates of a micro-batch from other chains, at random."
    )
    near_negatives: int = Field(
        0, ge=0, description="Candidates of a micro-batch from its windows' own chains, at random."
    )
    soft_negatives: float = Field(0.0, ge=0, description="Weight of InfoNCE with soft labels.")
    hard_negatives: float = Field(0.0, ge=0, description="Weight of InfoNCE on hard negatives.")
    hard_from: float = Field(0.75, description="Hard negatives: cosine to the truth, at least.")
    hard_to: float = Field(0.9, description="Hard negatives: cosine to the truth, at most.")
    delta: Literal["unit", "free"] = Field("unit", description="The delta's length.")
    chrono: int = Field(
        0, ge=0, description="Longest memory, in vectors, of a chrono initialisation; 0: torch's."
    )
    integrate: float = Field(
        0.0, ge=0, lt=1,
        description="Start at a leaky mean of the context with this decay; 0: torch's weights.",
    )  # fmt: skip
    dropout: float = Field(
        0.1, ge=0, lt=1, description="Of the states between layers and the head."
    )
    zero_head: bool = Field(False, description="Start at 'repeat the last vector'.")
    memory_write: bool = Field(False, description="Let training write the memory.")
    min_chain: int = Field(7, ge=2, description="Chunks that a chain must have.")
    coherence: float = Field(
        -1.0, ge=-1, le=1, description="Mean cosine of neighbours that a chain must have; -1: any."
    )
    validation_queries: int = Field(2000, ge=1, description="Queries of a validation.")
    validation_bank: int = Field(20_000, ge=10, description="Candidates of a validation.")
    precision: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Of the large products; sums, gates and weights are float32."
    )
    seed: int = Field(0, ge=0, description="Of the split, the weights and the order.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.overlap >= self.context_length:
            raise ValueError("overlap must be below context_length")
        if self.zero_head and self.delta == "unit":
            raise ValueError("zero_head needs delta = free: a delta of length 1 is never zero")
        return self


def recipe_for(arm: str, **settings: object) -> Recipe:
    """Make an arm's recipe: its own defaults, then `settings`."""
    return Recipe.model_validate({**ARMS.get(arm, ARMS["phase2"]), "arm": arm, **settings})


def rate_at(step: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """Return the learning rate of a step: linear warm-up, then a half cosine down to zero."""
    warmup = max(1, round(recipe.warmup_epochs * steps_per_epoch))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    total = max(warmup + 1, recipe.epochs * steps_per_epoch)
    progress = min(1.0, (step - warmup) / (total - warmup))
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
