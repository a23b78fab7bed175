"""The contract between clients, gateway and model servers. Pure: bytes in, values out.

Two request forms carry a context of n vectors:

- the gateway's own `POST /v1/predict`: `{"context": [[768 floats] x n], "id"?, "key"?, "top_k"?,
  "exclude_context"?}`;
- the Open Inference Protocol v2 `POST /v2/models/lvm/infer`, as JSON or with the binary tensor
  extension (a JSON header, then raw little-endian tensors in the listed order):
  `CONTEXT` FP32 `[1,n,768]` in; `PREDICTION` FP32 `[1,768]`, `NEIGHBOR_IDS` INT64 `[1,k]` and
  `NEIGHBOR_SCORES` FP32 `[1,k]` out. Between gateway and backend the binary form is always used:
  the floats of a JSON body are read once.

How JSON is read, and how errors find their words, is `backends/jsonbody.py`.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray

from backends.jsonbody import (
    DIMENSION,
    Floats,
    ProtocolError,
    as_python,
    check_finite,
    kind_of,
    read_flag,
    read_mapping,
    read_text,
    refuse_long,
    refuse_repeated,
    refuse_unknown,
    shown,
)
from backends.jsonrows import (
    Body,
    Steps,
    in_one_go,
    is_batched,
    parse_body,
    read_numbers,
    read_numbers_stepwise,
    read_rows,
    read_rows_stepwise,
)

__all__ = [
    "DATATYPES",
    "DIMENSION",
    "HEADER_LENGTH",
    "KEPT_NEIGHBORS",
    "MAX_TOP_K",
    "MODEL",
    "OUTPUTS",
    "PREFIX_OUTCOMES",
    "SHADOW_HEADER",
    "TIMEOUT_HEADER",
    "VECTOR_BYTES",
    "Floats",
    "Ids",
    "Message",
    "Prediction",
    "PrefixOutcome",
    "ProtocolError",
    "Request",
    "Shape",
    "Terms",
    "binary_terms",
    "framed",
    "infer_terms",
    "json_length",
    "parse_infer",
    "parse_predict",
    "predict_terms",
    "raw_terms",
    "read_data",
    "read_data_stepwise",
    "read_infer",
    "read_lookup",
    "read_predict",
    "read_timeout",
    "version_of",
    "write_error",
    "write_head",
    "write_request",
]

MODEL: Final = "lvm"
KEPT_NEIGHBORS: Final = 10
"""Every answer is judged by its first ten neighbours (Hit@1/5/10), whatever `top_k` was."""
MAX_TOP_K: Final = 1000
VECTOR_BYTES: Final = DIMENSION * 4
SHORT_HEAD: Final = 2048
"""Bytes of JSON in front of tensors that are remembered with what they say."""
HEADER_LENGTH: Final = "inference-header-content-length"
TIMEOUT_HEADER: Final = "x-request-timeout-ms"
"""The client's deadline; a gateway passes on what is left of it."""
SHADOW_HEADER: Final = "x-turnout-shadow"
"""Marks a mirror's copy: nobody waits for its answer, so it waits behind those of others."""
OUTPUTS: Final = ("PREDICTION", "NEIGHBOR_IDS", "NEIGHBOR_SCORES")
DATATYPES: Final = {"PREDICTION": "FP32", "NEIGHBOR_IDS": "INT64", "NEIGHBOR_SCORES": "FP32"}

Ids = NDArray[np.int64]
Shape = tuple[int, int, int]
"""Of a context's tensor: `[1, n, 768]`."""
PrefixOutcome = Literal["hit", "miss", "slid", "off"]
"""What a server's known prefixes did for a request: one was found; none was; none can be, because
the context is longer than the arm reads, so that its window begins at another vector each time; or
none are kept."""
PREFIX_OUTCOMES: Final[Mapping[str, PrefixOutcome]] = {
    outcome: outcome for outcome in get_args(PrefixOutcome)
}


