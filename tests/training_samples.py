"""A tiny corpus and a tiny sample: chains that walk through 768 dimensions."""

from pathlib import Path

import numpy as np

from backends.training.archive import About, Archive, Source, write_archive
from backends.training.corpus import Corpus, open_corpus, write_corpus


def source(title: str, licence: str = "CC0-1.0") -> Source:
    return Source(
        title=title, package="p", version="1", files=("f",), licence=licence, copyright="none"
    )


def make_corpus(
    folder: Path, chains: int = 30, length: int = 24, licence: str = "CC0-1.0", first_id: int = 1
) -> Corpus:
    rng = np.random.default_rng(0)
    rows = chains * length
    steps = rng.normal(size=(rows, 768)).astype(np.float32)
    vectors = np.concatenate(
        [np.cumsum(steps[i : i + length], axis=0) for i in range(0, rows, length)]
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "vectors.npy", vectors.astype(np.float16))
    sources = tuple(source(f"chain {i}", licence) for i in range(chains))
    about = About(encoder="none", pooling="none", chains=sources)
    write_corpus(
        folder,
        about,
        ids=np.arange(first_id, first_id + rows, dtype=np.int64),
        chain=np.repeat(np.arange(chains, dtype=np.int16), length),
        text=np.zeros(rows, dtype=np.uint8) + ord("a"),
        text_offsets=np.arange(rows + 1, dtype=np.int64),
        mean=np.zeros(768, dtype=np.float32),
    )
    return open_corpus(folder)


def make_sample(path: Path) -> Archive:
    """Write a sample of two chains that no corpus of `make_corpus` shares a text with."""
    made = make_corpus(path.parent / f"{path.stem}-made", chains=2, first_id=10_000)
    archive = Archive(
        vectors=np.asarray(made.vectors),
        ids=made.ids,
        chain=made.chain,
        texts=tuple(f"text {i}" for i in range(48)),
        mean=made.mean,
        about=About(encoder="e", pooling="p", chains=(source("a"), source("b"))),
    )
    write_archive(path, archive)
    return archive
