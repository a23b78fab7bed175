import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_samples import bank, bank_file, context

from backends.bank import load
from backends.errors import BankError

VECTORS = context(50)


def test_neighbours_are_the_exact_inner_products_best_first() -> None:
    query = context(1, seed=8)[0]
    products = VECTORS @ query
    best = np.argsort(-products)[:5]
    ids, scores = bank(VECTORS).search(query, 5)
    np.testing.assert_array_equal(ids, best + 1000)
    np.testing.assert_allclose(scores, products[best], atol=1e-6)


def test_scores_are_with_the_banks_vectors_brought_to_length_1() -> None:
    ids, scores = bank(VECTORS * 7).search(VECTORS[3], 1)
    assert ids.tolist() == [1003]
    assert scores[0] == pytest.approx(1.0, abs=1e-5)


def test_rows_equal_to_one_of_the_context_are_left_out() -> None:
    held = bank(VECTORS)
    ids, _ = held.search(VECTORS[3], 50, exclude=np.stack([VECTORS[3], VECTORS[7]]))
    assert len(ids) == 48
    assert not {1003, 1007} & set(ids.tolist())


def test_a_vector_that_differs_in_one_bit_is_not_left_out() -> None:
    near = VECTORS[3].copy()
    near[0] = np.nextafter(near[0], np.float32(1))
    ids, _ = bank(VECTORS).search(VECTORS[3], 1, exclude=near[np.newaxis])
    assert ids.tolist() == [1003]


def test_all_copies_of_a_vector_are_left_out_together() -> None:
    twice = np.concatenate([VECTORS, VECTORS[:1]])
    ids, _ = bank(twice).search(VECTORS[0], 51, exclude=VECTORS[:1])
    assert not {1000, 1050} & set(ids.tolist())
    assert len(ids) == 49


def test_where_fewer_than_k_remain_there_are_fewer_answers() -> None:
    held = bank(VECTORS)
    assert len(held.search(VECTORS[0], 1000)[0]) == 50
    ids, scores = held.search(VECTORS[0], 10, exclude=VECTORS)
    assert ids.shape == scores.shape == (0,)


def test_an_exact_vector_finds_its_id_and_any_other_finds_none() -> None:
    held = bank(VECTORS)
    assert held.find(VECTORS[7]) == 1007
    assert held.find(VECTORS[7] * np.float32(1.0001)) is None


def test_a_float16_bank_matches_the_float32_values_that_clients_send(tmp_path: Path) -> None:
    half = VECTORS.astype(np.float16)
    held = load(bank_file(tmp_path / "bank.npz", half))  # type: ignore[arg-type]  # on purpose
    assert held.find(half[7].astype(np.float32)) == 1007
    assert held.size == 50


def test_the_banks_identity_is_the_sha256_of_its_file(tmp_path: Path) -> None:
    path = bank_file(tmp_path / "bank.npz", VECTORS)
    assert load(path).identity == hashlib.sha256(path.read_bytes()).hexdigest()


NAN = VECTORS.copy()
NAN[4, 2] = np.nan


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"ids": None}, "lacks ids"),
        (
            {"vectors": VECTORS[:, :512]},
            r"vectors of shape \[50, 512\]: the model's are \[N, 768\]",
        ),
        ({"vectors": VECTORS[0]}, r"vectors of shape \[768\]"),
        ({"vectors": VECTORS[:0], "ids": np.empty(0, np.int64)}, "N >= 1"),
        ({"vectors": VECTORS.astype(np.float64)}, "vectors of float64, not float16 or float32"),
        ({"vectors": NAN}, "row 4 of the bank .* is not finite"),
        ({"ids": np.arange(49)}, r"ids of shape \[49\]"),
        ({"ids": np.ones(50)}, "float64: one integer per vector"),
        ({"ids": np.array([*range(49), 0])}, "the id 0 stands twice"),
        ({"vectors": np.array([{}], dtype=object)}, "no .npz file of plain arrays"),
    ],
)
def test_a_wrong_bank_is_refused_in_words(
    tmp_path: Path, arrays: dict[str, Any], words: str
) -> None:
    path = bank_file(tmp_path / "bank.npz", **{"vectors": VECTORS, **arrays})
    with pytest.raises(BankError, match=words):
        load(path)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut"])
def test_what_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bank.npz"
    path.write_bytes(content)
    with pytest.raises(BankError, match=r"is no \.npz file"):
        load(path)


def test_a_single_npy_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "bank.npy", VECTORS)
    with pytest.raises(BankError, match=r"is no \.npz file"):
        load(tmp_path / "bank.npy")


def test_a_missing_bank_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BankError, match=r"cannot read the bank .*: No such file"):
        load(tmp_path / "none.npz")


@pytest.mark.parametrize("damaged_at", [0.3, 0.6, 0.99])
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path: Path, damaged_at: float) -> None:
    path = tmp_path / "bank.npz"
    np.savez_compressed(path, vectors=VECTORS, ids=np.arange(len(VECTORS)))
    content = bytearray(path.read_bytes())
    start = int(len(content) * damaged_at)
    content[start : start + 64] = bytes(64)
    path.write_bytes(content)
    with pytest.raises(BankError, match=r"the bank .*bank.npz"):
        load(path)
