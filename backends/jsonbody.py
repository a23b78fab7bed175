"""Reading JSON bodies: values, and rows of floats, with words for what is wrong. Pure.

Floats are read straight into an array, without a Python object per float (simdjson). When that
fails, a second, slow reading (orjson) finds the words: every error names the field, what was found
and what would be right.
"""

from collections.abc import Mapping
from typing import Any, Final, NoReturn

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray

DIMENSION: Final = 768
"""Numbers in a vector."""
MAX_TEXT: Final = 256
"""Characters of an id or a routing key."""

Floats = NDArray[np.float32]


class ProtocolError(Exception):
    """A request that breaks the contract; `status` hints the HTTP status (400 or 413)."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


# --- rows of floats -----------------------------------------------------------------------------


def read_rows(
    value: object, body: bytes, where: tuple[str | int, ...], max_length: int, *, brackets: int
) -> Floats:
    """Read a list of vectors; `brackets` is how many lists a plain body opens besides the rows."""
    name = _path(where)
    if not isinstance(value, simdjson.Array):
        raise ProtocolError(f"{name} must be a list of vectors, not {kind_of(value)}")
    if not len(value):
        raise ProtocolError(f"{name} is empty: send at least one vector of {DIMENSION} numbers")
    refuse_long(len(value), max_length)
    for index, row in enumerate(value):
        if not isinstance(row, simdjson.Array):
            raise ProtocolError(
                f"{name}[{index}] must be a vector of {DIMENSION} numbers, not {kind_of(row)}"
            )
        if len(row) != DIMENSION:
            raise ProtocolError(f"{name}[{index}] has {len(row)} numbers: a vector has {DIMENSION}")
    # The array reader flattens what is nested: `[[1]]` would pass as `[1]`. Where the body has
    # more brackets than its rows explain (or a text holds one), each element is looked at.
    if body.count(b"[") != len(value) + brackets:
        check_elements(body, where, rows=True)
    return check_finite(read_array(value, body, where, rows=True).reshape(-1, DIMENSION), name)


def read_array(
    value: simdjson.Array, body: bytes, where: tuple[str | int, ...], *, rows: bool
) -> Floats:
    """Read a list of numbers, or of vectors (`rows`), as one flat float32 array."""
    try:
        numbers = np.frombuffer(value.as_buffer(of_type="d"), dtype=np.float64)
    except (TypeError, ValueError):
        check_elements(body, where, rows=rows)
        raise ProtocolError(f"{_path(where)} holds a number that no float64 can hold") from None
    with np.errstate(over="ignore"):  # what overflows float32 is found, and named, as not finite
        return numbers.astype(np.float32)


def check_elements(body: bytes, where: tuple[str | int, ...], *, rows: bool) -> None:
    """Read the body again, slowly, and name the first element that is no number."""
    value = orjson.loads(body)
    for step in where:
        value = value[step]
    name = _path(where)
    vectors = {f"{name}[{i}]": row for i, row in enumerate(value)} if rows else {name: value}
    for vector, numbers in vectors.items():
        for i, number in enumerate(numbers):
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ProtocolError(f"{vector}[{i}] must be a number, not {kind_of(number)}")


def check_finite(context: Floats, name: str) -> Floats:
    """Return `context`. Raises ProtocolError, naming the first element that is not finite."""
    if not np.isfinite(context).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(context))[0])
        found = "NaN" if np.isnan(context[row, column]) else "beyond the range of float32"
        raise ProtocolError(
            f"{name}[{row}][{column}] is {found}: every number of a vector must be a finite float32"
        )
    return context


def refuse_long(length: int, max_length: int) -> None:
    """Raise ProtocolError (413) when `length` is above `max_length`."""
    if length > max_length:
        raise ProtocolError(
            f"the context has {length} vectors: this server accepts at most {max_length}", 413
        )


# --- JSON values --------------------------------------------------------------------------------


def parse_object(body: bytes) -> simdjson.Object:
    """Parse a body that must be a JSON object. Raises ProtocolError, saying where it is none."""
    try:
        document = simdjson.Parser().parse(body)
    except (ValueError, RuntimeError, UnicodeDecodeError):
        _explain_json(body)
    if not isinstance(document, simdjson.Object):
        raise ProtocolError(f"the body must be a JSON object, not {kind_of(document)}")
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


def refuse_unknown(document: simdjson.Object, known: tuple[str, ...], where: str) -> None:
    """Raise ProtocolError when an object has a field that is not among `known`."""
    for name in document:
        if name not in known:
            raise ProtocolError(
                f"{where} has the unknown field {shown(name)}: the fields are {', '.join(known)}"
            )


def as_python(value: Any) -> Any:
    """Turn a parsed value into plain lists and dicts."""
    if isinstance(value, simdjson.Array):
        return value.as_list()
    return value.as_dict() if isinstance(value, simdjson.Object) else value


def read_mapping(value: object, where: str) -> dict[str, Any]:
    """Read an object; empty where there is none."""
    found = as_python(value)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ProtocolError(f"{where} must be an object, not {kind_of(found)}")
    return found


def read_text(document: Mapping[str, Any] | simdjson.Object, name: str, where: str) -> str | None:
    """Read a text of 1 to 256 characters; None where there is none."""
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT:
        raise ProtocolError(
            f"{where} must be a text of 1 to {MAX_TEXT} characters, not {shown(value)}"
        )
    return value


def read_flag(value: object, where: str, *, default: bool) -> bool:
    """Read true or false."""
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ProtocolError(f"{where} must be true or false, not {shown(value)}")
    return value


def _path(where: tuple[str | int, ...]) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in where)
    return "".join(steps).removeprefix(".")


def kind_of(value: object) -> str:
    """Name the kind of a value, for an error."""
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


def shown(value: object) -> str:
    """Show a value in an error, cut to one line."""
    text = repr(as_python(value))
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - one line of text