@dataclass(frozen=True, slots=True)
class Terms:
    """What a request says beside its floats, checked. `length` is in vectors, at least 1."""

    length: int
    id: str | None = None
    key: str | None = None
    top_k: int = KEPT_NEIGHBORS
    exclude_context: bool = True
    outputs: tuple[str, ...] = OUTPUTS
    binary_outputs: frozenset[str] = frozenset()
    timeout_s: float | None = None
    """The deadline that the body itself names, counted from its arrival."""


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """One prediction request, checked. `context` is float32 `[n, 768]`, finite, n >= 1."""

    context: Floats
    id: str | None = None
    key: str | None = None
    top_k: int = KEPT_NEIGHBORS
    exclude_context: bool = True
    outputs: tuple[str, ...] = OUTPUTS
    binary_outputs: frozenset[str] = frozenset()
    timeout_s: float | None = None
    """The deadline that the body itself names, counted from its arrival."""

    def __repr__(self) -> str:
        # Not the dataclass's own: to write a vector out takes milliseconds, and libraries do so.
        return f"<Request of {self.length} vectors, id {self.id!r}, top {self.top_k}>"

    @property
    def length(self) -> int:
        """Vectors in the context."""
        return int(self.context.shape[0])


class Prediction(NamedTuple):
    """One model's answer: `vector` float32 `[768]`, `ids` int64 `[k]`, `scores` float32 `[k]`.

    `length` is the context's length in vectors as given, `window` how many of them the model read.
    `checkpoint` and `bank` are the sha256 of what computed it. `prefix` is what the server's known
    prefixes did for it; None where it does not tell.
    """

    vector: Floats
    ids: Ids
    scores: Floats
    length: int
    window: int
    checkpoint: str
    bank: str
    tensors: memoryview | None = None
    """The bytes of `vector`, `ids` and `scores` in one piece, little-endian, where it came so."""
    prefix: PrefixOutcome | None = None

    def __repr__(self) -> str:
        return (
            f"<Prediction from {self.window} of {self.length} vectors, {self.ids.size} neighbours, "
            f"by {version_of(self.checkpoint)}>"
        )

    @property
    def truncated(self) -> bool:
        """Whether the model read less than it was given."""
        return self.window < self.length


# --- reading ------------------------------------------------------------------------------------


def read_predict(body: bytes, *, max_length: int) -> Request:
    """Read a `/v1/predict` body.

    Raises ProtocolError: 400 for what is malformed, 413 for more than `max_length` vectors.
    """
    parsed = parse_predict(body)
    context = read_rows(parsed, max_length)
    return _request(context, predict_terms(parsed, len(context)))


def parse_predict(body: bytes) -> Body:
    """Parse a `/v1/predict` body, all but its vectors. Raises ProtocolError."""
    parsed = parse_body(body, ("context",))
    document = parsed.document
    refuse_unknown(document, ("context", "id", "key", "top_k", "exclude_context"), "the body")
    if "context" not in document:
        raise ProtocolError(
            'the field "context" is missing: send a list of vectors of 768 numbers each'
        )
    return parsed


def predict_terms(parsed: Body, length: int) -> Terms:
    """Read what a parsed `/v1/predict` body of `length` vectors says. Raises ProtocolError."""
    document = parsed.document
    return Terms(
        length=length,
        id=read_text(document, "id", "id"),
        key=read_text(document, "key", "key"),
        top_k=_top_k(document.get("top_k"), "top_k"),
        exclude_context=read_flag(document.get("exclude_context"), "exclude_context", default=True),
    )


def read_infer(body: bytes | memoryview, header_length: str | None, *, max_length: int) -> Request:
    """Read an Open Inference Protocol v2 infer body; `header_length` is the HTTP header's value.

    Raises ProtocolError: 400 for what is malformed, 413 for more than `max_length` vectors.
    """
    split = json_length(header_length, len(body))
    head, tail = bytes(body[:split]), memoryview(body)[split:]
    if len(tail) or (header_length is not None and not head):
        terms = binary_terms(head, len(tail), max_length)
        return _request(_tensor(tail, "inputs[0]" if head else "the body"), terms)
    parsed, shape, _ = parse_infer(head, 0, max_length)
    return _request(read_data(parsed, shape, max_length), infer_terms(parsed, shape[1]))


def raw_terms(bytes_: int, max_length: int) -> Terms:
    """Read what a body that is nothing but a tensor says by its length. Raises ProtocolError."""
    length = bytes_ // VECTOR_BYTES
    _check_raw(bytes_, (1, length, DIMENSION), "the body", max_length)
    return Terms(length, binary_outputs=frozenset(OUTPUTS))


