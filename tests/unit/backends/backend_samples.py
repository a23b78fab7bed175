"""What the tests of the model server share: contexts, banks, bodies."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from backends import checkpoint
from backends.bank import Bank, build
from backends.checkpoint import Checkpoint
from backends.predictor import Predictor
from backends.protocol import DIMENSION, Floats, Prediction, Request


def context(length: int, seed: int = 0) -> Floats:
    """Make `length` random vectors of length 1."""
    vectors = np.random.default_rng(seed).standard_normal((length, DIMENSION), dtype=np.float32)
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


@functools.cache
def untrained(seed: int = 1) -> Checkpoint:
    return checkpoint.seeded(seed)


def answer(predictor: Predictor, request: Request) -> Prediction:
    """Answer one request, as the worker does, without its queue."""
    task = predictor.prepare(predictor.question(request))
    outcome = predictor.read([task]).outcomes[0]
    predictor.settle(task, outcome)
    if outcome.error is not None:
        raise outcome.error
    assert outcome.prediction is not None
    return outcome.prediction


def bank(vectors: Floats, first_id: int = 1000) -> Bank:
    return build(vectors, np.arange(len(vectors), dtype=np.int64) + first_id, "ba" * 32)


def bank_file(path: Path, vectors: Floats, **other: Any) -> Path:
    """Write a bank file; `other` replaces or adds arrays."""
    arrays = {"vectors": vectors, "ids": np.arange(len(vectors), dtype=np.int64) + 1000, **other}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def infer_json(vectors: Floats, *, nested: bool = False, **parameters: Any) -> bytes:
    """Write an infer body in JSON, flat or nested."""
    data = vectors[np.newaxis] if nested else vectors.ravel()
    return orjson.dumps(
        {
            "parameters": parameters,
            "inputs": [
                {
                    "name": "CONTEXT",
                    "shape": [1, len(vectors), DIMENSION],
                    "datatype": "FP32",
                    "data": data,
                }
            ],
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
