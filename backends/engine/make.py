"""Which engine runs a checkpoint on this machine.

`auto` takes the compiled engine, and torch's where there is none for this machine; it says which in
the log and in the model's metadata. The compiled engine needs no torch: a server that loads a
.safetensors file with it is ready in a second and 300 MB smaller.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from backends import weights
from backends.engine.port import Engine, EngineUnavailableError, Precision
from backends.weights import Weights

Name = Literal["auto", "compiled", "torch"]
Device = Literal["cpu", "cuda"]

log = structlog.stdlib.get_logger("backends")


@dataclass(frozen=True, slots=True)
class Made:
    """An engine, the sha256 of its weights, and whether anyone trained them."""

    engine: Engine
    checkpoint: str
    trained: bool


def make_engine(
    name: Name,
    checkpoint: Path | None,
    *,
    seed: int = 0,
    threads: int = 1,
    device: Device = "cpu",
    precision: Precision = "float32",
) -> Made:
    """Make an engine in the thread that will run it; without a checkpoint from seeded weights.

    Raises CheckpointError, and EngineUnavailableError when `name` cannot run here.
    """
    if device == "cpu" and name != "torch":
        try:
            return _compiled(checkpoint, seed, threads, precision)
        except EngineUnavailableError as error:
            if name == "compiled" or precision != "float32":
                raise
            log.warning("torch does the compiled engine's work, more slowly", reason=str(error))
    if name == "compiled":
        raise EngineUnavailableError("the compiled engine runs on the CPU: set BACKEND_DEVICE=cpu")
    if precision != "float32":
        raise EngineUnavailableError(
            f"BACKEND_PRECISION={precision}, but only the compiled engine computes in it: set "
            "BACKEND_ENGINE=compiled and BACKEND_DEVICE=cpu, or BACKEND_PRECISION=float32"
        )
    return _torch(checkpoint, seed, threads, device)


def _compiled(path: Path | None, seed: int, threads: int, precision: Precision) -> Made:
    from backends.engine.compiled import CompiledEngine  # noqa: PLC0415 - loads the kernel

    found = weights.load(path) if path and path.suffix == ".safetensors" else _by_torch(path, seed)
    engine = CompiledEngine(found, threads=threads, precision=precision)
    return Made(engine, found.identity, found.trained)


def _torch(path: Path | None, seed: int, threads: int, device: Device) -> Made:
    import torch  # noqa: PLC0415 - takes seconds, and the compiled engine does without

    from backends import checkpoint  # noqa: PLC0415 - imports torch
    from backends.engine.torch_cpu import TorchEngine  # noqa: PLC0415 - imports torch

    if device == "cuda" and not torch.cuda.is_available():
        raise EngineUnavailableError(
            "BACKEND_DEVICE=cuda, but torch finds no CUDA device: set cpu, or install a CUDA build"
        )
    loaded = checkpoint.load(path) if path else checkpoint.seeded(seed)
    engine = TorchEngine(loaded, threads=threads, device=device)
    return Made(engine, loaded.identity, loaded.trained)


def _by_torch(path: Path | None, seed: int) -> Weights:
    """Load weights that only torch can read or make."""
    from backends import checkpoint  # noqa: PLC0415 - imports torch

    loaded = checkpoint.load(path) if path else checkpoint.seeded(seed)
    arrays = {name: tensor.numpy() for name, tensor in loaded.model.state_dict().items()}
    return Weights(arrays, loaded.model.config.delta, loaded.identity, loaded.trained)
