import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_samples import bank, bank_file, context
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import bankindex
from backends.bank import Asked, Bank, build, load
from backends.bankindex import unit
from backends.engine import halves
from backends.errors import BankError
from backends.fingerprint import prints_of

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
    ids, _ = held.search(VECTORS[3], 50, exclude=prints_of(VECTORS[[3, 7]]))
    assert len(ids) == 48
    assert not {1003, 1007} & set(ids.tolist())


def test_a_vector_that_differs_in_one_bit_is_not_left_out() -> None:
    near = VECTORS[3].copy()
    near[0] = np.nextafter(near[0], np.float32(1))
    ids, _ = bank(VECTORS).search(VECTORS[3], 1, exclude=prints_of(near[np.newaxis]))
    assert ids.tolist() == [1003]


def test_all_copies_of_a_vector_are_left_out_together() -> None:
    twice = np.concatenate([VECTORS, VECTORS[:1]])
    ids, _ = bank(twice).search(VECTORS[0], 51, exclude=prints_of(VECTORS[:1]))
    assert not {1000, 1050} & set(ids.tolist())
    assert len(ids) == 49


def test_where_fewer_than_k_remain_there_are_fewer_answers() -> None:
    held = bank(VECTORS)
    assert len(held.search(VECTORS[0], 1000)[0]) == 50
    ids, scores = held.search(VECTORS[0], 10, exclude=prints_of(VECTORS))
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


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_an_npy_file_is_mapped_and_its_ids_lie_beside_it(tmp_path: Path, kind: Any) -> None:
    path, beside = tmp_path / "bank.npy", tmp_path / "bank.ids.npy"
    np.save(path, VECTORS.astype(kind))
    rows = load(path)
    assert isinstance(rows.index.vectors, np.memmap)
    assert rows.identity == hashlib.sha256(path.read_bytes()).hexdigest()
    seventh = VECTORS.astype(kind)[7].astype(np.float32)
    assert rows.find(seventh) == 7
    np.save(beside, np.arange(50, dtype=np.int32) + 1000)
    named = load(path)
    assert named.find(seventh) == 1007
    both = path.read_bytes() + beside.read_bytes()
    assert named.identity == hashlib.sha256(both).hexdigest()


@pytest.mark.parametrize(
    ("vectors", "ids", "words"),
    [
        (VECTORS[:, :512], None, r"vectors of shape \[50, 512\]: the model's are \[N, 768\]"),
        (np.float32(1), None, r"vectors of shape \[\]"),
        (VECTORS, np.arange(49), r"ids of shape \[49\]"),
        (VECTORS, np.ones(50), "one integer per vector"),
    ],
)
def test_a_wrong_npy_bank_is_refused_in_words(
    tmp_path: Path, vectors: Any, ids: Any, words: str
) -> None:
    np.save(tmp_path / "bank.npy", vectors)
    if ids is not None:
        np.save(tmp_path / "bank.ids.npy", ids)
    with pytest.raises(BankError, match=words):
        load(tmp_path / "bank.npy")


def test_what_is_no_npy_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bank.npy"
    path.write_bytes(b"no array")
    with pytest.raises(BankError, match=r"is no \.npy file"):
        load(path)


def test_its_runs_are_its_ids() -> None:
    held = build(context(4), np.array([7, 3, 4, 5], np.int64), "x")
    assert repr(held.runs()) == "<IdRuns of 4 ids in 2 runs>"


def test_it_knows_which_ids_it_has() -> None:
    held = bank(VECTORS)
    assert held.has(1000)
    assert held.has(1049)
    for other in (999, 1050, 0, -(2**70), 2**70):
        assert not held.has(other)


def test_zero_and_minus_zero_are_two_values() -> None:
    vectors = VECTORS.copy()
    vectors[3, 0], vectors[4] = 0.0, vectors[3]
    vectors[4, 0] = -0.0
    held = bank(vectors)
    assert (held.find(vectors[3]), held.find(vectors[4])) == (1003, 1004)


NEAR = VECTORS[:1] + np.float32(2e-5) * context(300, seed=7)


