"""The shipped chains are real, whole and make sense; a broken file is refused in a sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.training.archive import ArchiveError, identify
from deploy.chains import SHIPPED, Chains, load_chains

Break = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def shipped() -> Chains:
    return load_chains()


def test_the_file_is_small_enough_for_the_repository() -> None:
    assert SHIPPED.stat().st_size <= 12_000_000


def test_it_holds_twelve_chains_of_six_hundred_chunks_from_several_packages(
    shipped: Chains,
) -> None:
    assert [len(chain) for chain in shipped.chains] == [600] * 12
    assert len({chain.title for chain in shipped.chains}) == 12
    assert len({chain.source.package for chain in shipped.chains}) >= 5
    for chain in shipped.chains:
        assert chain.vectors.shape == (600, 768)
        assert chain.vectors.dtype == np.float32
        assert chain.ids.shape == (600,)
        assert chain.ids.dtype == np.int64


def test_a_bank_can_be_read_from_it_without_pickle(shipped: Chains) -> None:
    with np.load(SHIPPED, allow_pickle=False) as archive:
        vectors, ids = archive["vectors"], archive["ids"]
    assert vectors.dtype == np.float16
    assert np.array_equal(vectors[600:1200].astype(np.float32), shipped.chains[1].vectors)
    assert np.array_equal(ids[600:1200], shipped.chains[1].ids)


def test_every_vector_has_length_one_but_for_float16(shipped: Chains) -> None:
    lengths = [np.linalg.norm(chain.vectors, axis=1) for chain in shipped.chains]
    assert np.allclose(lengths, 1, atol=5e-4)
    assert shipped.mean.shape == (768,)
    assert 0.3 < np.linalg.norm(shipped.mean) < 0.9


def test_an_id_is_the_hash_of_its_text_so_both_are_unique(shipped: Chains) -> None:
    ids = np.concatenate([chain.ids for chain in shipped.chains])
    texts = [text for chain in shipped.chains for text in chain.texts]
    assert ids.min() > 0
    assert ids.max() < 2**48
    assert np.unique(ids).size == len(set(texts)) == 7200
    assert [identify(text) for text in texts] == ids.tolist()


def test_a_chunk_is_about_twenty_tokens_of_readable_prose(shipped: Chains) -> None:
    words = np.array([len(text.split()) for chain in shipped.chains for text in chain.texts])
    # an English word of this prose is about 1.35 tokens of the encoder
    assert 12 <= words.mean() <= 18
    assert words.max() <= 32
    for chain in shipped.chains:
        prose = " ".join(chain.texts)
        assert sum(character.isalpha() or character == " " for character in prose) > 0.9 * len(
            prose
        )


def test_the_next_chunk_is_nearer_than_a_random_one(shipped: Chains) -> None:
    generator = np.random.default_rng(0)
    bank = np.concatenate([chain.vectors for chain in shipped.chains])
    for chain in shipped.chains:
        here, after = chain.vectors[:-1], chain.vectors[1:]
        random = bank[generator.integers(len(bank), size=len(here))]
        following = (here * after).sum(axis=1)
        assert (following > (here * random).sum(axis=1)).mean() > 0.85
        assert following.mean() > 0.2


def test_repeating_the_last_vector_finds_the_next_chunk_far_above_chance(shipped: Chains) -> None:
    bank = np.concatenate([chain.vectors for chain in shipped.chains])
    hits = []
    for start in range(0, len(bank), 600):
        lasts = np.arange(start + 100, start + 599, 10)
        for last, scores in zip(lasts, bank[lasts] @ bank.T, strict=True):
            scores[start : last + 1] = -1  # a context is no candidate
            hits.append((scores > scores[last + 1]).sum() < 5)
    assert 0.15 < np.mean(hits) < 0.5  # chance: 0.0007; 1 would leave a model nothing to do


def test_licence_owner_and_place_are_recorded_for_every_chain(shipped: Chains) -> None:
    notices = (SHIPPED.parent / "README.md").read_text(encoding="utf-8")
    for chain in shipped.chains:
        source = chain.source
        assert source.licence in notices
        assert source.package in notices
        assert chain.title in notices
        assert source.copyright
        assert source.version
        assert source.files
    assert "all-MiniLM-L6-v2" in shipped.encoder
    assert "mean" in shipped.pooling


def test_a_chain_shows_itself_in_one_line(shipped: Chains) -> None:
    assert repr(shipped.chains[0]) == "<Chain 'Python 3.11: Data model': 600 chunks, PSF-2.0>"


def test_a_missing_file_says_how_to_build_it(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"does not exist: .*python -m backends\.training"):
        load_chains(tmp_path / "none.npz")


@pytest.mark.parametrize("kept", [0, 10, 5_000_000])
def test_a_truncated_file_is_called_damaged(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.npz"
    path.write_bytes(SHIPPED.read_bytes()[:kept])
    with pytest.raises(ArchiveError, match=r"cut\.npz is damaged"):
        load_chains(path)


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "flipped.npz"
    content = bytearray(SHIPPED.read_bytes())
    content[3_000_000] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="is damaged"):
        load_chains(path)


def test_a_file_of_pickled_objects_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "pickled.npz"
    names = ("vectors", "ids", "chain", "text", "text_offsets", "mean", "about")
    np.savez(path, **{name: np.array([{}], dtype=object) for name in names})  # type: ignore[arg-type]  # numpy has allow_pickle among them
    with pytest.raises(ArchiveError, match="is damaged or no"):
        load_chains(path)


BROKEN: dict[str, Break] = {
    "lacks the array ids": lambda a: a.pop("ids"),
    "holds vectors as float32 with 2 dimensions": lambda a: a.update(
        vectors=np.ones((3, 768), "f4")
    ),
    "holds 2 ids but 3 vectors": lambda a: a.update(ids=a["ids"][:2]),
    "not 768 numbers wide": lambda a: a.update(vectors=a["vectors"][:, :700]),
    "not finite": lambda a: a.update(vectors=np.full((3, 768), np.nan, "f2")),
    "not positive or occurs twice": lambda a: a.update(ids=np.array([1, 2, 2])),
    "holds the same text twice": lambda a: a.update(text=np.frombuffer(b"ababbb", "u1")),
    "text_offsets must rise": lambda a: a.update(text_offsets=np.array([0, 4, 2, 6])),
    "cannot be decoded: .*utf-8": lambda a: a.update(text=np.full(6, 255, "u1")),
    "cannot be decoded: .*validation error": lambda a: a.update(about=np.frombuffer(b"{}", "u1")),
    "do not run through chains 0 to 0 in order": lambda a: a.update(
        chain=np.array([0, 1, 0], "i2")
    ),
}


@pytest.mark.parametrize(("words", "damage"), BROKEN.items())
def test_a_wrong_array_is_named(tmp_path: Path, words: str, damage: Break) -> None:
    source = '{"title":"t","package":"p","version":"1","files":["f"],"licence":"l","copyright":"c"}'
    about = f'{{"encoder":"e","pooling":"p","chains":[{source}]}}'.encode()
    arrays: dict[str, Any] = {
        "vectors": np.ones((3, 768), "f2"),
        "ids": np.array([1, 2, 3]),
        "chain": np.zeros(3, "i2"),
        "text": np.frombuffer(b"aabbcc", "u1"),
        "text_offsets": np.array([0, 2, 4, 6]),
        "mean": np.zeros(768, "f4"),
        "about": np.frombuffer(about, "u1"),
    }
    path = tmp_path / "chains.npz"
    np.savez(path, **arrays)
    assert len(load_chains(path).chains) == 1
    damage(arrays)
    np.savez(path, **arrays)
    with pytest.raises(ArchiveError, match=words):
        load_chains(path)
