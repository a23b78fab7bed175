"""Weights and their identity: from a file, or untrained from a seed.

A file holds the model's state dict and, in its metadata, `config` (JSON, model.Config) and
`trained` ("true" or "false"). stored.py opens it, and the original .pt files too; sizes are checked
before anything is read, and nothing is executed. The identity is the sha256 of the file, or of the
tensors' bytes in the order of their names: the same identity means the same answers.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save as serialize

from backends.errors import CheckpointError
from backends.model import Config, MemoryAugmentedGRU
from backends.stored import open_stored
from backends.weights import misfits, refuse


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


def load(path: Path, config: Config | None = None) -> Checkpoint:
    """Load a .safetensors file, or a .pt file of the original layout (stored.py).

    `config` stands for a file that names none, as no .pt does; without it, model.Config's
    defaults, which are the original's. Raises CheckpointError, saying what is wrong with the file.
    """
    stored = open_stored(path)
    with path.open("rb") as file:
        identity = hashlib.file_digest(file, "sha256").hexdigest()
    with torch.random.fork_rng(devices=[]):
        model = MemoryAugmentedGRU(config or _config(stored.metadata, path))
    found = stored.tensors
    refuse(misfits({name: tensor.shape for name, tensor in found.items()}), path)
    refuse(
        [f"{name} is sparse or on another device" for name in found if not found[name].plain], path
    )
    tensors = stored.read()
    refuse(
        [
            f"{name} holds what is no finite number"
            for name, tensor in tensors.items()
            if not tensor.is_floating_point() or not tensor.isfinite().all()
        ],
        path,
    )
    model.load_state_dict(tensors)
    trained = stored.metadata.get("trained", "true") == "true"
    return Checkpoint(_frozen(model), identity, trained)


def save(
    model: MemoryAugmentedGRU, path: Path, *, trained: bool, dtype: torch.dtype = torch.float32
) -> None:
    """Write `model` as `load` reads it; in bfloat16 a file of 26 MB, half as large.

    The same weights give the same bytes, and so the same identity.
    """
    metadata = {"config": json.dumps(asdict(model.config)), "trained": json.dumps(trained)}
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    path.write_bytes(_in_order(serialize(tensors, metadata)))


def _in_order(content: bytes) -> bytes:
    """Put the metadata of a safetensors file in order, which the library leaves to chance.

    The layout is the length of the header, 8 bytes, little-endian; the header, JSON padded with
    spaces to a multiple of 8 bytes; and the tensors.
    """
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = json.dumps(header, separators=(",", ":")).encode()
    ordered += b" " * (-len(ordered) % 8)
    return len(ordered).to_bytes(8, "little") + ordered + content[8 + size :]


def _frozen(model: MemoryAugmentedGRU) -> MemoryAugmentedGRU:
    return model.eval().requires_grad_(requires_grad=False)


def _config(metadata: Mapping[str, str], path: Path) -> Config:
    try:
        return Config(**json.loads(metadata.get("config", "{}")))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f'the "config" in the metadata of {path}: {error}') from error
