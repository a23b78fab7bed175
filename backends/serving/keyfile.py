"""A file of API keys, read again when it changes: a key is taken away by taking its line away.

A change is seen within a second, at the next request. A file that is gone or has become wrong
leaves the keys as they were, and the log says so: a slip of an editor must not lock everybody out.
To take all keys away, leave the file empty.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from backends.serving.access import KeyFileError, KeyRing, read_keys

LOOK_S: Final = 1.0
MAX_BYTES: Final = 1024 * 1024
LAST_GOOD: Final = "the file of API keys is wrong: the last good keys stay"

log = structlog.stdlib.get_logger("turnout.access")

_Stamp = tuple[int, int, int]


class KeyFile:
    """The keys in a file. Raises KeyFileError at birth when it cannot be read."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._looked = clock()
        self._stamp: _Stamp | None = None
        self._keys = KeyRing()
        self._refresh()

    @property
    def keys(self) -> KeyRing:
        """The keys in force."""
        now = self._clock()
        if now - self._looked >= LOOK_S:
            self._looked = now
            try:
                self._refresh()
            except KeyFileError as error:
                log.error(LAST_GOOD, reason=str(error))  # noqa: TRY400 - no fault of the program
        return self._keys

    def _refresh(self) -> None:
        """Read the file if it is not the one that was read last. Raises KeyFileError."""
        try:
            facts = self._path.stat()
            stamp = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            if facts.st_size > MAX_BYTES:
                raise KeyFileError(f"{self._path} has {facts.st_size} bytes, more than {MAX_BYTES}")
            text = self._path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            known, self._stamp = self._stamp, (0, 0, 0)
            if known == self._stamp:  # said before
                return
            raise KeyFileError(f"{self._path} cannot be read: {_why(error)}") from None
        try:
            self._keys = read_keys(text)
        except KeyFileError as error:
            raise KeyFileError(f"{self._path}: {error}") from None
        log.info("API keys read", file=str(self._path), keys=len(self._keys))


def check_file(path: Path) -> None:
    """Raise KeyFileError when a server could not start with this file of keys."""
    try:
        read_keys(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path} cannot be read: {_why(error)}") from None
    except KeyFileError as error:
        raise KeyFileError(f"{path}: {error}") from None


def _why(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
