import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.engine.compiled import lay_out
from backends.engine.packing import TILE, Kind, by_unit, fits_bfloat16, pack, rounded
from backends.protocol import Floats


def drawn(columns: int, depth: int) -> Floats:
    return np.random.default_rng(0).standard_normal((columns, depth), dtype=np.float32)


def test_numbers_that_are_bfloat16_are_told_from_others() -> None:
    assert fits_bfloat16(rounded(drawn(3, 5)))
    assert not fits_bfloat16(drawn(3, 5))


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_a_packed_word_holds_columns_of_two_neighbouring_vectors(lanes: int) -> None:
    matrix = rounded(drawn(100, 3))
    packed = pack(matrix, lanes=lanes)
    assert (packed.columns, packed.depth, packed.tiles) == (100, 3, 2)
    assert packed.kind is Kind.COLUMN_PAIRS
    for tile, k, pair, lane in ((0, 0, 0, 0), (0, 2, 1, lanes - 1), (1, 1, 0, 1)):
        word = int(packed.words[tile, k, pair, lane])
        low = tile * TILE + 2 * pair * lanes + lane
        for half, column in ((word & 0xFFFF, low), (word >> 16, low + lanes)):
            expected = matrix[column, k] if column < 100 else 0.0
            assert np.uint32(half << 16).view(np.float32) == expected


def test_other_numbers_stay_whole() -> None:
    matrix = drawn(96, 4)
    packed = pack(matrix, lanes=16)
    assert packed.kind is Kind.WHOLE
    np.testing.assert_array_equal(packed.words.view(np.float32)[0], matrix.T)


@pytest.mark.parametrize("kind", [Kind.DEPTH_PAIRS, Kind.FINE_DEPTH_PAIRS])
def test_a_word_for_products_in_bfloat16_holds_two_depths_of_a_column(kind: Kind) -> None:
    matrix = drawn(100, 6)
    packed = pack(matrix, lanes=16, dots=kind)
    assert packed.kind is kind
    for tile, pair, column in ((0, 0, 0), (0, 2, 95), (1, 1, 3), (1, 0, 95)):
        word = int(packed.words[tile, pair, column])
        for half, depth in ((word & 0xFFFF, 2 * pair), (word >> 16, 2 * pair + 1)):
            row = tile * TILE + column
            expected = rounded(matrix)[row, depth] if row < 100 else 0.0
            assert np.uint32(half << 16).view(np.float32) == expected


@settings(deadline=None)  # torch's first number takes its time
@given(st.floats(width=32, allow_nan=False, min_value=-(2.0**120), max_value=2.0**120))
def test_rounding_to_bfloat16_is_torchs(number: float) -> None:
    found = rounded(np.array([number], np.float32))
    assert found.item() == torch.tensor([number]).to(torch.bfloat16).item()


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
    assert layout.counts.sum() == sum(lengths)
    assert layout.begins.tolist() == np.cumsum([0, *layout.counts[:-1]]).tolist()
    for step, count in enumerate(layout.counts):
        assert count == sum(length > step for length in lengths)
    for row, i in enumerate(layout.order):
        assert layout.last[row] == layout.begins[lengths[i] - 1] + row
