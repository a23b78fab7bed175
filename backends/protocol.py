"""The contract between clients, gateway and model servers. Pure: bytes in, values out.

Two request forms carry a context of n vectors:

- the gateway's own `POST /v1/predict`: `{"context": [[768 floats] x n], "id"?, "key"?, "top_k"?,
  "exclude_context"?}`;
- the Open Inference Protocol v2 `POST /v2/models/lvm/infer`, as JSON or with the binary tensor
  extension (a JSON header, then raw little-endian tensors in the listed order):
  `CONTEXT` FP32 `[1,n,768]` in; `PREDICTION` FP32 `[1,768]`, `NEIGHBOR_IDS` INT64 `[1,k]` and
  `NEIGHBOR_SCORES` FP32 `[1,k]` out. Between gateway and backend the binary form is always used:
  the floats of a JSON body are read once.

Floats are read straight into an array, without a Python object per float. When that fails, a
second, slow reading finds the words for what is wrong: the errors of this module name the field,
what was found and what would be right.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray

MODEL: Final = "lvm"
DIMENSION: Final = 768
KEPT_NEIGHBORS: Final = 10
"""Every answer is judged by its first ten neighbours (Hit@1/5/10), whatever `top_k` was."""
MAX_TOP_K: Final = 1000
MAX_TEXT: Final = 256
"""Characters of an id or a routing key."""
VECTOR_BYTES: Final = DIMENSION * 4
HEADER_LENGTH: Final = "inference-header-content-length"
OUTPUTS: Final = ("PREDICTION", "NEIGHBOR_IDS", "NEIGHBOR_SCORES")
DATATYPES: Final = {"PREDICTION": "FP32", "NEIGHBOR_IDS": "INT64", "NEIGHBOR_SCORES": "FP32"}

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


class ProtocolError(Exception):
    """A request that breaks the contract; `status` hints the HTTP status (400 or 413)."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """One prediction request, checked. `context` is float32 `[n, 768]`, finite, n >= 1."""

    context: Floats
    id: str | None = None
    key: str | None = None
    top_k: int = KEPT_NEIGHBORS
    exclude_context: bool = True
    outputs: tuple[str, ...] = OUTPUTS
    binary_outputs: frozenset[str] = frozenset()

    @property
    def length(self) -> int:
        """Vectors in the context."""
        return int(self.context.shape[0])


@dataclass(frozen=True, slots=True)
class Prediction:
    """One model's answer: `vector` float32 `[768]`, `ids` int64 `[k]`, `scores` float32 `[k]`.

    `length` is the context's length in vectors as given, `window` how many of them the model read.
    `checkpoint` and `bank` are the sha256 of what computed it.
    """

    vector: Floats
    ids: Ids
    scores: Floats
    length: int
    window: int
    checkpoint: str
    bank: str

    @property
    def truncated(self) -> bool:
        """Whether the model read less than it was given."""
        return self.window < self.length


# --- reading ------------------------------------------------------------------------------------


def read_predict(body: bytes, *, max_length: int) -> Request:
    """Read a `/v1/predict` body.

    Raises ProtocolError: 400 for what is malformed, 413 for more than `max_length` vectors.
    """
    document = _parse_object(body)
    _refuse_unknown(document, ("context", "id", "key", "top_k", "exclude_context"), "the body")
    if "context" not in document:
        raise ProtocolError(
            'the field "context" is missing: send a list of vectors of 768 numbers each'
        )
    context = _read_rows(document["context"], body, ("context",), max_length, brackets=1)
    return Request(
        context=context,
        id=_text(document, "id", "id"),
        key=_text(document, "key", "key"),
        top_k=_top_k(document.get("top_k"), "top_k"),
        exclude_context=_flag(document.get("exclude_context"), "exclude_context", default=True),
    )


def read_infer(body: bytes, header_length: str | None, *, max_length: int) -> Request:
    """Read an Open Inference Protocol v2 infer body; `header_length` is the HTTP header's value.

    Raises ProtocolError: 400 for what is malformed, 413 for more than `max_length` vectors.
    """
    split = _json_length(header_length, len(body))
    if split == 0 and header_length is not None:
        context = _read_raw(body, (1, len(body) // VECTOR_BYTES, DIMENSION), "the body", max_length)
        return Request(context=context, binary_outputs=frozenset(OUTPUTS))
    head, tail = body[:split], memoryview(body)[split:]
    document = _parse_object(head)
    _refuse_unknown(document, ("id", "parameters", "inputs", "outputs"), "the request")
    parameters = _mapping(document.get("parameters"), "parameters")
    context = _read_input(document, head, tail, max_length)
    outputs, binary = _wanted(document.get("outputs"), parameters)
    return Request(
        context=context,
        id=_text(document, "id", "id"),
        key=_text(parameters, "key", "parameters.key"),
        top_k=_top_k(parameters.get("top_k"), "parameters.top_k"),
        exclude_context=_flag(
            parameters.get("exclude_context"), "parameters.exclude_context", default=True
        ),
        outputs=outputs,
        binary_outputs=binary,
    )


def read_lookup(body: bytes) -> Floats:
    """Read a lookup body, `{"vector": [768 floats]}`: float32 `[768]`. Raises ProtocolError."""
    document = _parse_object(body)
    _refuse_unknown(document, ("vector",), "the body")
    if "vector" not in document:
        raise ProtocolError('the field "vector" is missing: send a list of 768 numbers')
    value: Any = document["vector"]
    if not isinstance(value, simdjson.Array) or len(value) != DIMENSION:
        found = f"{len(value)} items" if isinstance(value, simdjson.Array) else _kind(value)
        raise ProtocolError(f"vector must be a list of {DIMENSION} numbers, not {found}")
    if body.count(b"[") != 1:
        _check_elements(body, ("vector",), rows=False)
    vector = _to_array(value, body, ("vector",), rows=False)
    return _finite(vector.reshape(1, DIMENSION), "vector").reshape(DIMENSION)


def read_answer(body: bytes, header_length: str | None) -> Prediction:
    """Read a backend's infer answer, JSON or binary, as `write_answer` makes it.

    Raises ProtocolError when the answer is not one: a wrong shape, no such output, not finite.
    """
    split = _json_length(header_length, len(body))
    document = _parse_object(body[:split])
    found = _read_outputs(document.get("outputs"), memoryview(body)[split:])
    missing = [name for name in OUTPUTS if name not in found]
    if missing:
        raise ProtocolError(f"the answer lacks {', '.join(missing)}")
    vector, ids, scores = (found[name] for name in OUTPUTS)
    if vector.shape != (DIMENSION,) or not np.isfinite(vector).all():
        raise ProtocolError(f"the answer's PREDICTION is not {DIMENSION} finite numbers")
    if ids.shape != scores.shape:
        raise ProtocolError(f"the answer names {ids.size} neighbours but scores {scores.size}")
    if not np.isfinite(scores).all():
        raise ProtocolError("the answer's NEIGHBOR_SCORES are not all finite")
    facts = _mapping(document.get("parameters"), "parameters")
    return Prediction(
        vector=vector,
        ids=ids,
        scores=scores,
        length=_count(facts, "length"),
        window=_count(facts, "window"),
        checkpoint=str(facts.get("checkpoint", "")),
        bank=str(facts.get("bank", "")),
    )


# --- writing ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """A body and the headers that describe it."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def write_request(request: Request) -> Message:
    """Write a request in the binary form, all outputs binary: what a gateway sends a backend."""
    tensor = np.ascontiguousarray(request.context, dtype="<f4").tobytes()
    head = orjson.dumps(
        {
            **({"id": request.id} if request.id is not None else {}),
            "parameters": {
                "binary_data_output": True,
                "top_k": request.top_k,
                "exclude_context": request.exclude_context,
            },
            "inputs": [
                {
                    "name": "CONTEXT",
                    "shape": [1, request.length, DIMENSION],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": len(tensor)},
                }
            ],
        }
    )
    return _framed(head, [tensor])


