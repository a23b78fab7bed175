"""Contexts in files: .npy, .npz or JSON, from a path or from stdin, within bounds."""

import io
import math
import struct
import sys
import tokenize
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.lib import format as npy

from backends.protocol import DIMENSION, Floats, ProtocolError, read_lookup, read_predict
from backends.serving.content import MIB
from backends.serving.content import in_words as size_in_words
from backends.serving.oserrors import in_words

STDIN: Final = "-"
MAX_BYTES: Final = 256 * MIB
"""Four times the body that a gateway reads, because JSON of more digits is longer."""
MAX_VECTORS: Final = 1_000_000
_NPY: Final = b"\x93NUMPY"
_ZIP: Final = b"PK\x03\x04"
_EMPTY_ZIP: Final = b"PK\x05\x06"
_NAMES: Final = ("context", "vectors")
_SUFFIX: Final = ".npy"
_UNREADABLE: Final = (
    ValueError, OSError, EOFError, SyntaxError, RuntimeError, KeyError, TypeError,
    struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What numpy and zipfile raise about files that are not what they say."""


@dataclass(frozen=True, slots=True)
class Question:
    """A context `[n, 768]`, and what its file says besides."""

    context: Floats
    key: str | None = None
    top_k: int | None = None
    exclude_context: bool = True


class FileError(ValueError):
    """A file that holds no context; the message says what was found and what would be right."""


def read_file(file: str) -> bytes:
    """Read a file, or stdin for `-`, of at most `MAX_BYTES`. Raises FileError."""
    try:
        if file == STDIN:
            return _bounded(sys.stdin.buffer, file)
        with Path(file).open("rb") as opened:
            return _bounded(opened, file)
    except OSError as error:
        raise FileError(f"{file} cannot be read: {in_words(error)}") from None
    except ValueError as error:
        raise FileError(f"{file!r} cannot be read: {error}") from None


def _bounded(stream: BinaryIO, name: str) -> bytes:
    data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise FileError(
            f"{name} is longer than {size_in_words(MAX_BYTES)}: no gateway reads so much"
        )
    return data


def read_question(data: bytes, name: str) -> Question:
    """Read a context from the bytes of a file. Raises FileError."""
    if data.startswith((_NPY, _ZIP, _EMPTY_ZIP)):
        return Question(_checked(_array(data, name), name))
    text = data.strip()
    if not text:
        raise FileError(f"{name} is empty: a context is .npy, .npz or JSON")
    if text.startswith(b"["):
        text = b'{"context":' + text + b"}"
    try:
        found = read_predict(text, max_length=MAX_VECTORS)
    except ProtocolError as error:
        raise FileError(
            f"{name} is neither .npy nor .npz, and no context in JSON: {error}"
        ) from None
    given = b'"top_k"' in text
    return Question(found.context, found.key, found.top_k if given else None, found.exclude_context)


def read_vector(file: str) -> Floats:
    """Read the one vector `[768]` that a file holds. Raises FileError."""
    data = read_file(file)
    if data.lstrip().startswith(b"[") and not data.lstrip()[1:].lstrip().startswith(b"["):
        try:
            return read_lookup(b'{"vector":' + data + b"}")
        except ProtocolError as error:
            raise FileError(f"{file}: {error}") from None
    found = read_question(data, file).context
    if len(found) != 1:
        raise FileError(f"{file} holds {len(found)} vectors: the truth is one")
    vector: Floats = found[0]
    return vector


# --- numpy's files --------------------------------------------------------------------------------


def _array(data: bytes, name: str) -> Any:
    """Read the array of an .npy, or of an .npz its `context`, `vectors` or only one."""
    try:
        if data.startswith(_NPY):
            return _read_npy(data, name)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _read_npy(_member(archive, name), name)
    except FileError:
        raise
    except _UNREADABLE as error:
        raise FileError(f"{name} cannot be read: {str(error) or type(error).__name__}") from None


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    arrays = {
        entry.filename.removesuffix(_SUFFIX): entry
        for entry in archive.infolist()
        if entry.filename.endswith(_SUFFIX)
    }
    for wanted in (*_NAMES, *(arrays if len(arrays) == 1 else ())):
        if entry := arrays.get(wanted):
            if entry.file_size > MAX_BYTES:
                raise FileError(f"{name} unfolds to more than {size_in_words(MAX_BYTES)}")
            return archive.read(entry)
    raise FileError(
        f"{name} holds {', '.join(arrays) or 'no array'}: the context must be called context or "
        "vectors, or be alone"
    )


def _read_npy(data: bytes, name: str) -> Any:
    """Read an .npy whose array is as large as its header says."""
    stream = io.BytesIO(data)
    with warnings.catch_warnings(action="ignore"):  # about old headers: whoever runs this made none
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, kind = read(stream)
        # Before numpy makes room for it: a header may say anything.
        if not kind.hasobject and math.prod(shape) * kind.itemsize != len(data) - stream.tell():
            raise FileError(
                f"{name} cannot be read: its header says {list(shape)} of {kind}, which is "
                f"{math.prod(shape) * kind.itemsize} bytes, and {len(data) - stream.tell()} follow"
            )
        return np.load(io.BytesIO(data), allow_pickle=False)


def _checked(array: Any, name: str) -> Floats:
    if array.dtype.kind not in "fiu":
        raise FileError(f"{name} holds {array.dtype}: a context is float32 [n, {DIMENSION}]")
    with np.errstate(over="ignore"):  # what overflows float32 is found as not finite
        found: Floats = np.atleast_2d(array).astype(np.float32)
    if found.ndim != 2 or not found.size or found.shape[1] != DIMENSION:  # noqa: PLR2004 - rows, columns
        raise FileError(f"{name} has the shape {list(array.shape)}: a context is [n, {DIMENSION}]")
    if not np.isfinite(found).all():
        raise FileError(f"{name} holds numbers that are not finite in float32")
    return found