def parse_infer(head: bytes, tail: int, max_length: int) -> tuple[Body, Shape, bool]:
    """Parse an infer request's JSON, all but its floats; `tail` bytes of tensor follow it.

    Gives the tensor's shape as well, and whether it is binary: whether it is those bytes, which
    then are as many as everything says. Raises ProtocolError as `read_infer` does.
    """
    parsed = parse_body(head, ("inputs", 0, "data"))
    document = parsed.document
    refuse_unknown(document, _INFER_FIELDS, "the request")
    for name in _NAMES_TWICE:
        read_text(document, name, name)  # the path has said it: this is not looked at
    shape, is_binary = _read_input(parsed, tail, max_length)
    return parsed, shape, is_binary


def infer_terms(parsed: Body, length: int) -> Terms:
    """Read what a parsed infer request of `length` vectors says. Raises ProtocolError."""
    document = parsed.document
    parameters = read_mapping(document.get("parameters"), "parameters")
    outputs, binary = _wanted(document.get("outputs"), parameters)
    return Terms(
        length=length,
        id=read_text(document, "id", "id"),
        key=read_text(parameters, "key", "parameters.key"),
        top_k=_top_k(parameters.get("top_k"), "parameters.top_k"),
        exclude_context=read_flag(
            parameters.get("exclude_context"), "parameters.exclude_context", default=True
        ),
        outputs=outputs,
        binary_outputs=binary,
        timeout_s=_microseconds(parameters.get("timeout"), "parameters.timeout"),
    )


def binary_terms(head: bytes, tail: int, max_length: int) -> Terms:
    """Read what the JSON in front of `tail` bytes of tensor says; without any, their number does.

    Clients write the same JSON in front of every context of one length, but for ids of their own,
    so what it says is remembered. Raises ProtocolError, as `read_infer` does.
    """
    read = _known_terms if len(head) <= SHORT_HEAD else _binary_terms
    return read(head, tail, max_length)


def _binary_terms(head: bytes, tail: int, max_length: int) -> Terms:
    if not head:
        return raw_terms(tail, max_length)
    parsed, shape, _ = parse_infer(head, tail, max_length)
    return infer_terms(parsed, shape[1])


_known_terms: Final = functools.lru_cache(maxsize=1024)(_binary_terms)


def _request(context: Floats, terms: Terms) -> Request:
    return Request(
        context=context,
        id=terms.id,
        key=terms.key,
        top_k=terms.top_k,
        exclude_context=terms.exclude_context,
        outputs=terms.outputs,
        binary_outputs=terms.binary_outputs,
        timeout_s=terms.timeout_s,
    )


def read_lookup(body: bytes) -> Floats:
    """Read a lookup body, `{"vector": [768 floats]}`: float32 `[768]`. Raises ProtocolError."""
    parsed = parse_body(body, ("vector",))
    refuse_unknown(parsed.document, ("vector",), "the body")
    if "vector" not in parsed.document:
        raise ProtocolError('the field "vector" is missing: send a list of 768 numbers')
    vector = read_numbers(parsed)
    if vector.size != DIMENSION:
        raise ProtocolError(f"vector must be a list of {DIMENSION} numbers, not of {vector.size}")
    return check_finite(vector.reshape(1, DIMENSION), "vector").reshape(DIMENSION)


def read_timeout(text: str | None) -> float | None:
    """Read the value of TIMEOUT_HEADER, in seconds from now. Raises ProtocolError."""
    if text is None:
        return None
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = math.nan
    if not (math.isfinite(milliseconds) and milliseconds > 0):
        raise ProtocolError(
            f"{TIMEOUT_HEADER} is {text[:40]!r}: it must be a number of milliseconds above 0"
        )
    return milliseconds / 1000


# --- writing ------------------------------------------------------------------------------------


class Message(NamedTuple):
    """A body and the headers that describe it."""

    body: bytes
    headers: Mapping[str, str] = MappingProxyType({})


def write_request(request: Request) -> Message:
    """Write a request in the binary form, all outputs binary."""
    tensor = np.ascontiguousarray(request.context, dtype="<f4").tobytes()
    return framed(write_head(request), [tensor])


def write_head(request: Request | Terms) -> bytes:
    """Write the JSON of a request in the binary form: what stands before its tensor."""
    head = orjson.dumps(
        {
            **({"id": request.id} if request.id is not None else {}),
            "parameters": {
                "binary_data_output": True,
                "top_k": request.top_k,
                "exclude_context": request.exclude_context,
                **({"key": request.key} if request.key is not None else {}),
            },
            "inputs": [
                {
                    "name": "CONTEXT",
                    "shape": [1, request.length, DIMENSION],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": request.length * VECTOR_BYTES},
                }
            ],
        }
    )
    return head + b" " * (-len(head) % 4)  # aligned: the tensor is read without a copy


