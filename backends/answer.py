"""The answer of an infer request, as a model server writes it and a gateway reads it. Pure.

In the Open Inference Protocol v2: JSON, then the tensors of the outputs that were asked for in
binary. `backends/protocol.py` has the requests.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray

from backends.jsonbody import parse_object, read_mapping, refuse_repeated, shown
from backends.protocol import (
    DATATYPES,
    DIMENSION,
    MODEL,
    OUTPUTS,
    PREFIX_OUTCOMES,
    SHORT_HEAD,
    Floats,
    Message,
    Prediction,
    PrefixOutcome,
    ProtocolError,
    Request,
    Terms,
    framed,
    json_length,
    version_of,
)

MAX_IDENTITY: Final = 128
"""Characters of a checkpoint's or a bank's identity; a sha256 has 64."""


# --- reading ------------------------------------------------------------------------------------


def read_answer(body: bytes, header_length: str | None) -> Prediction:
    """Read a backend's infer answer, JSON or binary, as `write_answer` makes it.

    Raises ProtocolError when the answer is not one: a wrong shape, no such output, not finite, an
    identity that no header can carry.
    """
    split = json_length(header_length, len(body))
    text = body[:split]
    head = _known_head(text) if len(text) <= SHORT_HEAD else _read_head(text)
    if head.plain is not None and len(body) - split >= head.plain.end:
        tail = memoryview(body)[split:]
        first, second, third = head.plain.tensors
        vector, ids, scores = (
            np.frombuffer(tail, *first), np.frombuffer(tail, *second), np.frombuffer(tail, *third),
        )  # fmt: skip
        tensors = tail[: head.plain.end] if head.plain.in_order else None
    else:
        tensors = None
        vector, ids, scores = _read_any(head.outputs, memoryview(body)[split:])
    if vector.shape != (DIMENSION,) or not _finite(vector):
        raise ProtocolError(f"the answer's PREDICTION is not {DIMENSION} finite numbers")
    if ids.shape != scores.shape:
        raise ProtocolError(f"the answer names {ids.size} neighbours but scores {scores.size}")
    if not _finite(scores):
        raise ProtocolError("the answer's NEIGHBOR_SCORES are not all finite")
    return Prediction(
        vector,
        ids,
        scores,
        head.length,
        head.window,
        head.checkpoint,
        head.bank,
        tensors,
        head.prefix,
    )


def _finite(numbers: Floats) -> bool:
    """Whether all of `numbers` [n] are finite: then so is their sum of squares, unless it is huge.

    To look at each of 768 costs 5 us, to add up their squares 0.6.
    """
    return math.isfinite(np.vdot(numbers, numbers)) or bool(np.isfinite(numbers).all())


@dataclass(frozen=True, slots=True)
class _Output:
    """One output as the answer's JSON announces it: `size` bytes of tensor, or numbers."""

    name: str
    dtype: np.dtype[Any]
    size: int | None
    numbers: object = None


class _Plain(NamedTuple):
    """Where the tensors of OUTPUTS are, in this order: dtype, numbers, offset; and their end."""

    tensors: tuple[tuple[np.dtype[Any], int, int], ...]
    end: int
    in_order: bool
    """Whether they follow each other in this order."""


@dataclass(frozen=True, slots=True)
class _AnswerHead:
    """What the JSON of an answer says."""

    outputs: tuple[_Output, ...]
    plain: _Plain | None
    """Where all outputs are binary and none is empty."""
    length: int
    window: int
    checkpoint: str
    bank: str
    prefix: PrefixOutcome | None


def _read_head(text: bytes) -> _AnswerHead:
    """Read the JSON of an answer. Raises ProtocolError."""
    document = parse_object(text)
    refuse_repeated(document, "the answer")
    listed = document.get("outputs")
    facts = read_mapping(document.get("parameters"), "parameters")
    outputs = tuple(map(_read_output, listed if isinstance(listed, simdjson.Array) else ()))
    return _AnswerHead(
        outputs=outputs,
        plain=_plain(outputs),
        length=_count(facts, "length"),
        window=_count(facts, "window"),
        checkpoint=_identity(facts, "checkpoint"),
        bank=_identity(facts, "bank"),
        prefix=_prefix(facts),
    )


_known_head: Final = functools.lru_cache(maxsize=2048)(_read_head)
"""The JSON in front of a model's tensors says the same for every context of one length, but for
whether its prefix was known."""


def _read_output(raw: object) -> _Output:
    output = read_mapping(raw, "outputs[]")
    name, datatype = output.get("name"), output.get("datatype")
    if not isinstance(name, str) or name not in DATATYPES or datatype != DATATYPES[name]:
        raise ProtocolError(f"the answer holds an output {shown(name)} of type {shown(datatype)}")
    dtype = np.dtype("<i8" if datatype == "INT64" else "<f4")
    size = read_mapping(output.get("parameters"), "outputs[].parameters").get("binary_data_size")
    if size is None:
        return _Output(name, dtype, None, output.get("data"))
    whole = isinstance(size, int) and not isinstance(size, bool)
    if not whole or size < 0 or size % dtype.itemsize:
        raise _not_following(name, size)
    return _Output(name, dtype, size)


