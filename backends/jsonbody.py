"""Reading JSON bodies: values, and rows of floats, with words for what is wrong. Pure.

Floats are read straight into an array, without a Python object per float (simdjson). Only a body
that is refused is looked at element by element, to find the words: every error names the field,
what was found and what would be right.

The array reader flattens what is nested, so `[[1]]` would pass as `[1]`. What shows it is the
number of lists that the body opens, counted without looking at the numbers (`_opens_more`).

A name that an object holds twice is refused: readers disagree about which of the two counts.
"""

import re
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

Floats = NDArray[np.float32]


class ProtocolError(Exception):
    """A request that breaks the contract; `status` hints the HTTP status (400 or 413)."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


# --- rows of floats -----------------------------------------------------------------------------


def read_rows(
    document: simdjson.Object, body: bytes, where: tuple[str | int, ...], max_length: int
) -> Floats:
    """Read the list of vectors at `where` in a body's document: float32 `[n, 768]`, n >= 1.

    Raises ProtocolError: 413 for more than `max_length` vectors, 400 for what is malformed.
    """
    value, name = _at(document, where), path_of(where)
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
    numbers = _read_array(value, len(value) * DIMENSION)
    if numbers is None or _opens_more(document, body, where, 1 + len(value)):
        for index, row in enumerate(value):
            _refuse_element(row, f"{name}[{index}]")
        raise ProtocolError(f"{name} must be a list of vectors of {DIMENSION} numbers each")
    return check_finite(numbers.reshape(-1, DIMENSION), name)


def read_numbers(document: simdjson.Object, body: bytes, where: tuple[str | int, ...]) -> Floats:
    """Read the flat list of numbers at `where` in a body's document: float32. May not be finite.

    Raises ProtocolError for what is no list of numbers.
    """
    value, name = _at(document, where), path_of(where)
    if not isinstance(value, simdjson.Array):
        raise ProtocolError(f"{name} must be a list of numbers, not {kind_of(value)}")
    numbers = _read_array(value, len(value))
    if numbers is None or _opens_more(document, body, where, 1):
        _refuse_element(value, name)
        raise ProtocolError(f"{name} must be a list of numbers")
    return numbers


def _read_array(value: simdjson.Array, size: int) -> Floats | None:
    """Read a list, flattened; None where it does not hold `size` numbers and nothing else."""
    try:
        numbers = np.frombuffer(value.as_buffer(of_type="d"), dtype=np.float64)
    except (TypeError, ValueError):
        return None
    if numbers.size != size:
        return None
    with np.errstate(over="ignore"):  # what overflows float32 is found, and named, as not finite
        return numbers.astype(np.float32)


def _refuse_element(value: Any, name: str) -> None:
    """Raise ProtocolError for the first element that is no number, if there is one.

    About 0.1 s for a million numbers, but in steps: the interpreter lets other threads run between.
    """
    for i, number in enumerate(value):
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ProtocolError(f"{name}[{i}] must be a number, not {kind_of(number)}")


# --- lists that hide in a list --------------------------------------------------------------------

_TEXT: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')


def _opens_more(
    document: simdjson.Object, body: bytes, where: tuple[str | int, ...], own: int
) -> bool:
    """Whether the body opens more lists at `where` than the `own` that belong there.

    Exact for a body that was parsed, and one or two searches of its bytes whatever else it holds:
    every `[` outside of texts opens a list, either at `where` or beside it.
    """
    expected = own + _lists_beside(document, where)
    return body.count(b"[") != expected and _lists_opened(body) != expected


def _lists_opened(body: bytes) -> int:
    """Count the lists that a JSON body opens: its `[` outside of texts."""
    count = at = 0
    while (quote := body.find(b'"', at)) >= 0:
        count += body.count(b"[", at, quote)
        text = _TEXT.match(body, quote)
        at = text.end() if text else len(body)
    return count + body.count(b"[", at)


def _lists_beside(document: Any, where: tuple[str | int, ...]) -> int:
    """Count the lists of a document but the one at `where` and those in it."""
    count = 0
    for step in where:
        if isinstance(document, simdjson.Array):
            count += 1
            beside = [item for i, item in enumerate(document) if i != step]
        else:
            beside = [document[name] for name in document if name != step]
        count += sum(_lists_in(as_python(value)) for value in beside)
        document = document[step]
    return count


def _lists_in(value: object) -> int:
    """Count the lists in a value of plain lists and dicts, itself included."""
    count, waiting = 0, [value]
    while waiting:
        match waiting.pop():
            case list() as items:
                count += 1
                waiting += items
            case dict() as fields:
                waiting += fields.values()
    return count


def _at(document: Any, where: tuple[str | int, ...]) -> Any:
    for step in where:
        document = document[step]
    return document


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
