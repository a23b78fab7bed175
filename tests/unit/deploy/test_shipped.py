"""What ships: trained arms, whose cards are theirs."""

import hashlib
import json
from pathlib import Path

import pytest

from backends import weights
from backends.training.trained import read_trained
from deploy.local import DATA, shipped_weights

CARDS = Path(__file__).parents[3] / "docs" / "models"
LARGEST_MB = 26


@pytest.mark.parametrize("arm", ["phase1", "phase2"])
def test_an_arm_ships_trained_with_its_recipe_and_the_card_of_these_very_weights(arm: str) -> None:
    path = shipped_weights()[arm]
    found = weights.load(path)
    assert found.trained
    assert path.stat().st_size < LARGEST_MB * 1e6
    assert f"sha256 `{found.identity}`" in (CARDS / f"{arm}.md").read_text()
    assert json.loads((CARDS / "evaluation.json").read_text())[arm] == found.identity
    trained = read_trained(path)
    assert trained is not None
    assert (trained.recipe.arm, trained.best is not None) == (arm, True)


def test_the_held_out_set_is_small_enough_to_ship() -> None:
    files = [DATA, DATA.with_name("heldout.npz")]
    assert sum(path.stat().st_size for path in files) < 20e6


def test_the_arms_are_two() -> None:
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in shipped_weights().values()}
    assert len(digests) == 2
