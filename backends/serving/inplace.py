"""A long body that goes from the socket to where it stays: no pieces, no joining, no copy.

The event loop copies what it reads into a bytes object for each piece, and who wants the body joins
these. A `BufferedProtocol` says where the loop is to read to instead. `InPlace` stands where the
connection itself stood while such a body arrives, and passes on to it everything else that happens.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import numpy as np

IN_PLACE: Final = 256 * 1024
"""Bytes; so much of a body comes in one piece, which is then taken as it is."""


class Room:
    """Memory for a body of `size` bytes, not cleared."""

    __slots__ = ("_all", "filled")

    def __init__(self, size: int) -> None:
        self._all = np.empty(size, np.uint8).data
        self.filled = 0

    def add(self, piece: bytes) -> None:
        """Put a piece behind the others."""
        self._all[self.filled : self.filled + len(piece)] = piece
        self.filled += len(piece)

    def rest(self) -> memoryview:
        """Give the part that is not filled yet."""
        return self._all[self.filled :]

    def so_far(self) -> memoryview:
        """Give the part that is filled."""
        return self._all[: self.filled]


class InPlace(asyncio.BufferedProtocol):
    """Has the loop read into a room; `updated` is told how many bytes came.

    Whoever makes it takes it away again when the room is full.
    """

    def __init__(
        self, instead_of: asyncio.Protocol, room: Room, updated: Callable[[int], None]
    ) -> None:
        self._room = room
        self.buffer_updated = updated  # type: ignore[assignment,method-assign] # no call in between
        self.eof_received = instead_of.eof_received  # type: ignore[method-assign]
        self.connection_lost = instead_of.connection_lost  # type: ignore[method-assign]
        self.pause_writing = instead_of.pause_writing  # type: ignore[method-assign]
        self.resume_writing = instead_of.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, _: int) -> memoryview:
        """Say where the next bytes belong."""
        return self._room.rest()
