"""Weights and their identity: from a safetensors file, or untrained from a seed.

A file holds the model's state dict and, in its metadata, `config` (JSON, model.Config) and
`trained` ("true" or "false"). Loading executes nothing. The identity is the sha256 of the file, or
of the tensors' bytes in the order of their names: the same identity means the same answers.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from backends.errors import CheckpointError
from backends.model import Config, MemoryAugmentedGRU


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model in evaluation mode, the sha256 of its weights, and whether anyone trained them."""

    model: MemoryAugmentedGRU
    identity: str
    trained: bool


def seeded(seed: int, config: Config | None = None) -> Checkpoint:
    """Make untrained weights: the same for the same seed, without touching torch's global seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MemoryAugmentedGRU(config or Config())
    digest = hashlib.sha256()
    for _, tensor in sorted(model.state_dict().items()):
        digest.update(tensor.numpy().tobytes())
    return Checkpoint(_frozen(model), digest.hexdigest(), trained=False)


def load(path: Path) -> Checkpoint:
    """Load a safetensors file. Raises CheckpointError, saying what is wrong with it."""
    try:
        with path.open("rb") as file:
            identity = hashlib.file_digest(file, "sha256").hexdigest()
        with safe_open(path, framework="pt") as archive:
            metadata = archive.metadata() or {}
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 - no mapping
    except OSError as error:
        raise CheckpointError(
            f"cannot read the checkpoint {path}: {error.strerror or error}"
        ) from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file: {error}") from error
    with torch.random.fork_rng(devices=[]):
        model = MemoryAugmentedGRU(_config(metadata, path))
    _check(tensors, model.state_dict(), path)
    model.load_state_dict(tensors)
    return Checkpoint(_frozen(model), identity, trained=metadata.get("trained", "true") == "true")


def save(
    model: MemoryAugmentedGRU, path: Path, *, trained: bool, dtype: torch.dtype = torch.float32
) -> None:
    """Write `model` as `load` reads it; in bfloat16 a file of 26 MB, half as large."""
    metadata = {"config": json.dumps(asdict(model.config)), "trained": json.dumps(trained)}
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, metadata)


def _frozen(model: MemoryAugmentedGRU) -> MemoryAugmentedGRU:
    return model.eval().requires_grad_(requires_grad=False)


def _config(metadata: dict[str, str], path: Path) -> Config:
    try:
        return Config(**json.loads(metadata.get("config", "{}")))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f'the "config" in the metadata of {path}: {error}') from error


def _check(found: dict[str, Tensor], wanted: dict[str, Tensor], path: Path) -> None:
    """Name every tensor that is missing, unknown, misshapen or not finite, in one error."""
    faults = [f"{name} is missing" for name in wanted if name not in found]
    faults += [f"{name} is unknown" for name in found if name not in wanted]
    for name in wanted.keys() & found.keys():
        tensor, shape = found[name], wanted[name].shape
        if tensor.shape != shape:
            faults.append(f"{name} has the shape {list(tensor.shape)}, not {list(shape)}")
        elif not tensor.is_floating_point() or not tensor.isfinite().all():
            faults.append(f"{name} holds what is no finite number")
    if faults:
        raise CheckpointError(f"{path} holds another model: {'; '.join(sorted(faults))}")