def write_error(message: str) -> bytes:
    """Write the protocol's error body: `{"error": "<string>"}`, always as application/json."""
    return orjson.dumps({"error": message})


def framed(head: bytes, tensors: Sequence[bytes | memoryview]) -> Message:
    """Put tensors behind the JSON that describes them; without any, the JSON is all."""
    if not tensors:
        return Message(head, {"content-type": "application/json"})
    return Message(
        b"".join((head, *tensors)),
        {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))},
    )


def version_of(checkpoint: str) -> str:
    """Name the version of the model that a checkpoint's sha256 is."""
    return checkpoint[:12]


# --- the parts of a request ---------------------------------------------------------------------

_NAMES_TWICE: Final = ("model_name", "model_version")
"""What kserve's client writes into its body as well."""
_INFER_FIELDS: Final = ("id", "parameters", "inputs", "outputs", *_NAMES_TWICE)


def json_length(header: str | None, body_length: int) -> int:
    """Read how many of a body's bytes are JSON; `header` is HEADER_LENGTH's value.

    Raises ProtocolError.
    """
    if header is None:
        return body_length
    digits = header.isascii() and header.isdigit() and len(header) < 20  # noqa: PLR2004 - 64 bits
    if not digits or int(header) > body_length:
        raise ProtocolError(
            f"Inference-Header-Content-Length is {header[:40]!r}: it must be a whole number from 0 "
            f"to the body's {body_length} bytes"
        )
    return int(header)


def _read_input(parsed: Body, tail: int, max_length: int) -> tuple[Shape, bool]:
    """Read the shape of the request's one tensor, and whether it is in the `tail`."""
    inputs = parsed.document.get("inputs")
    if not isinstance(inputs, simdjson.Array) or len(inputs) != 1:
        found = len(inputs) if isinstance(inputs, simdjson.Array) else kind_of(inputs)
        raise ProtocolError(f'"inputs" must list exactly one tensor, CONTEXT; found {found}')
    tensor: Any = inputs[0]
    if not isinstance(tensor, simdjson.Object):
        raise ProtocolError(f"inputs[0] must be an object, not {kind_of(tensor)}")
    refuse_unknown(tensor, ("name", "shape", "datatype", "parameters", "data"), "inputs[0]")
    if tensor.get("name") != "CONTEXT":
        raise ProtocolError(
            f'inputs[0].name is {shown(tensor.get("name"))}: the model reads "CONTEXT"'
        )
    if tensor.get("datatype") != "FP32":
        raise ProtocolError(
            f'inputs[0].datatype is {shown(tensor.get("datatype"))}: CONTEXT is "FP32"'
        )
    shape = _shape(tensor.get("shape"))
    own = read_mapping(tensor.get("parameters"), "inputs[0].parameters")
    _refuse_extensions(own, "inputs[0].parameters")
    size = own.get("binary_data_size")
    if size is not None:
        if "data" in tensor:
            raise ProtocolError("inputs[0] has both data and binary_data_size: send one of them")
        if isinstance(size, bool) or not isinstance(size, int) or size != tail:
            raise ProtocolError(
                f"inputs[0].parameters.binary_data_size is {shown(size)}, but {tail} bytes "
                "follow the JSON header"
            )
        _check_raw(tail, shape, "inputs[0]", max_length)
        return shape, True
    if tail:
        raise ProtocolError(
            f"{tail} bytes follow the JSON header, but inputs[0] has no binary_data_size"
        )
    if "data" not in tensor:
        raise ProtocolError('inputs[0] has neither "data" nor parameters.binary_data_size')
    return shape, False


def _refuse_extensions(parameters: Mapping[str, Any], where: str) -> None:
    """Raise ProtocolError for what would change the answer's meaning where it is known."""
    for name in ("shared_memory_region", "classification"):
        if parameters.get(name):
            raise ProtocolError(
                f"{where}.{name} is set: this server has no such extension (it has: "
                "binary_tensor_data)"
            )


def read_data(parsed: Body, shape: Shape, max_length: int) -> Floats:
    """Read a tensor's JSON data, flat or nested as `[1][n][768]`. Raises ProtocolError."""
    return in_one_go(read_data_stepwise(parsed, shape, max_length))


