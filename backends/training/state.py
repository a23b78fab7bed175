"""A training on disk: what it needs to go on after it was killed, written whole or not at all."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from backends.model import MemoryAugmentedGRU
from backends.training.recipe import Recipe

_FILE = "state.pt"


class ResumeError(Exception):
    """The folder holds another training; the message says which settings differ."""


@dataclass(slots=True)
class Position:
    """Where a training is: whole epochs done, steps of this one, the best so far, the record.

    `loss` is the sum of this epoch's losses so far.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    best: float = -1.0
    worse: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def save_state(
    folder: Path,
    model: MemoryAugmentedGRU,
    optimizer: torch.optim.Optimizer,
    position: Position,
    recipe: Recipe,
) -> None:
    """Write model, optimiser, torch's randomness and the position: all that the next step needs."""
    partial = folder / f"{_FILE}.partial"
    torch.save(
        {
            "recipe": recipe.model_dump_json(),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "randomness": torch.get_rng_state(),
            **asdict(position),
        },
        partial,
    )
    partial.replace(folder / _FILE)


def load_state(
    folder: Path, model: MemoryAugmentedGRU, optimizer: torch.optim.Optimizer, recipe: Recipe
) -> Position | None:
    """Go back to where a training in `folder` was; None when there is none.

    Raises ResumeError when its recipe is another one.
    """
    if not (folder / _FILE).exists():
        return None
    saved: dict[str, Any] = torch.load(folder / _FILE, weights_only=True)
    before, now = Recipe.model_validate_json(saved["recipe"]).model_dump(), recipe.model_dump()
    if differing := [f"{name} was {before[name]}" for name in now if before[name] != now[name]]:
        raise ResumeError(
            f"{folder} holds a training with other settings ({', '.join(differing)}): give the "
            "same ones to go on with it, or another --out"
        )
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["randomness"])
    # A state of an older version lacks what was not kept then, and goes on with its default.
    return Position(**{f.name: saved[f.name] for f in fields(Position) if f.name in saved})
