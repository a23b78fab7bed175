"""Reading a JSON body whose bulk is one long list of numbers, in short steps. Pure.

A library turns the text of floats into an array without a Python object per float, but in one call
that holds the interpreter's lock: for 10 MB, whatever else the process does stands still for 20 ms.
So the long list is cut out of the text. What is left, the head, is a small JSON document in which
`null` stands for the list; the list itself is parsed in pieces of whole elements, each in a
fraction of a millisecond.

Why that reads exactly what a parser of the whole would read:

- The long list has no `"` and no `}` in it, so every bracket in it is structure. A body is valid
  JSON if and only if the head is and the list is.
- Where the list stands is not guessed from the text before it: the head is parsed twice, with
  `null` and with `true` in the list's place. What changes at the path is what stands there.
- A piece ends before a comma. If every piece, put between `[` and `]`, is a valid list of at least
  one element, then so are all of them joined by commas. (A comma within an element cuts that
  element in two, and neither piece is valid then.)
- The array reader flattens what is nested, so `[[1]]` would pass as `[1]`. What shows it is the
  number of `[` in the piece.

Whatever does not fit is read again as a whole, element by element, to find the words: every error
names the field, what was found and what would be right.
"""

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
import orjson
import simdjson

from backends.jsonbody import (
    DIMENSION,
    Floats,
    ProtocolError,
    as_python,
    check_finite,
    kind_of,
    parse_object,
    path_of,
    refuse_long,
)

PIECE: Final = 128 * 1024
"""Bytes of text that are parsed in one call: about 0.2 ms."""
SHORTEST: Final = 2 * DIMENSION
"""Bytes; a list with fewer holds no vector, and stays where it is."""
MOST_LISTS: Final = 1000
"""Lists that are looked at to find the longest; a request has four, and its context."""

ABSENT: Final = object()
"""Stands for what is not there: null is there."""

Path = tuple[str | int, ...]
Steps = Generator[bool, None, Floats]
"""Reading that stops after each piece, so that its caller may do something else in between.

What is given says whether the next step is a long one: the one that finds words for what is wrong.
"""


@dataclass(frozen=True, slots=True)
class Body:
    """A parsed body. `text[start:end]` is the list at `where`, which `document` has as null.

    Where the list at `where` is short, or not there at all, the document has everything, and
    `start` and `end` are equal.
    """

    document: simdjson.Object
    text: bytes
    where: Path
    start: int = 0
    end: int = 0

    @property
    def name(self) -> str:
        """The list's path, as errors name it."""
        return path_of(self.where)


def parse_body(text: bytes, where: Path) -> Body:
    """Parse a body that must be a JSON object with its long list at `where`.

    Raises ProtocolError where it is no JSON object; what is wrong within the list is found when
    the list is read.
    """
    start, end = _longest_list(text)
    if end - start >= SHORTEST:
        head = _parse_with(b"null", text, start, end)
        other = _parse_with(b"true", text, start, end)
        if head is not None and _at(head, where) is None and _at(other, where) is True:
            return Body(head, text, where, start, end)
    return Body(parse_object(text), text, where)


def read_rows(body: Body, max_length: int, *, batched: bool = False) -> Floats:
    """Read the body's list, of vectors: float32 `[n, 768]`, n >= 1, finite.

    `batched`: the vectors are in a list of their own, `[1][n][768]`.

    Raises ProtocolError: 413 for more than `max_length` vectors, 400 for what is malformed.
    """
    return in_one_go(read_rows_stepwise(body, max_length, batched=batched))


def read_numbers(body: Body) -> Floats:
    """Read the body's list, of numbers: float32 `[n]`. May not be finite.

    Raises ProtocolError for what is no list of numbers.
    """
    return in_one_go(read_numbers_stepwise(body))


