"""Weights as plain arrays, and their identity: what an engine without torch needs of a checkpoint.

A file is safetensors: the model's state dict, and in its metadata `config` (JSON) and `trained`.
Reading executes nothing. bfloat16 becomes float32 exactly: it is a float32's upper half.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import SafetensorError, deserialize

from backends.errors import CheckpointError
from backends.protocol import Floats
from backends.shape import DIMENSION, HEAD, HIDDEN, LAYERS, SLOTS

DELTAS: Final = ("unit", "free")
_FAULTS: Final = 40
"""Faults that one error names: the model has 31 tensors."""
LARGEST: Final = 256 * 2**20
"""Bytes of a checkpoint's file, at most; the model's own have 26 (bfloat16) or 52 MB."""
_GATES: Final = 3 * HIDDEN
SHAPES: Final[dict[str, tuple[int, ...]]] = {
    "input_norm.weight": (DIMENSION,),
    "input_norm.bias": (DIMENSION,),
    "memory.memory": (SLOTS, DIMENSION),
    "memory.query_proj.weight": (DIMENSION, HIDDEN),
    "memory.query_proj.bias": (DIMENSION,),
    "memory.write_gate.weight": (SLOTS, HIDDEN),
    "memory.write_gate.bias": (SLOTS,),
    **{
        f"gru.{name}_l{layer}": shape
        for layer in range(LAYERS)
        for name, shape in {
            "weight_ih": (_GATES, 2 * DIMENSION if layer == 0 else HIDDEN),
            "weight_hh": (_GATES, HIDDEN),
            "bias_ih": (_GATES,),
            "bias_hh": (_GATES,),
        }.items()
    },
    "fusion.0.weight": (HIDDEN, HIDDEN + DIMENSION),
    "fusion.0.bias": (HIDDEN,),
    "fusion.3.weight": (HIDDEN,),
    "fusion.3.bias": (HIDDEN,),
    "output_proj.0.weight": (HEAD, HIDDEN),
    "output_proj.0.bias": (HEAD,),
    "output_proj.3.weight": (DIMENSION, HEAD),
    "output_proj.3.bias": (DIMENSION,),
}
"""The model's tensors by the names of the original checkpoints; that model.py agrees is a test."""

_TYPES: Final = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
"""Safetensors' names of floating types, as numpy reads them."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The model's tensors as float32, what the delta is, the file's sha256, who trained them."""

    arrays: dict[str, Floats]
    delta: str
    identity: str
    trained: bool


def load(path: Path) -> Weights:
    """Read a safetensors file. Raises CheckpointError, saying what is wrong with it."""
    try:
        if path.stat().st_size > LARGEST:
            raise CheckpointError(
                f"{path} has {path.stat().st_size} bytes: a checkpoint has at most {LARGEST}"
            )
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"cannot read the checkpoint {path}: {error.strerror or error}"
        ) from error
    try:
        tensors = dict(deserialize(data))  # type: ignore[no-untyped-call]  # the library's own
        metadata = _metadata(data)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is no safetensors file: {error}") from error
    arrays = {name: _array(tensor) for name, tensor in tensors.items()}
    _check(arrays, path)
    return Weights(
        arrays={name: array for name, array in arrays.items() if array is not None},
        delta=_delta(metadata, path),
        identity=hashlib.sha256(data).hexdigest(),
        trained=metadata.get("trained", "true") == "true",
    )


def _metadata(data: bytes) -> dict[str, str]:
    """Return a safetensors file's own metadata: 8 bytes of length, then JSON."""
    length = int.from_bytes(data[:8], "little")
    found: dict[str, str] = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    return found


def _delta(metadata: dict[str, str], path: Path) -> str:
    """Return `delta` of the metadata's `config`."""
    try:
        config = json.loads(metadata.get("config", "{}"))
        delta = config.get("delta", "unit")
        unknown = set(config) - {"delta"}
    except (AttributeError, ValueError) as error:
        raise CheckpointError(f'the "config" in the metadata of {path}: {error}') from error
    if unknown or delta not in DELTAS:
        raise CheckpointError(
            f'the "config" in the metadata of {path} is {config}: it may hold "delta", which is '
            '"unit" or "free"'
        )
    return str(delta)


def _array(tensor: dict[str, object]) -> Floats | None:
    """Make float32 of a tensor of safetensors; None of what holds no floating numbers."""
    data, kind = bytes(tensor["data"]), tensor["dtype"]  # type: ignore[call-overload]  # the library's dict is untyped
    shape = tuple(tensor["shape"])  # type: ignore[arg-type, var-annotated]  # as above
    if kind == "BF16":
        bits = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return bits.view(np.float32).reshape(shape)
    if kind in _TYPES:
        numbers = np.frombuffer(data, _TYPES[kind])
        return numbers.astype(np.float32).reshape(shape)
    return None


def _check(found: Mapping[str, Floats | None], path: Path) -> None:
    # What holds no floating numbers is told below, whatever its shape.
    shapes = {
        name: SHAPES.get(name, ()) if array is None else array.shape
        for name, array in found.items()
    }
    refuse(misfits(shapes), path)
    refuse(
        [
            f"{name} holds what is no finite number"
            for name, array in found.items()
            if array is None or not np.isfinite(array).all()
        ],
        path,
    )


def misfits(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Name every tensor that is missing, unknown or misshapen."""
    faults = [f"{name} is missing" for name in SHAPES if name not in shapes]
    faults += [f"{name} is unknown" for name in shapes if name not in SHAPES]
    return faults + [
        f"{name} has the shape {list(shapes[name])}, not {list(SHAPES[name])}"
        for name in SHAPES.keys() & shapes.keys()
        if shapes[name] != SHAPES[name]
    ]


def refuse(faults: list[str], path: Path) -> None:
    """Raise CheckpointError, one for all faults, if there are any."""
    if faults:
        shown = "; ".join(sorted(faults)[:_FAULTS])
        more = f"; and {len(faults) - _FAULTS} more" if len(faults) > _FAULTS else ""
        raise CheckpointError(f"{path} holds another model: {shown}{more}")
