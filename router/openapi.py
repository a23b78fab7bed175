"""What `/docs` says about the gateway.

The examples of predictions work as they stand. That of feedback cannot: it names an earlier answer
and an id of the bank, and its description says so.
"""

import math
from typing import Any, Final

from backends.protocol import (
    DIMENSION,
    HEADER_LENGTH,
    KEPT_NEIGHBORS,
    MAX_TOP_K,
    MODEL,
    TIMEOUT_HEADER,
)
from router.access import ARM_HEADER
from router.length import LENGTH_HEADER

DESCRIPTION: Final = """\
One endpoint in front, several models behind. You send a **context** of vectors and get the
predicted next vector with its nearest neighbours in the bank; which model answers is decided here,
by the context's length and by the rollout that may be under way.

* A context is a list of vectors of 768 numbers, oldest first. One stands for about 20 tokens.
* A context longer than the answering model reads is cut to its newest vectors, and the answer says
  `truncated: true`.
* Every answer has an **`x-request-id`** header, which the server issues. Keep it to send the truth
  to `/v1/feedback` later: your own `id` is echoed but never used for that.
* `x-turnout-arm` names who answered, `x-turnout-assigned` who was meant to, `x-turnout-reason` why;
  `x-turnout-stage` and `x-turnout-version` name the rollout's stage and the configuration;
  `x-turnout-checkpoint` and `x-turnout-bank` are the sha256 of the model and of the bank.
* `x-request-timeout-ms` on a request is its deadline.
* `x-context-length` on a request says how many vectors follow: one that has more or fewer is 400.
* `x-turnout-arm` on a request names the arm that must answer, for those who have the right.
* Where keys are on, a request shows its own as `Authorization: Bearer KEY`: 401 without, 403 when
  it lacks the right.
* A request's body may be compressed: `content-encoding: gzip` or `deflate`.
* Every error is `{"error": "<one sentence>"}`.
"""


def _vector(phase: float) -> list[float]:
    """Make a unit vector, rounded so that the document stays small."""
    scale = math.sqrt(2 / DIMENSION)
    return [round(scale * math.sin(phase + 0.7 * i), 4) for i in range(DIMENSION)]


_ERROR: Final = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}
_VECTOR: Final = {
    "type": "array",
    "items": {"type": "number"},
    "minItems": DIMENSION,
    "maxItems": DIMENSION,
}


def _json(schema: dict[str, Any], example: object = None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {"application/json": content}


def _object(required: list[str], **properties: object) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _errors(**sentences: str) -> dict[str, Any]:
    return {
        status.removeprefix("s"): {"description": sentence, "content": _json(_ERROR)}
        for status, sentence in sentences.items()
    }


_COMMON_ERRORS: Final = _errors(
    s400="The path holds a control character.",
    s401="No API key, or one that is not known.",
    s403="The API key lacks the right.",
    s404="There is no such model or version.",
    s503="Not now: not ready, or no room.",
)

_PREDICT_ERRORS: Final = _errors(
    s400="The body or a header breaks the contract; the sentence names the field.",
    s401="No API key, or one that is not known.",
    s403='The API key lacks the right "predict", or "override" for x-turnout-arm.',
    s404="There is no such model or version.",
    s408="The head or the body was not whole in time.",
    s409="x-turnout-arm names the candidate, which an operator keeps all traffic off.",
    s413="The body or the context is too long.",
    s415="The body is compressed in a way that is not read here.",
    s502="The backend failed.",
    s503="There is no room for the request now: try again after Retry-After.",
    s504="The backend did not answer before the deadline.",
)


def _header(name: str, kind: str, description: str, **bounds: int) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "schema": {"type": kind, **bounds},
        "description": description,
    }


ON_PREDICTIONS: Final = (
    _header(
        TIMEOUT_HEADER,
        "number",
        "Milliseconds until nobody waits for the answer any more; 504 then.",
        exclusiveMinimum=0,
    ),
    _header(LENGTH_HEADER, "integer", "Vectors in the context, to have it checked.", minimum=1),
    _header(ARM_HEADER, "string", 'The arm that must answer; needs the right "override".'),
)
ON_INFER: Final = _header(
    HEADER_LENGTH,
    "integer",
    "Bytes of JSON in front of the tensors, in the binary form.",
    minimum=1,
)

_PATH_PARAMETERS: Final = {
    "name": f'The model: "{MODEL}".',
    "version": "A version, as the model's metadata lists them.",
}


