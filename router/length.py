"""How long is this body, without materialising its floats. Pure.

**A binary body** says it in its first bytes: the JSON in front of the tensor names the shape and
the tensor's bytes, and the request's headers name the JSON's and the body's. All of them must
agree (`backends.protocol`), so the length is known, and nothing of the tensor has been looked at,
when the JSON has arrived.

**A JSON body** says it when it is whole: a field that decides (`key`) may follow the vectors. The
vectors are a list of lists of numbers, so their number is that of the `[` in it; whether they are
such a list is found when the floats are read, and what is not is refused then.

What a client says about the length in `x-context-length` is checked, never trusted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from backends import protocol
from backends.jsonbody import refuse_long
from backends.jsonrows import Body, Steps, read_rows_stepwise
from backends.protocol import ProtocolError, Terms
from backends.serving.content import KIB, is_plain

LENGTH_HEADER: Final = "x-context-length"
MAX_HEAD: Final = 64 * KIB
"""Bytes of JSON in front of a tensor. With more, the floats are in the JSON."""
PIECE: Final = 1024 * KIB
"""Bytes that are scanned in one go: 0.1 ms."""


@dataclass(frozen=True, slots=True)
class Announced:
    """A binary body, before it has arrived: `head` bytes of JSON, then `tensor` bytes."""

    head: int
    tensor: int


@dataclass(frozen=True, slots=True)
class Scanned:
    """A JSON body whose floats are not read yet: how long it is, and how to go on."""

    length: int
    """In vectors, should they turn out to be some."""
    steps: Callable[[], Steps]
    """Reads the floats `[n, 768]`. Raises ProtocolError."""
    terms: Callable[[int], Terms]
    """What else the body says, given the number of vectors that were read."""


def announced(
    header_length: str | None, content_length: str | None, encoding: str | None
) -> Announced | None:
    """Say where the deciding bytes of a body end; None where all of it must be there.

    The arguments are the values of the headers of these names. Raises ProtocolError for a JSON part
    that is longer than the body.
    """
    if header_length is None or content_length is None or not is_plain(encoding):
        return None
    total = int(content_length)
    head = protocol.json_length(header_length, total)
    if head == total or head > MAX_HEAD:
        return None
    return Announced(head, total - head)


def of_predict(text: bytes, *, max_length: int) -> Scanned:
    """Scan a whole `/v1/predict` body. Raises ProtocolError as `protocol.read_predict` does."""
    parsed = protocol.parse_predict(text)
    length = count_vectors(parsed)
    refuse_long(length, max_length)
    return Scanned(
        length,
        lambda: read_rows_stepwise(parsed, max_length),
        lambda read: protocol.predict_terms(parsed, read),
    )


def of_infer(text: bytes, *, max_length: int) -> Scanned:
    """Scan a whole infer body that is all JSON. Raises ProtocolError as `read_infer` does.

    The length is that of the tensor's shape; reading the floats refuses any other.
    """
    parsed, shape, _ = protocol.parse_infer(text, 0, max_length)
    refuse_long(shape[1], max_length)
    return Scanned(
        shape[1],
        lambda: protocol.read_data_stepwise(parsed, shape, max_length),
        lambda read: protocol.infer_terms(parsed, read),
    )


def count_vectors(parsed: Body) -> int:
    """Count the lists in a body's list of lists; 0 where it has no long list."""
    text = np.frombuffer(parsed.text, dtype=np.uint8)[parsed.start : parsed.end]
    brackets = sum(
        int(np.count_nonzero(text[at : at + PIECE] == ord("[")))
        for at in range(0, len(text), PIECE)
    )
    return max(brackets - 1, 0)


def check(claimed: str, length: int) -> None:
    """Raise ProtocolError when a client's LENGTH_HEADER is not the context's length."""
    if not (claimed.isascii() and claimed.isdigit() and int(claimed[:20]) == length):
        raise ProtocolError(
            f"{LENGTH_HEADER} says {claimed[:20]!r}, but the context has {length} vectors: send "
            "their number, or leave the header out"
        )
