"""What a server says about itself and its model: the documents of the protocol's GET paths. Pure.

Server and model metadata, health and the list of models are the Open Inference Protocol v2's; the
repository index and the model configuration are Triton's, which its clients ask for.
-1 stands for a variable dimension.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from backends.protocol import DATATYPES, DIMENSION, MODEL, OUTPUTS

PLATFORM: Final = "turnout"
_CONTEXT: Final = (1, -1, DIMENSION)


def server_metadata(version: str) -> dict[str, Any]:
    """Describe the server, for `GET /v2`."""
    return {"name": "turnout", "version": version, "extensions": ["binary_tensor_data"]}


def model_list() -> dict[str, Any]:
    """List the models, for `GET /v2/models`."""
    return {"models": [MODEL]}


def model_metadata(
    versions: Iterable[str], facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Describe the model, for `GET /v2/models/lvm`."""
    return {
        "name": MODEL,
        "versions": list(versions),
        "platform": PLATFORM,
        "inputs": [{"name": "CONTEXT", "datatype": "FP32", "shape": list(_CONTEXT)}],
        "outputs": [
            {"name": name, "datatype": DATATYPES[name], "shape": [1, _width(name)]}
            for name in OUTPUTS
        ],
        **({"parameters": dict(facts)} if facts else {}),
    }


def model_config() -> dict[str, Any]:
    """Describe the model as Triton's model configuration does, for `.../config`.

    `max_batch_size` 0: a request holds one context, and the server forms its own batches.
    """
    return {
        "name": MODEL,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "max_batch_size": 0,
        "input": [{"name": "CONTEXT", "data_type": "TYPE_FP32", "dims": list(_CONTEXT)}],
        "output": [
            {"name": name, "data_type": f"TYPE_{DATATYPES[name]}", "dims": [1, _width(name)]}
            for name in OUTPUTS
        ],
    }


def repository_index(versions: Iterable[str], reason: str = "") -> list[dict[str, str]]:
    """List every version and whether it can answer, for `POST /v2/repository/index`.

    `reason` says why not; without one all are ready.
    """
    state = {"state": "UNAVAILABLE" if reason else "READY", "reason": reason}
    return [{"name": MODEL, "version": version, **state} for version in versions]


def _width(output: str) -> int:
    return DIMENSION if output == "PREDICTION" else -1
