"""A matrix as the compiled engine reads it: in tiles of 96 columns, bfloat16 where that is exact.

A tile stands as [depth][96], so that one step down its depth is one stretch of memory. Where every
weight is a bfloat16 number, two share a 32-bit word: of the tile's vectors of `lanes` columns, word
i of pair j holds column i of vector 2j in its low half and of vector 2j + 1 in its high half.

For products in bfloat16 a word holds a column's weights at two depths, the even one's in its low
half, and weights that are no bfloat16 numbers are rounded to the nearest. Pure.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backends.protocol import Floats
from backends.shape import HIDDEN

UNITS: Final = 32
GATES: Final = 3
TILE: Final = GATES * UNITS
_HALF: Final = np.uint32(16)
"""Bits of a bfloat16: the upper half of a float32."""


class Kind(IntEnum):
    """How a packed matrix stands, and how products with it are made, as gru.c numbers them.

    `COLUMN_PAIRS` and `WHOLE`: bfloat16 and float32 weights, products in float32. `DEPTH_PAIRS`:
    products of bfloat16 numbers. `FINE_DEPTH_PAIRS`: the last third of each tile, the candidates,
    is also multiplied by what rounding a row to bfloat16 left of it.
    """

    COLUMN_PAIRS = 0
    WHOLE = 1
    DEPTH_PAIRS = 2
    FINE_DEPTH_PAIRS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A matrix [columns, depth], its columns padded with zeros to whole tiles.

    `words` are float32 numbers or pairs of bfloat16, as `kind` says; `scales` and `biases`
    [tiles * 96].
    """

    words: NDArray[np.uint32]
    scales: Floats
    biases: Floats
    columns: int
    depth: int
    tiles: int
    kind: Kind


def pack(
    matrix: Floats,
    bias: Floats | None = None,
    scales: Floats | None = None,
    *,
    lanes: int,
    dots: Kind | None = None,
) -> Packed:
    """Pack `matrix` [columns, depth]; column c of a product becomes scales[c] * product + bias[c].

    Without `dots` for products in float32: bfloat16 where every weight is such a number, float32
    otherwise; the answers are the same. With `dots`, which names one of the two kinds of pairs of
    depths, for products in bfloat16; the depth is even then.
    """
    columns, depth = matrix.shape
    tiles = -(-columns // TILE)
    padded = np.zeros((tiles * TILE, depth), dtype=np.float32)
    padded[:columns] = matrix if dots is None else rounded(matrix)
    words = np.ascontiguousarray(padded.reshape(tiles, TILE, depth).transpose(0, 2, 1))
    bits = words.view(np.uint32)  # [tiles, depth, 96]
    kind = dots or (Kind.COLUMN_PAIRS if fits_bfloat16(matrix) else Kind.WHOLE)
    if kind is Kind.COLUMN_PAIRS:
        bits = _in_pairs((bits >> _HALF).reshape(tiles, depth, -1, 2, lanes))
    elif dots:
        bits = _in_pairs((bits >> _HALF).reshape(tiles, depth // 2, 2, TILE))
    return Packed(
        words=bits,
        scales=_padded(scales, 1.0, columns, tiles),
        biases=_padded(bias, 0.0, columns, tiles),
        columns=columns,
        depth=depth,
        tiles=tiles,
        kind=kind,
    )


def _in_pairs(halves: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Join [..., 2, n] halves of 16 bits to words [..., n], the first of two in the low half."""
    return np.ascontiguousarray(halves[..., 0, :] | (halves[..., 1, :] << _HALF))


def rounded(matrix: Floats) -> Floats:
    """Round each number to the nearest bfloat16, to the even one of two. They must be finite."""
    bits = np.ascontiguousarray(matrix, np.float32).view(np.uint32)
    up = (bits >> _HALF & 1) + np.uint32(0x7FFF)
    return (bits + up & np.uint32(0xFFFF0000)).view(np.float32)


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