def operation(path: str, extra: dict[str, Any]) -> dict[str, Any]:
    """Add to an operation's description what all have in common."""
    infers = path.endswith("/infer")
    predicts = infers or path == "/v1/predict"
    return {
        **extra,
        "parameters": [
            *extra.get("parameters", ()),
            *(ON_PREDICTIONS if predicts else ()),
            *((ON_INFER,) if infers else ()),
        ],
        "responses": {**_COMMON_ERRORS, **extra.get("responses", {})},
    }


def path_parameters(path: str) -> dict[str, Any]:
    """Describe what stands in braces in a path."""
    return {
        "parameters": [
            {
                "name": name,
                "in": "path",
                "required": True,
                "schema": {"type": "string"},
                "description": sentence,
            }
            for name, sentence in _PATH_PARAMETERS.items()
            if f"{{{name}}}" in path
        ]
    }


PREDICT: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": _json(
            _object(
                ["context"],
                context={
                    "type": "array",
                    "items": _VECTOR,
                    "minItems": 1,
                    "description": "The vectors, oldest first.",
                },
                id={"type": "string", "description": "Yours; echoed in the answer."},
                key={"type": "string", "description": "Routing key: equal keys stay together."},
                top_k={
                    "type": "integer",
                    "minimum": 1,
                    "maximum": MAX_TOP_K,
                    "default": KEPT_NEIGHBORS,
                },
                exclude_context={
                    "type": "boolean",
                    "default": True,
                    "description": "Leave the context's own vectors out of the neighbours.",
                },
            ),
            {"context": [_vector(1.0)], "id": "my-first", "top_k": 3},
        ),
    },
    "responses": {
        "200": {
            "description": "The prediction.",
            "content": _json(
                _object(
                    ["id", "prediction", "neighbors", "arm", "length", "tokens", "truncated"],
                    id={
                        "type": "string",
                        "description": "The request's own `id`, or else the server's x-request-id.",
                    },
                    prediction=_VECTOR,
                    neighbors={
                        "type": "array",
                        "items": _object(
                            ["id", "score"], id={"type": "integer"}, score={"type": "number"}
                        ),
                    },
                    arm={"type": "string", "description": "The model that answered."},
                    length={"type": "integer", "description": "Vectors in the context."},
                    tokens={"type": "integer", "description": "About as many tokens."},
                    truncated={
                        "type": "boolean",
                        "description": "Whether the model read only the newest vectors.",
                    },
                )
            ),
        },
        **_PREDICT_ERRORS,
    },
}

_BINARY: Final = {
    "application/octet-stream": {
        "schema": {
            "type": "string",
            "format": "binary",
            "description": "The binary tensor extension: JSON, of the length that "
            f"{HEADER_LENGTH} says, and then the tensors' bytes, little-endian.",
        }
    }
}

INFER: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": _json(
            {"type": "object"},
            {
                "inputs": [
                    {
                        "name": "CONTEXT",
                        "shape": [1, 1, DIMENSION],
                        "datatype": "FP32",
                        "data": _vector(1.0),
                    }
                ],
                "parameters": {"top_k": 3},
            },
        )
        | _BINARY,
    },
    "responses": {
        "200": {
            "description": "PREDICTION FP32 [1,768], NEIGHBOR_IDS INT64 [1,k], NEIGHBOR_SCORES "
            "FP32 [1,k]; in the form that was asked for.",
            "content": _json({"type": "object"}) | _BINARY,
        },
        **_PREDICT_ERRORS,
    },
}

FEEDBACK: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "Put the x-request-id of an answer of yours and an id of your bank in the "
        "example's place: as it stands it is about a request that nobody made.",
        "content": _json(
            _object(
                ["id"],
                id={"type": "string", "description": "The x-request-id of the answer."},
                target_id={"type": "integer", "description": "The truth, by its id in the bank."},
                target={**_VECTOR, "description": "The truth, as one of the bank's vectors."},
            ),
            {"id": "019aac1e-7a51-7c2d-b1f0-0123456789ab", "target_id": 17},
        ),
    },
    "responses": {
        "202": {
            "description": "Taken in; a repeat changes nothing.",
            "content": _json({"type": "object", "properties": {"queued": {"type": "boolean"}}}),
        },
        **_errors(
            s400="The body breaks the contract, or the bank has no such id or vector.",
            s401="No API key, or one that is not known.",
            s403='The API key lacks the right "feedback".',
            s413="The body is too long.",
            s415="The body is compressed in a way that is not read here.",
            s404="No request has this name.",
            s409="Another target was given before.",
            s410="The label window is over.",
            s503="No store, a full queue, or no backend to look the target up.",
        ),
    },
}
