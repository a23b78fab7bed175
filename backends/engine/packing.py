"""A matrix as the compiled engine reads it: in tiles of 96 columns, bfloat16 where that is exact.

A tile stands as [depth][96], so that one step down its depth is one stretch of memory. Where every
weight is a bfloat16 number, two share a 32-bit word: of the tile's vectors of `lanes` columns, word
i of pair j holds column i of vector 2j in its low half and of vector 2j + 1 in its high half. Pure.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backends.protocol import Floats
from backends.shape import HIDDEN

UNITS: Final = 32
GATES: Final = 3
TILE: Final = GATES * UNITS
_HALF: Final = 16
"""Bits of a bfloat16: the upper half of a float32."""


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A matrix [columns, depth], its columns padded with zeros to whole tiles.

    `words` are float32 numbers (`wide`) or pairs of bfloat16; `scales` and `biases` [tiles * 96].
    """

    words: NDArray[np.uint32]
    scales: Floats
    biases: Floats
    columns: int
    depth: int
    tiles: int
    wide: bool


def pack(
    matrix: Floats, bias: Floats | None = None, scales: Floats | None = None, *, lanes: int
) -> Packed:
    """Pack `matrix` [columns, depth]; column c of a product becomes scales[c] * product + bias[c].

    bfloat16 where every weight is such a number, float32 otherwise: the answers are the same.
    """
    columns, depth = matrix.shape
    tiles = -(-columns // TILE)
    padded = np.zeros((tiles * TILE, depth), dtype=np.float32)
    padded[:columns] = matrix
    words = np.ascontiguousarray(padded.reshape(tiles, TILE, depth).transpose(0, 2, 1))
    bits = words.view(np.uint32)  # [tiles, depth, 96]
    wide = not fits_bfloat16(matrix)
    if not wide:
        vectors = (bits >> _HALF).reshape(tiles, depth, -1, 2, lanes)
        bits = np.ascontiguousarray(vectors[..., 0, :] | (vectors[..., 1, :] << _HALF))
    return Packed(
        words=bits,
        scales=_padded(scales, 1.0, columns, tiles),
        biases=_padded(bias, 0.0, columns, tiles),
        columns=columns,
        depth=depth,
        tiles=tiles,
        wide=wide,
    )


def fits_bfloat16(matrix: Floats) -> bool:
    """Whether each number of `matrix` is a bfloat16: the lower half of its float32 is zero."""
    return not (np.ascontiguousarray(matrix, np.float32).view(np.uint32) & 0xFFFF).any()


def by_unit() -> NDArray[np.intp]:
    """Return torch's rows of a GRU's matrices [1536, .] in the order of tiles.

    torch has all reset gates, then all update gates, then all candidates; a tile has those of its
    32 units.
    """
    units = np.arange(HIDDEN).reshape(-1, 1, UNITS)
    return (units + HIDDEN * np.arange(GATES).reshape(1, GATES, 1)).ravel()


def _padded(values: Floats | None, otherwise: float, columns: int, tiles: int) -> Floats:
    padded = np.full(tiles * TILE, otherwise, dtype=np.float32)
    if values is not None:
        padded[:columns] = values
    return padded