def write_answer(
    prediction: Prediction, request: Request, *, extra: Mapping[str, Any] | None = None
) -> Message:
    """Write an infer answer with the outputs that `request` wants, each in the form it wants.

    `extra` is added to the answer's parameters (the gateway says which arm answered).
    """
    arrays = {
        "PREDICTION": np.ascontiguousarray(prediction.vector, dtype="<f4"),
        "NEIGHBOR_IDS": np.ascontiguousarray(prediction.ids, dtype="<i8"),
        "NEIGHBOR_SCORES": np.ascontiguousarray(prediction.scores, dtype="<f4"),
    }
    outputs: list[dict[str, Any]] = []
    tensors: list[bytes] = []
    for name in request.outputs:
        array = arrays[name]
        output: dict[str, Any] = {
            "name": name,
            "shape": [1, array.size],
            "datatype": DATATYPES[name],
        }
        if name in request.binary_outputs:
            tensors.append(array.tobytes())
            output["parameters"] = {"binary_data_size": array.nbytes}
        else:
            output["data"] = array
        outputs.append(output)
    head = orjson.dumps(
        {
            "model_name": MODEL,
            "model_version": prediction.checkpoint[:12],
            **({"id": request.id} if request.id is not None else {}),
            "parameters": {
                "length": prediction.length,
                "window": prediction.window,
                "truncated": prediction.truncated,
                "checkpoint": prediction.checkpoint,
                "bank": prediction.bank,
                **(extra or {}),
            },
            "outputs": outputs,
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
    return _framed(head, tensors)


def write_error(message: str) -> bytes:
    """Write the protocol's error body: `{"error": "<string>"}`, always as application/json."""
    return orjson.dumps({"error": message})


def server_metadata(version: str) -> dict[str, Any]:
    """Describe the server, for `GET /v2`."""
    return {"name": "turnout", "version": version, "extensions": ["binary_tensor_data"]}


def model_metadata(
    versions: Iterable[str], facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Describe the model, for `GET /v2/models/lvm`. -1 stands for a variable dimension."""
    return {
        "name": MODEL,
        "versions": list(versions),
        "platform": "turnout",
        "inputs": [{"name": "CONTEXT", "datatype": "FP32", "shape": [1, -1, DIMENSION]}],
        "outputs": [
            {
                "name": name,
                "datatype": DATATYPES[name],
                "shape": [1, DIMENSION if name == "PREDICTION" else -1],
            }
            for name in OUTPUTS
        ],
        **({"parameters": dict(facts)} if facts else {}),
    }


def _framed(head: bytes, tensors: list[bytes]) -> Message:
    if not tensors:
        return Message(head, {"content-type": "application/json"})
    return Message(
        b"".join([head, *tensors]),
        {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))},
    )


# --- the parts of an answer ---------------------------------------------------------------------


def _read_outputs(outputs: object, tail: memoryview) -> dict[str, NDArray[Any]]:
    """Read the outputs' arrays by name; those in binary follow each other in `tail`."""
    found: dict[str, NDArray[Any]] = {}
    offset = 0
    for raw in outputs if isinstance(outputs, simdjson.Array) else ():
        output = _mapping(raw, "outputs[]")
        name, datatype = output.get("name"), output.get("datatype")
        if not isinstance(name, str) or name not in DATATYPES or datatype != DATATYPES[name]:
            raise ProtocolError(
                f"the answer holds an output {_short(name)} of type {_short(datatype)}"
            )
        dtype = np.dtype("<i8" if datatype == "INT64" else "<f4")
        size = _mapping(output.get("parameters"), "outputs[].parameters").get("binary_data_size")
        if size is None:
            found[name] = _read_numbers(output.get("data"), dtype, name)
            continue
        whole = isinstance(size, int) and not isinstance(size, bool)
        if not whole or size % dtype.itemsize or not 0 <= size <= len(tail) - offset:
            raise ProtocolError(
                f"the answer's {name} announces {_short(size)} bytes, which do not follow"
            )
        found[name] = np.frombuffer(tail[offset : offset + size], dtype=dtype)
        offset += size
    return found


def _read_numbers(data: object, dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """Read a flat list of an output's numbers."""
    kinds = (int,) if dtype.kind == "i" else (int, float)
    if not isinstance(data, list) or not all(type(number) in kinds for number in data):
        raise ProtocolError(f"the answer's {name} is not a list of numbers of its type")
    try:
        with np.errstate(over="ignore"):  # what overflows float32 is found as not finite
            return np.array(data, dtype=dtype)
    except OverflowError:
        raise ProtocolError(f"the answer's {name} holds a number beyond its type") from None


def _count(facts: Mapping[str, Any], name: str) -> int:
    value = facts.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ProtocolError(f"the answer's {name} is {_short(value)}, not a whole number")
    return value


# --- the parts of a request ---------------------------------------------------------------------


def _json_length(header: str | None, body_length: int) -> int:
    if header is None:
        return body_length
    digits = header.isascii() and header.isdigit() and len(header) < 20  # noqa: PLR2004 - 64 bits
    if not digits or int(header) > body_length:
        raise ProtocolError(
            f"Inference-Header-Content-Length is {header[:40]!r}: it must be a whole number from 0 "
            f"to the body's {body_length} bytes"
        )
    return int(header)


def _read_input(
    document: simdjson.Object, head: bytes, tail: memoryview, max_length: int
) -> Floats:
    inputs = document.get("inputs")
    if not isinstance(inputs, simdjson.Array) or len(inputs) != 1:
        found = len(inputs) if isinstance(inputs, simdjson.Array) else _kind(inputs)
        raise ProtocolError(f'"inputs" must list exactly one tensor, CONTEXT; found {found}')
    tensor: Any = inputs[0]
    if not isinstance(tensor, simdjson.Object):
        raise ProtocolError(f"inputs[0] must be an object, not {_kind(tensor)}")
    _refuse_unknown(tensor, ("name", "shape", "datatype", "parameters", "data"), "inputs[0]")
    if tensor.get("name") != "CONTEXT":
        raise ProtocolError(f'inputs[0].name is {tensor.get("name")!r}: the model reads "CONTEXT"')
    if tensor.get("datatype") != "FP32":
        raise ProtocolError(f'inputs[0].datatype is {tensor.get("datatype")!r}: CONTEXT is "FP32"')
    shape = _shape(tensor.get("shape"))
    size = _mapping(tensor.get("parameters"), "inputs[0].parameters").get("binary_data_size")
    if size is not None:
        if "data" in tensor:
            raise ProtocolError("inputs[0] has both data and binary_data_size: send one of them")
        if isinstance(size, bool) or not isinstance(size, int) or size != len(tail):
            raise ProtocolError(
                f"inputs[0].parameters.binary_data_size is {size!r}, but {len(tail)} bytes follow "
                "the JSON header"
            )
        return _read_raw(bytes(tail), shape, "inputs[0]", max_length)
    if len(tail):
        raise ProtocolError(
            f"{len(tail)} bytes follow the JSON header, but inputs[0] has no binary_data_size"
        )
    if "data" not in tensor:
        raise ProtocolError('inputs[0] has neither "data" nor parameters.binary_data_size')
    return _read_data(tensor["data"], head, shape, max_length)


def _read_data(data: object, head: bytes, shape: tuple[int, int, int], max_length: int) -> Floats:
    """Read a tensor's JSON data, flat or nested as `[1][n][768]`."""
    where = ("inputs", 0, "data")
    if not isinstance(data, simdjson.Array):
        raise ProtocolError(f"inputs[0].data must be a list of numbers, not {_kind(data)}")
    if len(data) == 1 and isinstance(data[0], simdjson.Array):
        # inputs, shape, data and its one item open a bracket each, before the rows do
        context = _read_rows(data[0], head, (*where, 0), max_length, brackets=4)
    else:
        _refuse_long(shape[1], max_length)
        if head.count(b"[") != 3:  # noqa: PLR2004 - inputs, shape and data open one each
            _check_elements(head, where, rows=False)
        flat = _to_array(data, head, where, rows=False)
        if flat.size != shape[1] * DIMENSION:
            raise ProtocolError(
                f"inputs[0].data holds {flat.size} numbers, but the shape {list(shape)} needs "
                f"{shape[1] * DIMENSION}"
            )
        context = _finite(flat.reshape(shape[1], DIMENSION), "inputs[0].data")
    if context.shape[0] != shape[1]:
        raise ProtocolError(
            f"inputs[0].data holds {context.shape[0]} vectors, but the shape says {shape[1]}"
        )
    return context


def _read_raw(raw: bytes, shape: tuple[int, int, int], where: str, max_length: int) -> Floats:
    if not raw or len(raw) % VECTOR_BYTES:
        raise ProtocolError(
            f"{where} holds {len(raw)} bytes of tensor data: it must be a positive multiple of "
            f"{VECTOR_BYTES} (768 float32)"
        )
    if len(raw) != shape[1] * VECTOR_BYTES:
        raise ProtocolError(
            f"{where} holds {len(raw)} bytes of tensor data, but the shape {list(shape)} needs "
            f"{shape[1] * VECTOR_BYTES}"
        )
    _refuse_long(shape[1], max_length)
    return _finite(np.frombuffer(raw, dtype="<f4").reshape(-1, DIMENSION), where)


def _shape(value: object) -> tuple[int, int, int]:
    shape = _plain(value)
    if (
        not isinstance(shape, list)
        or len(shape) != 3  # noqa: PLR2004 - the tensor's rank
        or not all(isinstance(size, int) and not isinstance(size, bool) for size in shape)
        or shape[0] != 1
        or shape[1] < 1
        or shape[2] != DIMENSION
    ):
        raise ProtocolError(
            f"inputs[0].shape is {_short(shape)}: CONTEXT has the shape [1, n, {DIMENSION}], n >= 1"
        )
    return (1, shape[1], DIMENSION)


def _wanted(
    outputs: object, parameters: Mapping[str, Any]
) -> tuple[tuple[str, ...], frozenset[str]]:
    """Which outputs, and which of them in binary: an output's own word wins over the request's."""
    all_binary = _flag(
        parameters.get("binary_data_output"), "parameters.binary_data_output", default=False
    )
    if outputs is None:
        return OUTPUTS, frozenset(OUTPUTS if all_binary else ())
    listed = _plain(outputs)
    if not isinstance(listed, list):
        raise ProtocolError(f'"outputs" must be a list, not {_kind(listed)}')
    names: list[str] = []
    binary: set[str] = set()
    for index, output in enumerate(listed):
        where = f"outputs[{index}]"
        if not isinstance(output, dict) or output.get("name") not in OUTPUTS:
            name = output.get("name") if isinstance(output, dict) else output
            raise ProtocolError(
                f"{where} names {_short(name)}: the outputs are {', '.join(OUTPUTS)}"
            )
        if output["name"] in names:
            raise ProtocolError(f"{where} names {output['name']} a second time")
        own = _mapping(output.get("parameters"), f"{where}.parameters").get("binary_data")
        if _flag(own, f"{where}.parameters.binary_data", default=all_binary):
            binary.add(output["name"])
        names.append(output["name"])
    return tuple(names) or OUTPUTS, frozenset(binary)


# --- rows of floats -----------------------------------------------------------------------------


def _read_rows(
    value: object, body: bytes, where: tuple[str | int, ...], max_length: int, *, brackets: int
) -> Floats:
    """Read a list of vectors; `brackets` is how many lists a plain body opens besides the rows."""
    name = _path(where)
    if not isinstance(value, simdjson.Array):
        raise ProtocolError(f"{name} must be a list of vectors, not {_kind(value)}")
    if not len(value):
        raise ProtocolError(f"{name} is empty: send at least one vector of {DIMENSION} numbers")
    _refuse_long(len(value), max_length)
    for index, row in enumerate(value):
        if not isinstance(row, simdjson.Array):
            raise ProtocolError(
                f"{name}[{index}] must be a vector of {DIMENSION} numbers, not {_kind(row)}"
            )
        if len(row) != DIMENSION:
            raise ProtocolError(f"{name}[{index}] has {len(row)} numbers: a vector has {DIMENSION}")
    # The array reader flattens what is nested: `[[1]]` would pass as `[1]`. Where the body has
    # more brackets than its rows explain (or a text holds one), each element is looked at.
    if body.count(b"[") != len(value) + brackets:
        _check_elements(body, where, rows=True)
    return _finite(_to_array(value, body, where, rows=True).reshape(-1, DIMENSION), name)


def _to_array(
    value: simdjson.Array, body: bytes, where: tuple[str | int, ...], *, rows: bool
) -> Floats:
    try:
        numbers = np.frombuffer(value.as_buffer(of_type="d"), dtype=np.float64)
    except (TypeError, ValueError):
        _check_elements(body, where, rows=rows)
        raise ProtocolError(f"{_path(where)} holds a number that no float64 can hold") from None
    with np.errstate(over="ignore"):  # what overflows float32 is found, and named, as not finite
        return numbers.astype(np.float32)


def _check_elements(body: bytes, where: tuple[str | int, ...], *, rows: bool) -> None:
    """Read the body again, slowly, and name the first element that is no number."""
    value = orjson.loads(body)
    for step in where:
        value = value[step]
    name = _path(where)
    vectors = {f"{name}[{i}]": row for i, row in enumerate(value)} if rows else {name: value}
    for vector, numbers in vectors.items():
        for i, number in enumerate(numbers):
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ProtocolError(f"{vector}[{i}] must be a number, not {_kind(number)}")


def _finite(context: Floats, name: str) -> Floats:
    if not np.isfinite(context).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(context))[0])
        found = "NaN" if np.isnan(context[row, column]) else "beyond the range of float32"
        raise ProtocolError(
            f"{name}[{row}][{column}] is {found}: every number of a vector must be a finite float32"
        )
    return context


def _refuse_long(length: int, max_length: int) -> None:
    if length > max_length:
        raise ProtocolError(
            f"the context has {length} vectors: this server accepts at most {max_length}", 413
        )


# --- JSON values --------------------------------------------------------------------------------


def _parse_object(body: bytes) -> simdjson.Object:
    try:
        document = simdjson.Parser().parse(body)
    except (ValueError, RuntimeError, UnicodeDecodeError):
        _explain_json(body)
    if not isinstance(document, simdjson.Object):
        raise ProtocolError(f"the body must be a JSON object, not {_kind(document)}")
    return document


def _explain_json(body: bytes) -> NoReturn:
    if not body.strip():
        raise ProtocolError("the body is empty: send a JSON object")
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        rest = body[error.pos :].lstrip()[:9]
        if rest.lstrip(b"-").startswith((b"NaN", b"Infinity", b"nan", b"inf")):
            hint = ": NaN and Infinity are no JSON numbers, and every number must be finite"
        elif error.pos >= len(body.rstrip()):
            hint = ": was the body truncated?"
        else:
            hint = ""
        raise ProtocolError(f"the body is no JSON: {error}{hint}") from None
    raise ProtocolError("the body holds an integer beyond 64 bits, which no vector may hold")


def _refuse_unknown(document: simdjson.Object, known: tuple[str, ...], where: str) -> None:
    for name in document:
        if name not in known:
            raise ProtocolError(
                f"{where} has the unknown field {_short(name)}: the fields are {', '.join(known)}"
            )


def _plain(value: Any) -> Any:
    if isinstance(value, simdjson.Array):
        return value.as_list()
    return value.as_dict() if isinstance(value, simdjson.Object) else value


def _mapping(value: object, where: str) -> dict[str, Any]:
    plain = _plain(value)
    if plain is None:
        return {}
    if not isinstance(plain, dict):
        raise ProtocolError(f"{where} must be an object, not {_kind(plain)}")
    return plain


def _text(document: Mapping[str, Any] | simdjson.Object, name: str, where: str) -> str | None:
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT:
        raise ProtocolError(
            f"{where} must be a text of 1 to {MAX_TEXT} characters, not {_short(value)}"
        )
    return value


def _top_k(value: object, where: str) -> int:
    if value is None:
        return KEPT_NEIGHBORS
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_TOP_K:
        raise ProtocolError(
            f"{where} must be a whole number from 1 to {MAX_TOP_K}, not {_short(value)}"
        )
    return value


def _flag(value: object, where: str, *, default: bool) -> bool:
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ProtocolError(f"{where} must be true or false, not {_short(value)}")
    return value


def _path(where: tuple[str | int, ...]) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in where)
    return "".join(steps).removeprefix(".")


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "a list" if isinstance(value, simdjson.Array) else "an object"


def _short(value: object) -> str:
    shown = repr(_plain(value))
    return shown if len(shown) <= 60 else f"{shown[:57]}..."  # noqa: PLR2004 - one line of text