@given(st.integers(1, 301), st.sets(st.integers(0, 349)), st.sampled_from([0.01, 1.0, 30.0]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_neighbours_are_the_exact_ones_where_float16_cannot_tell_them_apart(
    k: int, others: set[int], length: float
) -> None:
    rows = np.concatenate([NEAR, VECTORS])
    held = bank(rows, first_id=0)
    query = context(1, seed=8)[0] * np.float32(length)
    products = unit(rows) @ query
    products[sorted(others)] = -np.inf
    left = min(k, len(rows) - len(others))
    ids, scores = held.search(query, k, prints_of(rows[sorted(others)]))
    assert len(set(ids.tolist()) - others) == len(ids) == left
    np.testing.assert_allclose(scores, np.sort(products)[::-1][:left], rtol=0, atol=1e-6 * length)
    np.testing.assert_allclose(scores, products[ids], rtol=0, atol=1e-6 * length)


# --- the approximate index ------------------------------------------------------------------------

MANY = (context(40, seed=4).repeat(150, axis=0) + 0.5 * context(6000, seed=5)).astype(np.float16)


@pytest.fixture(scope="module")
def both() -> tuple[Bank, Bank]:
    ids = np.arange(len(MANY))
    wide = MANY.astype(np.float32)
    return build(wide, ids, "x"), build(wide, ids, "x", "approximate")


def test_the_approximate_index_finds_nearly_what_the_exact_one_finds(
    both: tuple[Bank, Bank],
) -> None:
    exact, near = both
    assert near.index.lists > 1
    shared = 0
    for query in context(40, seed=4) + 0.02 * context(40, seed=6):
        ids, scores = near.search(query, 10)
        expected = dict(zip(*(part.tolist() for part in exact.search(query, 10)), strict=True))
        shared += len(expected.keys() & set(ids.tolist()))
        assert (np.diff(scores) <= 0).all()
        for id_, score in zip(ids.tolist(), scores.tolist(), strict=True):
            assert expected.get(id_, score) == pytest.approx(score, abs=1e-6)
    assert shared >= 0.9 * 400


@given(st.integers(0, 39), st.sets(st.integers(0, 5999), max_size=400), st.integers(1, 300))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_approximate_index_leaves_the_context_out_and_answers_in_full(
    both: tuple[Bank, Bank], place: int, others: set[int], k: int
) -> None:
    near = both[1]
    rows = [*range(place * 150, place * 150 + 150), *others]  # all that lies near, and more
    ids, scores = near.search(MANY[place * 150].astype(np.float32), k, prints_of(MANY[rows]))
    assert not set(rows) & set(ids.tolist())
    assert len(set(ids.tolist())) == len(scores) == k


def test_a_bank_of_one_vector_has_an_approximate_index_too() -> None:
    alone = build(VECTORS[:1], np.array([5]), "x", "approximate")
    assert alone.search(VECTORS[3], 10)[0].tolist() == [5]
    assert alone.search(VECTORS[3], 10, prints_of(VECTORS[:1]))[0].size == 0


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


# --- a batch's searches ---------------------------------------------------------------------------

ALIKE = np.concatenate([NEAR, VECTORS, NEAR[:40], VECTORS])  # rows that are equal, and nearly so
BITS = prints_of(ALIKE)
searches = st.tuples(
    st.integers(0, 5), st.integers(1, len(ALIKE) + 1), st.none() | st.sets(st.integers(0, 439))
)


def asked_of(place: int, k: int, others: set[int] | None) -> Asked:
    query = np.concatenate([ALIKE[:3], context(3, seed=8)])[place]
    return Asked(query, k, None if others is None else BITS[sorted(others)])


@given(st.lists(searches, min_size=1, max_size=18), st.sampled_from([1, 2, 5, 100]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_batch_of_searches_finds_bit_for_bit_what_each_finds_alone(
    drawn: list[tuple[int, int, set[int] | None]], together: int
) -> None:
    held = bank(ALIKE, first_id=0)
    asked = [asked_of(*one) for one in drawn]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bankindex, "ROUGH_BYTES", 4 * len(ALIKE) * together)
        found = held.search_all(asked)
    for one, answer in zip(asked, found, strict=True):
        assert not isinstance(answer, Exception)
        for part, alone in zip(answer, held.search(*one), strict=True):
            np.testing.assert_array_equal(part, alone, strict=True)


@pytest.mark.parametrize("count", [1, 3])
def test_of_equal_scores_the_lower_row_is_the_better(count: int) -> None:
    rows = np.concatenate([VECTORS] * 3)
    asked = [Asked(VECTORS[7], 5, prints_of(VECTORS[[9]]))] * count
    for answer in bank(rows, first_id=0).search_all(asked):
        assert not isinstance(answer, Exception)
        assert answer[0][:3].tolist() == [7, 57, 107]
        assert np.ptp(answer[1][:3]) == 0


def test_a_search_that_fails_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    held = bank(VECTORS)
    bad = np.zeros((3, 5), np.uint64)  # no fingerprints
    first, wrong, last = held.search_all(
        [Asked(VECTORS[3], 1), Asked(VECTORS[4], 1, bad), Asked(VECTORS[5], 1)]
    )
    assert isinstance(wrong, ValueError)
    assert not isinstance(first, Exception)
    assert not isinstance(last, Exception)
    assert [first[0].tolist(), last[0].tolist()] == [[1003], [1005]]

    def fail(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(halves, "products", fail)
    one_by_one = held.search_all([Asked(VECTORS[place], 1) for place in (3, 4, 5)])
    assert [found[0].tolist() for found in one_by_one if isinstance(found, tuple)] == [
        [1003], [1004], [1005],
    ]  # fmt: skip


@pytest.mark.skipif(not halves.can_multiply(), reason="not built, or no such processor")
@given(st.integers(1, 300), st.integers(1, 9), st.sampled_from([16, 64, 768]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_rough_scores_are_the_products_within_their_bound(
    count: int, queries: int, width: int
) -> None:
    random = np.random.default_rng(count)
    rows = (random.standard_normal((count, width)) / width**0.5).astype(np.float16)
    vectors = random.standard_normal((queries, width)).astype(np.float32)
    found = halves.products(rows, vectors)
    exact = vectors.astype(np.float64) @ rows.T.astype(np.float64)
    bound = np.abs(vectors.astype(np.float64)) @ np.abs(rows.T.astype(np.float64))
    assert (np.abs(found - exact) <= bound * width * 2.0**-24).all()
