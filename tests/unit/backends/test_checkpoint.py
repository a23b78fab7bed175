import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from backend_samples import untrained
from safetensors.torch import save_file
from torch import Tensor

from backends import checkpoint
from backends.errors import CheckpointError
from backends.model import Config, MemoryAugmentedGRU


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, again, other = checkpoint.seeded(1), checkpoint.seeded(1), checkpoint.seeded(2)
    assert first.identity == again.identity != other.identity
    assert not first.trained


def test_making_weights_leaves_the_global_seed_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    checkpoint.seeded(3)
    assert torch.rand(1) == expected


def test_a_saved_model_loads_with_its_config_and_the_files_identity(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = MemoryAugmentedGRU(Config(delta="free"))
    checkpoint.save(model, path, trained=True)
    loaded = checkpoint.load(path)
    assert loaded.model.config == Config(delta="free")
    assert loaded.trained
    assert loaded.identity == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not loaded.model.training
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(loaded.model.state_dict()[name].numpy(), tensor.numpy())


def test_the_same_weights_are_saved_as_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.safetensors" for i in range(6)]  # the library shuffles its metadata
    for path in paths:
        checkpoint.save(untrained().model, path, trained=True, dtype=torch.bfloat16)
    assert len({checkpoint.load(path).identity for path in paths}) == 1


def test_a_file_of_untrained_weights_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(untrained().model, path, trained=False)
    assert not checkpoint.load(path).trained


def without(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.__delitem__(name)


def with_tensor(name: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.__setitem__(name, tensor)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("memory.memory"), "memory.memory is missing"),
        (with_tensor("extra", torch.zeros(1)), "extra is unknown"),
        (
            with_tensor("fusion.0.bias", torch.zeros(3)),
            r"fusion.0.bias has the shape \[3\], not \[512\]",
        ),
        (with_tensor("fusion.0.bias", torch.full((512,), torch.nan)), "no finite number"),
        (with_tensor("fusion.0.bias", torch.zeros(512, dtype=torch.int32)), "no finite number"),
    ],
)
def test_a_file_of_another_model_is_refused_by_the_tensors_name(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], None], words: str
) -> None:
    tensors = dict(untrained().model.state_dict())
    change(tensors)
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=words):
        checkpoint.load(path)


@pytest.mark.parametrize("config", ['{"delta": "long"}', '{"wings": 2}', "[1]", "{"])
def test_a_file_with_a_wrong_config_is_refused(tmp_path: Path, config: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"config": config})
    with pytest.raises(CheckpointError, match='the "config" in the metadata of'):
        checkpoint.load(path)


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\xff" * 64, b"{}" * 50])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="no safetensors file"):
        checkpoint.load(path)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match=f"cannot read the checkpoint {path}"):
            checkpoint.load(path)