def in_one_go(steps: Steps) -> Floats:
    """Do all steps in a row."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            read: Floats = end.value
            return read


def read_rows_stepwise(body: Body, max_length: int, *, batched: bool = False) -> Steps:
    """Read as `read_rows` does, in steps of a fraction of a millisecond."""
    text, start, end = _list_text(body)
    if batched:
        start, end = _inner(text, start, end)
    read: list[Floats] = []
    length = 0
    for piece in _pieces(text, start, end, _ROW_END):
        rows = _read_piece(piece, DIMENSION)
        if rows is None:
            yield True
            _refuse_rows(body, max_length, batched=batched)
        length += len(rows)
        if length > max_length:
            refuse_long(text.count(b"[", start + 1, end), max_length)
        read.append(rows)
        yield False
    if not read:
        yield True
        _refuse_rows(body, max_length, batched=batched)
    return check_finite(_joined(read), path_of(_rows_path(body, batched=batched)))


def read_numbers_stepwise(body: Body) -> Steps:
    """Read as `read_numbers` does, in short steps."""
    text, start, end = _list_text(body)
    if not text:
        yield True
        _refuse_numbers(body)
    read: list[Floats] = []
    for piece in _pieces(text, start, end, _COMMA):
        numbers = _read_piece(piece, None)
        if numbers is None:
            yield True
            _refuse_numbers(body)
        read.append(numbers)
        yield False
    return _joined(read) if read else np.empty(0, np.float32)


def is_batched(body: Body) -> bool:
    """Whether the body's list begins with a list that begins with a list: `[[[`."""
    text, start, end = _list_text(body)
    return _BATCH.match(text, start, end) is not None


# --- the long list ------------------------------------------------------------------------------


def _longest_list(text: bytes) -> tuple[int, int]:
    """Find the longest stretch from a `[` to a `]` with no `"` and no `}` between: its borders."""
    longest = (0, 0)
    at = 0
    for _ in range(MOST_LISTS):
        start = text.find(b"[", at)
        if start < 0:
            break
        at = _found_or(text.find(b'"', start), len(text))
        at = _found_or(text.find(b"}", start, at), at)
        end = text.rfind(b"]", start, at) + 1
        longest = max(longest, (start, end), key=lambda borders: borders[1] - borders[0])
    return longest


def _found_or(place: int, other: int) -> int:
    return other if place < 0 else place


def _parse_with(value: bytes, text: bytes, start: int, end: int) -> simdjson.Object | None:
    """Parse a text with `value` in the place of its long list; None where it is no object."""
    try:
        document = simdjson.Parser().parse(text[:start] + value + text[end:])
    except (ValueError, RuntimeError, UnicodeDecodeError):
        return None
    return document if isinstance(document, simdjson.Object) else None


def _at(document: Any, where: Path) -> Any:
    """Return what stands at `where`; ABSENT for nothing."""
    for step in where:
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return ABSENT
    return document


# --- its pieces ---------------------------------------------------------------------------------

_BATCH: Final = re.compile(rb"\[[ \t\r\n]*\[[ \t\r\n]*\[")
_ROW_END: Final = re.compile(rb"\][ \t\r\n]*,")
_COMMA: Final = re.compile(rb",")


def _list_text(body: Body) -> tuple[bytes, int, int]:
    """Return the text of the body's list, and where in it the list begins and ends.

    A list that is still in the document is written out again: it is short, or beside a longer one.
    """
    if body.end > body.start:
        return body.text, body.start, body.end
    value = _at(body.document, body.where)
    text = orjson.dumps(as_python(value)) if isinstance(value, simdjson.Array) else b""
    return text, 0, len(text)


def _inner(text: bytes, start: int, end: int) -> tuple[int, int]:
    """Go from the borders of `[[...]]` to those of the list in it; to none where there is more."""
    first = text.find(b"[", start + 1, end)
    last = text.rfind(b"]", first, end - 1) + 1
    alone = 0 <= first < last and not text[last : end - 1].strip()
    return (first, last) if alone else (0, 0)


