"""The compiled kernel, found and loaded: native/gru.c as the build made it for this processor.

The build makes one library for each kind of processor that it knows (native/hatch_hook.py). Which
one may run here is read from the processor's own flags. ctypes lets go of the interpreter's lock
while a function runs.
"""

import ctypes
import functools
import platform
from pathlib import Path
from typing import Final

from backends.engine.packing import Packed
from backends.engine.port import EngineUnavailableError

FOLDER: Final = Path(__file__).parent / "native"
DOTS: Final = "x86-64-v4-bf16"
"""The library whose products may be bfloat16's."""
_V4: Final = frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
VARIANTS: Final = {
    DOTS: _V4 | {"avx512_bf16"},
    "x86-64-v4": _V4,
    "x86-64-v3": frozenset({"avx2", "fma", "bmi2", "f16c"}),
    "baseline": frozenset[str](),
}
"""The libraries, fastest first, and the processor flags that each needs (the psABI's levels)."""

_P: Final = ctypes.c_void_p
_I: Final = ctypes.c_int


class Matrix(ctypes.Structure):
    """gru.c's `matrix`: a packed matrix by its addresses, so its arrays must outlive it."""

    _fields_ = (
        ("weights", _P),
        ("scales", _P),
        ("biases", _P),
        ("depth", ctypes.c_int32),
        ("tiles", ctypes.c_int32),
        ("kind", ctypes.c_int32),
    )


class Meeting(ctypes.Structure):
    """gru.c's `meeting`: where a run's threads meet, and are told to stop."""

    _fields_ = (
        ("arrived", ctypes.c_uint),
        ("phase", ctypes.c_uint),
        ("stop", ctypes.c_uint),
        ("over", ctypes.c_uint),
    )


def matrix(packed: Packed) -> Matrix:
    """Describe a packed matrix to the kernel."""
    return Matrix(
        packed.words.ctypes.data,
        packed.scales.ctypes.data,
        packed.biases.ctypes.data,
        packed.depth,
        packed.tiles,
        packed.kind,
    )


@functools.cache
def load() -> tuple[ctypes.CDLL, str]:
    """Load the fastest library that this processor runs; return it and its variant's name.

    Raises EngineUnavailableError.
    """
    built = [path.stem.removeprefix("gru-") for path in FOLDER.glob("gru-*.so")]
    flags = processor_flags()
    for variant, needed in VARIANTS.items():
        if variant in built and needed <= flags:
            try:
                return _typed(ctypes.CDLL(str(FOLDER / f"gru-{variant}.so"))), variant
            except OSError as error:
                raise EngineUnavailableError(
                    f"the compiled engine does not load: {error}; install turnout anew, or set "
                    "BACKEND_ENGINE=torch"
                ) from error
    raise EngineUnavailableError(
        "the compiled engine was not built for this machine "
        f"({platform.machine()}; built are: {', '.join(sorted(built)) or 'none'}): install turnout "
        "anew where a C compiler is (cc), or set BACKEND_ENGINE=torch"
    )


def check_dots(variant: str) -> None:
    """Raise EngineUnavailableError unless this library makes products in bfloat16.

    float32 in their stead would be other answers than those that were asked for, and three times
    as slow under load.
    """
    if variant == DOTS:
        return
    lacking = VARIANTS.get(DOTS, frozenset()) - processor_flags()
    reason = (
        f"this processor has no {', '.join(sorted(lacking))}"
        if lacking
        else f"gru-{DOTS}.so was not built: install turnout anew where a compiler is that knows "
        "-mavx512bf16 (GCC 10 or newer, Clang 9 or newer)"
    )
    raise EngineUnavailableError(
        f"BACKEND_PRECISION=bfloat16, but {reason}; set float32, which gives other answers"
    )


def processor_flags(source: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the flags that Linux lists for the first processor; none where it lists none."""
    try:
        lines = source.read_text().splitlines()
    except OSError:
        return frozenset()
    listed = next((line for line in lines if line.startswith("flags")), ":")
    return frozenset(listed.split(":", 1)[1].split())


def _typed(library: ctypes.CDLL) -> ctypes.CDLL:
    """Tell ctypes the functions' types, in the order of gru.c."""
    library.gru_walk.argtypes = [_P, _P, _I, _P, _P, _P, _I, _P, _P, _P, _P, _I, _I, _P]
    library.gru_walk.restype = None
    library.linear.argtypes = [_P, _P, _I, _P]
    library.linear.restype = None
    library.layer_norm.argtypes = [_P, ctypes.c_long, _I, _P, _P, _P]
    library.layer_norm.restype = None
    library.gelu.argtypes = [_P, ctypes.c_long]
    library.gelu.restype = None
    for constant in (library.lanes_of_a_vector, library.rows_of_a_block):
        constant.argtypes = []
        constant.restype = _I
    return library
