"""Reading JSON bodies: values, with words for what is wrong. Pure.

Every error names the field, what was found and what would be right. A name that an object holds
twice is refused: readers disagree about which of the two counts.

The one long list of a body, its floats, is read by `backends/jsonrows.py`.
"""

from collections.abc import Mapping
from reprlib import Repr
from typing import Any, Final, NoReturn

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray

DIMENSION: Final = 768
"""Numbers in a vector."""
MAX_TEXT: Final = 256
"""Characters of an id or a routing key."""
LARGEST: Final = 1e15
"""Vectors have lengths near 1. Far beyond this bound their squares overflow float32, and a model's
answer would not be finite: that would look like the model's fault."""

Floats = NDArray[np.float32]


class ProtocolError(Exception):
    """A request that breaks the contract; `status` hints the HTTP status (400 or 413)."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


# --- vectors --------------------------------------------------------------------------------------


def check_finite(context: Floats, name: str) -> Floats:
    """Return `context` [n, 768]. Raises ProtocolError, naming the first element out of range."""
    # The greatest and the least are NaN where anything is, and no comparison with NaN holds.
    if not context.size or -LARGEST <= context.min() <= context.max() <= LARGEST:
        return context
    with np.errstate(invalid="ignore"):
        row, column = (int(i) for i in np.argwhere(~(np.abs(context) <= LARGEST))[0])
    number = float(context[row, column])
    if np.isfinite(number):
        found = f"{number:.3g}: every number of a vector must lie between ±{LARGEST:.0e}"
    else:
        kind = "NaN" if np.isnan(number) else "beyond the range of float32"
        found = f"{kind}: every number of a vector must be a finite float32"
    raise ProtocolError(f"{name}[{row}][{column}] is {found}")


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
    """Raise ProtocolError when an object has a field that is not among `known`, or one twice."""
    refuse_repeated(document, where)
    for name in document:
        if name not in known:
            raise ProtocolError(
                f"{where} has the unknown field {shown(name)}: the fields are {', '.join(known)}"
            )


def refuse_repeated(document: simdjson.Object, where: str) -> None:
    """Raise ProtocolError when an object has a field more than once."""
    seen: set[str] = set()
    for name in document:
        if name in seen:
            raise ProtocolError(f"{where} has the field {shown(name)} more than once: send it once")
        seen.add(name)


def as_python(value: Any) -> Any:
    """Turn a parsed value into plain lists and dicts."""
    if isinstance(value, simdjson.Array):
        return value.as_list()
    return value.as_dict() if isinstance(value, simdjson.Object) else value


def read_mapping(value: object, where: str) -> dict[str, Any]:
    """Read an object, each field of which must be there once; empty where there is none."""
    if isinstance(value, simdjson.Object):
        refuse_repeated(value, where)
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


def path_of(where: tuple[str | int, ...]) -> str:
    """Write a path as errors name it: `inputs[0].data`."""
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


_SHORT: Final = Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 4, 8, 4
_SHORT.maxstring = _SHORT.maxother = 60


def shown(value: object) -> str:
    """Show a value in an error, cut to one line, whatever its size."""
    text = _SHORT.repr(as_python(value))
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - one line of text