def read_data_stepwise(parsed: Body, shape: Shape, max_length: int) -> Steps:
    """Read as `read_data` does, in short steps."""
    refuse_long(shape[1], max_length)
    if is_batched(parsed):
        context = yield from read_rows_stepwise(parsed, max_length, batched=True)
    else:
        flat = yield from read_numbers_stepwise(parsed)
        if flat.size != shape[1] * DIMENSION:
            raise ProtocolError(
                f"inputs[0].data holds {flat.size} numbers, but the shape {list(shape)} needs "
                f"{shape[1] * DIMENSION}"
            )
        context = check_finite(flat.reshape(shape[1], DIMENSION), "inputs[0].data")
    if context.shape[0] != shape[1]:
        raise ProtocolError(
            f"inputs[0].data holds {context.shape[0]} vectors, but the shape says {shape[1]}"
        )
    return context


def _check_raw(bytes_: int, shape: Shape, where: str, max_length: int) -> None:
    if not bytes_ or bytes_ % VECTOR_BYTES:
        raise ProtocolError(
            f"{where} holds {bytes_} bytes of tensor data: it must be a positive multiple of "
            f"{VECTOR_BYTES} (768 float32)"
        )
    if bytes_ != shape[1] * VECTOR_BYTES:
        raise ProtocolError(
            f"{where} holds {bytes_} bytes of tensor data, but the shape {list(shape)} needs "
            f"{shape[1] * VECTOR_BYTES}"
        )
    refuse_long(shape[1], max_length)


def _tensor(raw: memoryview, where: str) -> Floats:
    tensor = np.frombuffer(raw, dtype="<f4").reshape(-1, DIMENSION)
    if not tensor.flags.aligned:  # a header has any length
        tensor = tensor.copy()
    return check_finite(tensor, where)


def _shape(value: object) -> Shape:
    shape = as_python(value)
    if (
        not isinstance(shape, list)
        or len(shape) != 3  # noqa: PLR2004 - the tensor's rank
        or not all(isinstance(size, int) and not isinstance(size, bool) for size in shape)
        or shape[0] != 1
        or shape[1] < 1
        or shape[2] != DIMENSION
    ):
        raise ProtocolError(
            f"inputs[0].shape is {shown(shape)}: CONTEXT has the shape [1, n, {DIMENSION}], n >= 1"
        )
    return (1, shape[1], DIMENSION)


def _wanted(
    outputs: object, parameters: Mapping[str, Any]
) -> tuple[tuple[str, ...], frozenset[str]]:
    """Which outputs, and which of them in binary: an output's own word wins over the request's."""
    all_binary = read_flag(
        parameters.get("binary_data_output"), "parameters.binary_data_output", default=False
    )
    if outputs is None:
        return OUTPUTS, frozenset(OUTPUTS if all_binary else ())
    if not isinstance(outputs, simdjson.Array):
        raise ProtocolError(f'"outputs" must be a list, not {kind_of(outputs)}')
    names: list[str] = []
    binary: set[str] = set()
    for index, raw in enumerate(outputs):
        where = f"outputs[{index}]"
        output: Any = {"name": raw}
        if isinstance(raw, simdjson.Object):
            refuse_repeated(raw, where)
            output = raw
        name = as_python(output.get("name"))
        if name not in OUTPUTS:
            raise ProtocolError(
                f"{where} names {shown(name)}: the outputs are {', '.join(OUTPUTS)}"
            )
        if name in names:
            raise ProtocolError(f"{where} names {name} a second time")
        own = read_mapping(output.get("parameters"), f"{where}.parameters")
        _refuse_extensions(own, f"{where}.parameters")
        if read_flag(own.get("binary_data"), f"{where}.parameters.binary_data", default=all_binary):
            binary.add(name)
        names.append(name)
    return tuple(names) or OUTPUTS, frozenset(binary)


def _microseconds(value: object, where: str) -> float | None:
    """Read a deadline as Triton's clients write it, into seconds; 0 stands for none."""
    if value is None or (value == 0 and value is not False):
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ProtocolError(f"{where} must be a whole number of microseconds, not {shown(value)}")
    return value / 1e6


def _top_k(value: object, where: str) -> int:
    if value is None:
        return KEPT_NEIGHBORS
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_TOP_K:
        raise ProtocolError(
            f"{where} must be a whole number from 1 to {MAX_TOP_K}, not {shown(value)}"
        )
    return value
