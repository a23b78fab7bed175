import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.engine.compiled import lay_out
from backends.engine.packing import TILE, by_unit, fits_bfloat16, pack
from backends.protocol import Floats


def rounded(matrix: Floats) -> Floats:
    """Cut each number to a bfloat16."""
    return (matrix.view(np.uint32) & 0xFFFF0000).view(np.float32)


def drawn(columns: int, depth: int) -> Floats:
    return np.random.default_rng(0).standard_normal((columns, depth), dtype=np.float32)


def test_numbers_that_are_bfloat16_are_told_from_others() -> None:
    assert fits_bfloat16(rounded(drawn(3, 5)))
    assert not fits_bfloat16(drawn(3, 5))


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_a_packed_word_holds_columns_of_two_neighbouring_vectors(lanes: int) -> None:
    matrix = rounded(drawn(100, 3))
    packed = pack(matrix, lanes=lanes)
    assert (packed.columns, packed.depth, packed.tiles, packed.wide) == (100, 3, 2, False)
    for tile, k, pair, lane in ((0, 0, 0, 0), (0, 2, 1, lanes - 1), (1, 1, 0, 1)):
        word = int(packed.words[tile, k, pair, lane])
        low = tile * TILE + 2 * pair * lanes + lane
        for half, column in ((word & 0xFFFF, low), (word >> 16, low + lanes)):
            expected = matrix[column, k] if column < 100 else 0.0
            assert np.uint32(half << 16).view(np.float32) == expected


def test_other_numbers_stay_whole() -> None:
    matrix = drawn(96, 4)
    packed = pack(matrix, lanes=16)
    assert packed.wide
    np.testing.assert_array_equal(packed.words.view(np.float32)[0], matrix.T)


def test_padding_columns_have_no_bias_and_the_scale_one() -> None:
    packed = pack(drawn(2, 3), np.ones(2, np.float32), np.full(2, 5, np.float32), lanes=16)
    assert packed.biases.tolist() == [1, 1] + [0] * 94
    assert packed.scales.tolist() == [5, 5] + [1] * 94


def test_a_tile_holds_the_three_gates_of_its_units() -> None:
    order = by_unit()
    assert sorted(order) == list(range(1536))
    assert order[:TILE].tolist() == [*range(32), *range(512, 544), *range(1024, 1056)]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_a_layout_has_every_vector_once_and_each_row_keeps_its_place(lengths: list[int]) -> None:
    layout = lay_out(lengths)
    assert sorted(layout.order) == list(range(len(lengths)))
    assert layout.counts.sum() == sum(lengths) == len(layout.rows)
    assert sorted(layout.rows.tolist()) == list(range(sum(lengths)))
    begins = np.concatenate([[0], np.cumsum([lengths[i] for i in layout.order])])
    place = 0
    for step, count in enumerate(layout.counts):
        for row in range(count):
            assert layout.rows[place + row] == begins[row] + step
        place += count
    for row, i in enumerate(layout.order):
        assert layout.rows[layout.last[row]] == begins[row] + lengths[i] - 1
