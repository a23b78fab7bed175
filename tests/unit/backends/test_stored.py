"""A .pt file of the original layout loads, and one that would run code runs nothing."""

import hashlib
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from backend_samples import answer, bank_file, context, untrained
from torch import Tensor

from backends import checkpoint
from backends.__main__ import load as load_server
from backends.errors import CheckpointError
from backends.model import Config
from backends.protocol import Request
from backends.settings import Settings
from backends.stored import open_stored
from backends.weights import LARGEST


def write(path: Path, **beside: object) -> Path:
    torch.save({"model_state_dict": untrained().model.state_dict(), **beside}, path)
    return path


def test_an_original_checkpoint_loads_with_its_figures_and_its_optimiser_beside(
    tmp_path: Path,
) -> None:
    moments = {"state": {0: {"exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 1e-4}]}
    path = write(
        tmp_path / "best_val_hit5.pt",
        epoch=7, val_hit5=np.float64(59.3), optimizer_state_dict=moments, args={"lr": 1e-4},
    )  # fmt: skip
    loaded = checkpoint.load(path)
    assert loaded.trained
    assert loaded.model.config == Config(delta="unit")
    assert loaded.identity == hashlib.sha256(path.read_bytes()).hexdigest()
    for name, tensor in untrained().model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)
    beside = open_stored(path).beside
    assert beside["epoch"] == "7"
    assert beside["val_hit5"] == "59.3"


def test_a_model_server_serves_a_pt_file(tmp_path: Path) -> None:
    path = write(tmp_path / "phase1.pt")
    bank = bank_file(tmp_path / "bank.npz", context(8))
    settings = Settings(arm="phase1", port=0, max_length=100, bank=bank, checkpoint=path)
    predictor = load_server(settings)
    assert predictor.trained
    assert predictor.checkpoint == hashlib.sha256(path.read_bytes()).hexdigest()
    assert answer(predictor, Request(context(5))).vector.shape == (768,)


class Bomb:
    """Unpickled by a careless reader, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def plant_beside_the_weights(path: Path, bomb: Bomb) -> None:
    write(path, scheduler=bomb)


def plant_among_the_weights(path: Path, bomb: Bomb) -> None:
    torch.save({"model_state_dict": {"gru.bias_hh_l0": bomb}}, path)


def plant_as_the_whole(path: Path, bomb: Bomb) -> None:
    torch.save(bomb, path)


@pytest.mark.parametrize(
    "plant", [plant_beside_the_weights, plant_among_the_weights, plant_as_the_whole]
)
def test_a_pickle_bomb_is_refused_by_the_name_that_it_calls_and_executes_nothing(
    tmp_path: Path, plant: Callable[[Path, Bomb], None]
) -> None:
    path, mark = tmp_path / "bomb.pt", tmp_path / "boom"
    plant(path, Bomb(mark))
    with pytest.raises(CheckpointError, match=r"names posix\.mkdir, .* nothing was run"):
        checkpoint.load(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the bomb is real: a careless reader sets it off
    assert mark.exists()


def test_a_bare_pickle_is_refused_unread(tmp_path: Path) -> None:
    path, mark = tmp_path / "bomb.pt", tmp_path / "boom"
    path.write_bytes(pickle.dumps({"model_state_dict": Bomb(mark)}))
    with pytest.raises(CheckpointError, match=r"no \.pt file that torch 1\.6 or newer wrote"):
        checkpoint.load(path)
    assert not mark.exists()


def test_wrong_shapes_are_named_and_nothing_of_their_size_is_allocated(tmp_path: Path) -> None:
    state: dict[str, Tensor] = dict(untrained().model.state_dict())
    state["fusion.0.bias"] = torch.zeros(1).expand(2**50)  # 4 PiB, in a file of 51 MB
    state["fusion.0.weight"] = torch.zeros(3, 4)
    path = tmp_path / "wide.pt"
    torch.save({"model_state_dict": state}, path)
    words = (
        rf"fusion.0.bias has the shape \[{2**50}\], not \[512\]; .*weight has the shape \[3, 4\]"
    )
    with pytest.raises(CheckpointError, match=words):
        checkpoint.load(path)


def test_a_sparse_tensor_is_refused(tmp_path: Path) -> None:
    state: dict[str, Tensor] = dict(untrained().model.state_dict())
    state["fusion.0.bias"] = torch.zeros(512).to_sparse()
    torch.save({"model_state_dict": state}, tmp_path / "sparse.pt")
    with pytest.raises(CheckpointError, match=r"fusion\.0\.bias is sparse"):
        checkpoint.load(tmp_path / "sparse.pt")


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_an_oversized_file_is_refused_by_its_size_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(CheckpointError, match=r"268,435,457 bytes: .* 268,435,456 at most"):
        checkpoint.load(path)


def test_a_file_that_unfolds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "folded.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    with pytest.raises(CheckpointError, match="compressed parts"):
        checkpoint.load(path)


@pytest.mark.parametrize("share", [0.3, 0.9999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "whole.pt")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=str(path)):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": {}, "epoch": 1}, r"no weights under 'model_state_dict' \(it holds state_"),
        ([1, 2], r"it holds list"),
        ({"model_state_dict": [1]}, "no weights under"),
        ({"model_state_dict": {"gru": 3}}, "gru is no tensor"),
    ],
)
def test_a_file_without_the_original_layout_is_refused(
    tmp_path: Path, content: object, words: str
) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=words):
        checkpoint.load(tmp_path / "other.pt")