def _pieces(text: bytes, start: int, end: int, between: re.Pattern[bytes]) -> Iterator[bytes]:
    """Cut the list `text[start:end]` into lists of whole elements; a list of nothing into none."""
    at, last = start + 1, end - 1
    if not text[at:last].strip():
        return
    while True:
        cut = between.search(text, min(at + PIECE, last), last)
        if cut is None:
            yield b"[%b]" % text[at:last]
            return
        yield b"[%b]" % text[at : cut.end() - 1]
        at = cut.end()


def _read_piece(piece: bytes, width: int | None) -> Floats | None:
    """Read a list of numbers, or of vectors of `width` numbers; None where it is anything else."""
    try:
        value = simdjson.Parser().parse(piece)
        if not isinstance(value, simdjson.Array) or not len(value):
            return None
        numbers = np.frombuffer(value.as_buffer(of_type="d"), dtype=np.float64)
    except (ValueError, RuntimeError, TypeError):
        return None
    if width is None:
        fits = numbers.size == len(value) and piece.count(b"[") == 1
    else:
        fits = piece.count(b"[") == 1 + len(value) and all(
            isinstance(row, simdjson.Array) and len(row) == width for row in value
        )
    if not fits:
        return None
    with np.errstate(over="ignore"):  # what overflows float32 is found, and named, as not finite
        read = numbers.astype(np.float32)
    return read if width is None else read.reshape(-1, width)


def _joined(read: list[Floats]) -> Floats:
    return read[0] if len(read) == 1 else np.concatenate(read)


# --- words --------------------------------------------------------------------------------------


def _whole(body: Body) -> Any:
    """Return the list as a whole. Raises ProtocolError where the body is no JSON."""
    document = parse_object(body.text) if body.end > body.start else body.document
    return _at(document, body.where)


def _rows_path(body: Body, *, batched: bool) -> Path:
    return (*body.where, 0) if batched else body.where


def _refuse_rows(body: Body, max_length: int, *, batched: bool) -> NoReturn:
    """Raise ProtocolError for the first thing in the list that does not belong in rows."""
    value, name = _whole(body), path_of(_rows_path(body, batched=batched))
    if batched:
        if len(value) != 1:
            raise ProtocolError(f"{body.name} holds {len(value)} contexts: send one at a time")
        value = value[0]
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
        if len(row) not in {0, DIMENSION} and isinstance(row[0], simdjson.Array):
            raise ProtocolError(
                f"{name}[{index}] is a list of lists: it must be a vector of {DIMENSION} numbers"
            )
        if len(row) != DIMENSION:
            noun = "number" if len(row) == 1 else "numbers"
            raise ProtocolError(f"{name}[{index}] has {len(row)} {noun}: a vector has {DIMENSION}")
    for index, row in enumerate(value):
        _refuse_element(row, f"{name}[{index}]")
    raise ProtocolError(f"{name} must be a list of vectors of {DIMENSION} numbers each")


def _refuse_numbers(body: Body) -> NoReturn:
    value = _whole(body)
    if not isinstance(value, simdjson.Array):
        raise ProtocolError(f"{body.name} must be a list of numbers, not {kind_of(value)}")
    if len(value) and isinstance(value[0], simdjson.Array):
        tensor = body.where[0] == "inputs"
        forms = f"flat, or nested as [1][n][{DIMENSION}]" if tensor else "in one flat list"
        raise ProtocolError(
            f"{body.name}[0] must be a number, not a list: send the numbers {forms}"
        )
    _refuse_element(value, body.name)
    raise ProtocolError(f"{body.name} must be a list of numbers")


def _refuse_element(value: Any, name: str) -> None:
    """Raise ProtocolError for the first element that is no number, if there is one.

    About 0.1 s for a million numbers, but in steps: the interpreter lets other threads run between.
    """
    for i, number in enumerate(value):
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ProtocolError(f"{name}[{i}] must be a number, not {kind_of(number)}")
