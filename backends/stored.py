"""A file of weights, opened without executing anything and without allocating what it claims.

Two layouts:

    .safetensors   tensors by name; `config` (JSON of model.Config) and `trained` in its metadata
    .pt, .pth      what the original training wrote: a dict with the tensors by name under
                   `model_state_dict`, perhaps beside other entries (epoch, figures, optimiser)

A .pt file is a pickle, and a pickle can name any function to call. torch's restricted reader
builds tensors and plain values alone and refuses every other name; here, numpy's plain numbers
are allowed besides, because figures are often kept as those. Of such a file nothing is read that
is compressed, so no small file unfolds into a large one; tensors are maps of the file's own bytes,
so a shape is known before anything is allocated for it. No file may be larger than 256 MiB: the
model has 51 MB in float32, and a checkpoint with its optimiser's two moments three times that.
"""

import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from backends.errors import CheckpointError
from backends.weights import LARGEST

PICKLED: Final = (".pt", ".pth")
STATE: Final = "model_state_dict"
_GLOBAL: Final = re.compile(r"GLOBAL ([\w.]+)")
_NUMBERS: Final[tuple[Any, ...]] = (
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),  # numpy 1
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
)


@dataclass(frozen=True, slots=True)
class Described:
    """A tensor that has not been read: its shape, its type, and whether it is dense, on a CPU."""

    shape: tuple[int, ...]
    dtype: str
    plain: bool = True


@dataclass(frozen=True, slots=True)
class Stored:
    """What a file says that it holds. `read()` gives the tensors; only then are they allocated.

    `beside` are the other entries of a .pt file, in words.
    """

    layout: Literal["safetensors", "torch"]
    metadata: Mapping[str, str]
    tensors: Mapping[str, Described]
    beside: Mapping[str, str]
    read: Callable[[], dict[str, Tensor]]


def open_stored(path: Path) -> Stored:
    """Open a file of either layout, by its name's ending.

    Raises CheckpointError: unreadable, too large, of no such layout, or naming code to run.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise CheckpointError(
                f"{path} has {size:,} bytes: a checkpoint of this model has {LARGEST:,} at most"
            )
        return _open_pickled(path) if path.suffix in PICKLED else _open_safetensors(path)
    except OSError as error:
        raise CheckpointError(
            f"cannot read the checkpoint {path}: {error.strerror or error}"
        ) from error


def _open_safetensors(path: Path) -> Stored:
    def read() -> dict[str, Tensor]:
        with safe_open(path, framework="pt") as archive:
            return {name: archive.get_tensor(name) for name in described}

    try:
        with safe_open(path, framework="pt") as archive:
            metadata = archive.metadata() or {}
            described = {
                name: _describe_slice(archive.get_slice(name))
                for name in archive.keys()  # noqa: SIM118 - no mapping
            }
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file: {error}") from error
    return Stored("safetensors", metadata, described, {}, read)


def _describe_slice(part: Any) -> Described:
    return Described(tuple(part.get_shape()), str(part.get_dtype()))


def _open_pickled(path: Path) -> Stored:
    content = _unpickle(path)
    state = content.get(STATE) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        found = (
            ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        )
        raise CheckpointError(
            f"{path} holds no weights under {STATE!r} (it holds {found or 'nothing'}): save a dict "
            f"with that key"
        )
    strange = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        raise CheckpointError(f"{path}: under {STATE!r}, {', '.join(strange)} is no tensor")
    tensors: dict[str, Tensor] = {str(name): tensor for name, tensor in state.items()}
    return Stored(
        "torch",
        {},
        {name: _describe(tensor) for name, tensor in tensors.items()},
        {str(name): _in_words(value) for name, value in content.items() if name != STATE},
        lambda: tensors,
    )


def _unpickle(path: Path) -> Any:
    """Read a .pt file with torch's restricted reader, as maps of its bytes."""
    _check_archive(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(_NUMBERS)):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        # A hostile pickle may raise anything; all of it means the same.
        if named := _GLOBAL.search(str(error)):
            raise CheckpointError(
                f"{path} names {named[1]}, which is neither a tensor nor a plain value, so loading "
                "it could run code: nothing was run; save the weights alone, as "
                f"torch.save({{{STATE!r}: model.state_dict()}}, FILE)"
            ) from error
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} is a damaged .pt file: {words[:200]}") from error


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CheckpointError(
            f"{path} is no .pt file that torch 1.6 or newer wrote, which is a zip archive: {error}"
        ) from error
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise CheckpointError(f"{path} has compressed parts, which torch never writes: refused")


def _describe(tensor: Tensor) -> Described:
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
    return Described(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), plain)


def _in_words(value: object) -> str:
    if isinstance(value, str | int | float | bool | np.generic | None):
        return str(value)[:80]
    size = f" of {len(value)}" if isinstance(value, dict | list | tuple) else ""
    return f"{type(value).__name__}{size}"
