"""Log lines about single requests that failed: each tells, and no flood of them fills a disk."""

import logging
import time
from collections.abc import Callable
from typing import Any, Final

import structlog

MOST_A_SECOND: Final = 10


class Sparing:
    """Warnings, at most `most` in a second; the next line says how many were `held_back`.

    At level DEBUG nothing is held back.
    """

    def __init__(
        self,
        logger: str,
        *,
        most: int = MOST_A_SECOND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = structlog.stdlib.get_logger(logger)
        self._plain = logging.getLogger(logger)
        self._most = most
        self._clock = clock
        self._second = -1
        self._told = 0
        self._held_back = 0

    @property
    def verbose(self) -> bool:
        """Whether lines of level DEBUG are written."""
        return self._plain.isEnabledFor(logging.DEBUG)

    def warning(self, event: str, **facts: Any) -> None:
        """Write a line, or count it."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._told = second, 0
        if self._told >= self._most and not self.verbose:
            self._held_back += 1
            return
        self._told += 1
        if self._held_back:
            facts["held_back"], self._held_back = self._held_back, 0
        self._log.warning(event, **facts)

    def debug(self, event: str, **facts: Any) -> None:
        """Write a line of level DEBUG."""
        self._log.debug(event, **facts)
