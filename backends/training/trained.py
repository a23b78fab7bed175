"""What is known of how weights were trained: the recipe and the history that lie beside them.

Beside `ARM.safetensors`, a training writes `config.json` and `history.json`; where both arms lie
in one folder, as they ship, they are `ARM.config.json` and `ARM.history.json`.
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from backends.training.recipe import Recipe

_HISTORY = TypeAdapter(tuple[dict[str, float], ...])


class SeedError(Exception):
    """Weights or chains of another split: what is held out here is not held out there."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A training's recipe, and one record an epoch of what it reached."""

    recipe: Recipe
    history: tuple[dict[str, float], ...]

    @property
    def best(self) -> dict[str, float] | None:
        """The epoch that the weights are of: the one with the best validation Hit@5."""
        epochs = [record for record in self.history if record["epoch"] > 0]
        return max(epochs, key=lambda record: record["hit@5"], default=None)

    @property
    def start(self) -> dict[str, float] | None:
        """What the weights reached before the first step, where that was recorded."""
        return next((record for record in self.history if record["epoch"] == 0), None)


def read_trained(weights: Path) -> Trained | None:
    """Read what lies beside the weights; None when no recipe does."""
    for prefix in (f"{weights.stem}.", ""):
        try:
            config = (weights.parent / f"{prefix}config.json").read_bytes()
            recipe = Recipe.model_validate_json(config)
        except (OSError, ValidationError):
            continue
        try:
            content = (weights.parent / f"{prefix}history.json").read_bytes()
            return Trained(recipe, _HISTORY.validate_json(content))
        except (OSError, ValidationError):
            return Trained(recipe, ())
    return None
