"""The names of requests. Pure: the clock and the random bytes come in as arguments.

The gateway names every request itself, with a UUIDv7 (RFC 9562, section 5.7): 48 bits of Unix
milliseconds, then 74 random bits. The name is what sticky assignment hashes, so a client must not
choose it; and it carries the time of admission, so that feedback which comes hours later can be
judged by its age without a store.
"""

import re
from typing import Final

RANDOM_BYTES: Final = 10
"""How many random bytes a name takes; six of their bits are given up for version and variant."""
_VERSION: Final = "7"
_VARIANT: Final = {f"{digit:x}": "89ab"[digit & 0b11] for digit in range(16)}
"""A digit whose first two bits are given up for the variant, 0b10."""
_OURS: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII
)


def request_id(unix_ms: int, random: bytes) -> str:
    """Name a request that was admitted `unix_ms` milliseconds after 1970.

    `random` holds 10 bytes. Raises ValueError for another number of them, or a time that 48 bits
    do not hold.
    """
    if len(random) != RANDOM_BYTES or not 0 <= unix_ms < 1 << 48:
        raise ValueError(f"a name takes 48 bits of time and {RANDOM_BYTES} random bytes")
    time, bits = f"{unix_ms:012x}", random.hex()
    variant = _VARIANT[bits[4]]
    return f"{time[:8]}-{time[8:]}-{_VERSION}{bits[:3]}-{variant}{bits[5:8]}-{bits[8:]}"


def admitted_at(name: str) -> float | None:
    """Read from a name when its request was admitted, in Unix seconds; None if it is not ours."""
    if not _OURS.fullmatch(name):
        return None
    return admitted(name)


def admitted(name: str) -> float:
    """Read when a request was admitted from its name, which is one of ours: Unix seconds."""
    return int(name[:8] + name[9:13], 16) / 1000
