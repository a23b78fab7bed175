"""How much of its freed memory a server keeps for the next request.

glibc gives the end of its heap back to the system as soon as 128 KiB of it are free, and fetches it
again for the next body: the system must then clear every page anew. For a body of 1.5 MB that was
more than half of a gateway's CPU. glibc's thresholds (mallopt(3)) are raised here, so that up to
`KEPT` bytes stay, once they were used; larger blocks than `MAPPED` still come and go by themselves.
"""

import ctypes
from typing import Final

from backends.serving.content import MIB

KEPT: Final = 32 * MIB
MAPPED: Final = 4 * MIB
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3


def keep_freed_memory() -> bool:
    """Keep up to `KEPT` bytes; False where the C library has no such setting (musl, macOS)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, KEPT) and mallopt(_MMAP_THRESHOLD, MAPPED))
