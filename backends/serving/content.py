"""Compressed bodies: gzip and deflate (RFC 9110, section 8.4.1), inflated within a bound. Pure.

A few kilobytes can announce gigabytes, so a body is inflated step by step into no more than the
limit, and refused at the first byte beyond it. The limit is that of bodies as they are: whoever
compresses may send no more than others.

`deflate` is the zlib format; the bare stream, which some clients send under that name, is not read.
"""

import zlib
from collections.abc import Iterator
from typing import Any, Final

from backends.jsonbody import ProtocolError, shown

WINDOW_BITS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""What zlib calls the three formats, of which two are the same."""
STEP: Final = 1 << 20
"""Bytes that are inflated at a time."""
KIB: Final = 1 << 10
MIB: Final = 1 << 20


def is_plain(encoding: str | None) -> bool:
    """Whether a body with this `content-encoding` is what it is."""
    return encoding is None or encoding.strip().lower() in {"", "identity"}


def in_words(limit: int) -> str:
    """Write a limit of bytes as errors name it: `64 MiB`."""
    return f"{limit // MIB} MiB" if limit >= MIB else f"{limit // KIB} KiB"


def check_encoding(encoding: str | None) -> None:
    """Raise ProtocolError (415) for an encoding that is not read here."""
    if encoding is not None and not is_plain(encoding) and _name(encoding) not in WINDOW_BITS:
        raise ProtocolError(
            f"the body's content-encoding is {shown(encoding)}: send it as gzip, as deflate or "
            "uncompressed",
            415,
        )


def inflate(body: bytes, encoding: str | None, limit: int) -> bytes:
    """Return a body as it was before `encoding`, at most `limit` bytes.

    Raises ProtocolError: 415 for an unknown encoding, 413 beyond the limit, 400 for what is damaged
    or cut off.
    """
    check_encoding(encoding)
    if encoding is None or is_plain(encoding) or not body:
        return body
    name = _name(encoding)
    parts: list[bytes] = []
    total = 0
    for part in _inflated(body, name):
        total += len(part)
        if total > limit:
            raise ProtocolError(
                f"the body is longer than {in_words(limit)} when its {name} is inflated: no more "
                "is read here",
                413,
            )
        parts.append(part)
    return b"".join(parts)


def _inflated(body: bytes, name: str) -> Iterator[bytes]:
    """Inflate one stream, in parts of at most STEP bytes."""
    stream = zlib.decompressobj(WINDOW_BITS[name])
    for start in range(0, len(body), STEP):
        rest = body[start : start + STEP]
        part = None
        while part is None or rest or len(part) == STEP:  # a full part: there may be more within
            part = _step(stream, rest, name)
            yield part
            rest = stream.unconsumed_tail
            if stream.unused_data or (stream.eof and start + STEP < len(body)):
                raise ProtocolError(f"bytes follow the end of the body's {name} stream")
    if not stream.eof:
        raise ProtocolError(f"the body's {name} stream is cut off: its end is missing")


def _step(stream: Any, data: bytes, name: str) -> bytes:
    try:
        part: bytes = stream.decompress(data, STEP)
    except zlib.error as error:
        raise ProtocolError(f"the body is no {name} stream: {error}") from None
    return part


def _name(encoding: str) -> str:
    return encoding.strip().lower()
