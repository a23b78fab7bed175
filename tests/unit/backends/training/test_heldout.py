"""The held-out chains that ship: which they are, what their precision costs, what is refused."""

from pathlib import Path

import numpy as np
import pytest
from training_samples import make_corpus

from backends.training.archive import ArchiveError, read_archive
from backends.training.heldout import (
    SHIPPABLE,
    choose_held_out,
    encode,
    read_held_out,
    write_held_out,
)
from backends.training.split import LeakError, check_leaks, split_chains
from backends.training.verbs.common import HELD_OUT, SAMPLE

NONE = np.empty(0, dtype=np.int64)


def test_the_chains_are_the_splits_test_chains_and_the_bytes_are_the_same_twice(
    tmp_path: Path,
) -> None:
    corpus = make_corpus(tmp_path, licence="PSF-2.0")
    held_out = choose_held_out(corpus, NONE, 0)
    test = split_chains([source.title for source in corpus.about.chains], 0).test
    assert [source.title for source in held_out.about.chains] == [f"chain {c}" for c in test]
    rows = np.concatenate([np.arange(24 * chain, 24 * chain + 24) for chain in test])
    assert held_out.ids.tolist() == corpus.ids[rows].tolist()
    for name in ("one", "two"):
        write_held_out(tmp_path / name, choose_held_out(corpus, NONE, 0))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    found = read_held_out(tmp_path / "one")
    assert found.about == held_out.about
    assert np.array_equal(found.codes, held_out.codes)


def test_eight_bits_keep_a_cosine_of_three_nines_and_read_back_the_same(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, licence="PSF-2.0")
    held_out = choose_held_out(corpus, NONE, 0)
    kept = np.isin(corpus.ids, held_out.ids)
    exact, found = (v.astype(np.float64) for v in (corpus.vectors[kept], held_out.vectors))
    assert (exact * found).sum(axis=1).min() > 0.999
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-3)
    assert np.array_equal(encode(held_out.vectors), held_out.codes)


def test_chains_whose_licence_asks_to_be_carried_on_do_not_ship(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="none may ship"):
        choose_held_out(make_corpus(tmp_path, licence="GPL-2.0-only"), NONE, 0)


def test_a_text_of_the_sample_is_a_leak(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, licence="PSF-2.0")
    with pytest.raises(LeakError):
        choose_held_out(corpus, corpus.ids, 0)


def test_a_damaged_file_is_refused_by_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "heldout.npz"
    with pytest.raises(ArchiveError, match="does not exist: build it with `turnout corpus holdout"):
        read_held_out(path)
    held_out = choose_held_out(make_corpus(tmp_path, licence="PSF-2.0"), NONE, 0)
    write_held_out(path, held_out)
    with np.load(path) as arrays:
        whole = dict(arrays)
    for name, array, words in (
        ("codes", whole["codes"].astype(np.int16), "holds codes as int16"),
        ("codes", whole["codes"][1:], "as many of each"),
        ("codes", np.zeros_like(whole["codes"]), "all zero"),
        ("chain", whole["chain"][::-1].copy(), "do not run through chains"),
        ("about", whole["about"][1:], "cannot be decoded"),
    ):
        np.savez(path, **{**whole, name: array})
        with pytest.raises(ArchiveError, match=words):
            read_held_out(path)


def test_the_file_that_ships_is_held_out_licensed_and_within_its_bound() -> None:
    held_out, sample = read_held_out(HELD_OUT), read_archive(SAMPLE)
    check_leaks({"held out": held_out.ids, "demo": sample.ids}, {})
    assert {source.licence for source in held_out.about.chains} <= set(SHIPPABLE)
    titles = [source.title for source in held_out.about.chains]
    assert split_chains(titles, held_out.about.seed).test == tuple(range(len(titles)))
    assert HELD_OUT.stat().st_size + SAMPLE.stat().st_size <= 20_000_000
    notices = (HELD_OUT.parent / "README.md").read_text()
    assert all(title in notices for title in titles)
