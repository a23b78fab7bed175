"""Inner products of float16 rows with several vectors: native/half.h, where it was built."""

import ctypes
import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.engine import library
from backends.engine.port import EngineUnavailableError
from backends.protocol import Floats

Halves = NDArray[np.float16]


def can_multiply() -> bool:
    """Whether `products` works here: it was built, and the processor widens float16 by itself."""
    return _native() is not None


def products(rows: Halves, vectors: Floats) -> Floats:
    """Multiply `rows` [N, width] with `vectors` [B, width], both contiguous: [B, N], in float32.

    `width` is a multiple of 16. A product's sum is in another order than BLAS has it, and the same
    one whatever stands beside it. Call it only where one `can_multiply`.
    """
    (count, width), queries = rows.shape, len(vectors)
    out = np.empty((queries, count), np.float32)
    native = _native()
    native(
        rows.ctypes.data, count, width, vectors.ctypes.data, queries, out.ctypes.data, count
    )  # fmt: skip
    return out


@functools.cache
def _native() -> Any:
    """Find the compiled function; None where there is none."""
    try:
        function = library.load()[0].half_products
    except (EngineUnavailableError, AttributeError):
        return None
    pointer, long, int_ = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    function.argtypes = [pointer, long, int_, pointer, int_, pointer, long]
    function.restype = None
    return function