def _plain(outputs: tuple[_Output, ...]) -> _Plain | None:
    """Find each tensor's place, where there are all and nothing but tensors."""
    found: dict[str, tuple[np.dtype[Any], int, int]] = {}
    offset = 0
    for output in outputs:
        if not output.size or output.name in found:
            return None
        found[output.name] = (output.dtype, output.size // output.dtype.itemsize, offset)
        offset += output.size
    if len(found) != len(OUTPUTS):
        return None
    return _Plain(tuple(found[name] for name in OUTPUTS), offset, tuple(found) == OUTPUTS)


def _read_any(outputs: tuple[_Output, ...], tail: memoryview) -> list[NDArray[Any]]:
    """Read the arrays of OUTPUTS, whatever form each has. Raises ProtocolError."""
    found = _read_outputs(outputs, tail)
    missing = [name for name in OUTPUTS if name not in found]
    if missing:
        raise ProtocolError(f"the answer lacks {', '.join(missing)}")
    return [found[name] for name in OUTPUTS]


def _read_outputs(outputs: tuple[_Output, ...], tail: memoryview) -> dict[str, NDArray[Any]]:
    """Read the outputs' arrays by name; those in binary follow each other in `tail`."""
    found: dict[str, NDArray[Any]] = {}
    offset = 0
    for output in outputs:
        name, size = output.name, output.size
        if size is None:
            found[name] = _read_numbers(output.numbers, output.dtype, name)
            continue
        if size > len(tail) - offset:
            raise _not_following(name, size)
        found[name] = np.frombuffer(tail[offset : offset + size], dtype=output.dtype)
        offset += size
    return found


def _not_following(name: str, size: object) -> ProtocolError:
    return ProtocolError(f"the answer's {name} announces {shown(size)} bytes, which do not follow")


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
        raise ProtocolError(f"the answer's {name} is {shown(value)}, not a whole number")
    return value


def _identity(facts: Mapping[str, Any], name: str) -> str:
    """Read what names a model or a bank, or "": it goes into headers as it is."""
    value = facts.get(name, "")
    plain = isinstance(value, str) and value.isascii() and value.isprintable()
    if not plain or len(value) > MAX_IDENTITY:
        raise ProtocolError(
            f"the answer's {name} is {shown(value)}: it must be at most {MAX_IDENTITY} printable "
            "ASCII characters"
        )
    return str(value)


def _prefix(facts: Mapping[str, Any]) -> PrefixOutcome | None:
    """Read what known prefixes did; it is for a report, so a word from elsewhere spoils nothing."""
    value = facts.get("prefix")
    return PREFIX_OUTCOMES.get(value) if isinstance(value, str) else None


# --- writing ------------------------------------------------------------------------------------


def write_answer(
    prediction: Prediction, request: Request | Terms, *, extra: Mapping[str, Any] | None = None
) -> Message:
    """Write an infer answer with the outputs that `request` wants, each in the form it wants.

    `extra` is added to the answer's parameters (the gateway says which arm answered, a model server
    what its known prefixes did).
    """
    facts = (prediction.length, prediction.window, prediction.checkpoint, prediction.bank)
    more = () if extra is None else tuple(extra.items())
    arrays = {
        "PREDICTION": np.ascontiguousarray(prediction.vector, dtype="<f4"),
        "NEIGHBOR_IDS": np.ascontiguousarray(prediction.ids, dtype="<i8"),
        "NEIGHBOR_SCORES": np.ascontiguousarray(prediction.scores, dtype="<f4"),
    }
    names, binary = request.outputs, request.binary_outputs
    announced = tuple((name, arrays[name].size, arrays[name].nbytes) for name in names)
    data = {name: arrays[name] for name in names if name not in binary}
    if data or request.id is not None:
        head = _write_head(announced, facts, more, request.id, data)
    else:
        head = _known_write(announced, facts, more)
    return framed(head, [arrays[name].tobytes() for name in names if name in binary])


def handed_on(prediction: Prediction, request: Request | Terms) -> memoryview | None:
    """Give an answer's tensors if they can go on as they came, behind `head_of_all`."""
    plain = (
        request.id is None
        and len(request.binary_outputs) == len(OUTPUTS)
        and request.outputs == OUTPUTS
    )
    return prediction.tensors if plain else None


def head_of_all(
    neighbors: int,
    facts: tuple[int, int, str, str],
    extra: Mapping[str, Any],
) -> bytes:
    """Write the JSON in front of all OUTPUTS, in binary and in this order, as `write_answer` does.

    `facts` are the context's length, the window, checkpoint and bank.
    """
    announced = (
        ("PREDICTION", DIMENSION, 4 * DIMENSION),
        ("NEIGHBOR_IDS", neighbors, 8 * neighbors),
        ("NEIGHBOR_SCORES", neighbors, 4 * neighbors),
    )
    return _write_head(announced, facts, tuple(extra.items()))


def _write_head(
    announced: tuple[tuple[str, int, int], ...],
    facts: tuple[int, int, str, str],
    more: tuple[tuple[str, Any], ...],
    id_: str | None = None,
    data: Mapping[str, NDArray[Any]] = MappingProxyType({}),
) -> bytes:
    """Write an answer's JSON.

    `announced` are the outputs: name, numbers and bytes; those that are not in `data` are binary.
    `facts` are the context's length, the window, checkpoint and bank.
    """
    length, window, checkpoint, bank = facts
    outputs = [
        {
            "name": name,
            "shape": [1, size],
            "datatype": DATATYPES[name],
            **(
                {"data": data[name]}
                if name in data
                else {"parameters": {"binary_data_size": bytes_}}
            ),
        }
        for name, size, bytes_ in announced
    ]
    return orjson.dumps(
        {
            "model_name": MODEL,
            "model_version": version_of(checkpoint),
            **({"id": id_} if id_ is not None else {}),
            "parameters": {
                "length": length,
                "window": window,
                "truncated": window < length,
                "checkpoint": checkpoint,
                "bank": bank,
                **dict(more),
            },
            "outputs": outputs,
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


_known_write: Final = functools.lru_cache(maxsize=1024)(_write_head)
"""An answer that is all tensors, to a request without an id, has the same JSON as many others."""
