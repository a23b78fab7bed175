"""Build the training corpus: packages -> pages -> chunks -> chains -> vectors, resumable.

    cut      each package's pages to chunks           OUT/cut/PACKAGE.json
    choose   which pages and chunks, in which chain    in memory: a function of the cuts
    embed    shards, by default of 16,384 chunks       OUT/raw-FINGERPRINT/00000.npy
    write    the corpus                                OUT/vectors.npy ... OUT/about.json

Each file is written whole or not at all, so a build that was killed goes on where it stopped.
The fingerprint is that of the chosen texts, the encoder and the shards' size: other texts never
meet old vectors. `about.json` is written last and taken away first, so that a corpus that looks
whole is whole; one that is whole already is left as it is. Vectors are centred with the mean of
the sample that ships (deploy/data/README.md): one space for all.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter
from rich.progress import Progress

from backends.training.archive import About, ArchiveError, Source, identify
from backends.training.chunking import TokenCounter, cut_into_chunks
from backends.training.copies import CHUNK_SHARE, PAGE_SHARE, runs_of, share_copied
from backends.training.corpus import open_corpus, remove_about, write_corpus
from backends.training.documents import Package, extract_paragraphs, fetch, read_paragraphs
from backends.training.encoder import POOLING, Encoder, Floats, center
from backends.training.pod import extract_pod_paragraphs
from backends.training.ranks import Ints
from backends.training.sample import DOCUMENTS
from backends.training.sources import COLLECTIONS, Collection, group_pages, reading_order

CHUNKS_PER_CHAIN: Final = 600
MIN_CHAIN: Final = 7
SHARD: Final = 16_384

Say = Callable[[str], None]


class Page(BaseModel):
    """One page of a collection, cut: its path in the package, its shelf, and its chunks."""

    model_config = ConfigDict(frozen=True)

    file: str
    shelf: str
    chunks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain-to-be: where it comes from and its chunks, in reading order."""

    source: Source
    chunks: tuple[str, ...]


_PAGES: Final = TypeAdapter(tuple[Page, ...])


def build_corpus(
    out: Path, packages: Path, mean: Floats, progress: Progress, shard: int = SHARD
) -> None:
    """Build the corpus in `out`, with the .deb files in `packages`; `mean` is the sample's [768].

    A kill costs the embedding of at most `shard` chunks.

    Raises documents.DocumentError and encoder.EncoderMissingError.
    """
    say = progress.console.print
    encoder = Encoder(fast=True)
    wanted = dict.fromkeys([c.package for c in COLLECTIONS] + [d.package for d in DOCUMENTS])
    fetched = {
        name: fetch(name, packages)
        for name in progress.track(wanted, description="fetching packages")
    }
    counter = _remembering(encoder.count_tokens)
    task = progress.add_task("cutting packages", total=len(COLLECTIONS))
    cuts: list[tuple[Collection, Package, tuple[Page, ...]]] = []
    for collection in COLLECTIONS:
        package = fetched[collection.package]
        cuts.append(
            (collection, package, _cut(collection, package, out / "cut", counter, progress))
        )
        progress.advance(task)
    held_out = {
        file: read_paragraphs(fetched[document.package], (file,))
        for document in DOCUMENTS
        for file in document.files
    }
    chains = choose_chains(cuts, held_out, say)
    say(f"{len(chains)} chains, {sum(len(c.chunks) for c in chains)} distinct chunks")
    _embed_and_write(out, chains, mean, encoder, progress, shard)


def _remembering(count_tokens: TokenCounter) -> TokenCounter:
    """Count each distinct word once: prose repeats itself."""
    known: dict[str, int] = {}

    def count(words: Sequence[str]) -> list[int]:
        new = list({word for word in words if word not in known})
        known.update(zip(new, count_tokens(new), strict=True))
        return [known[word] for word in words]

    return count


def _cut(
    collection: Collection, package: Package, folder: Path, counter: TokenCounter, bar: Progress
) -> tuple[Page, ...]:
    path = folder / f"{package.name}_{package.version}.json"
    if path.exists():
        return _PAGES.validate_json(path.read_bytes())
    files = (str(file.relative_to(package.root)) for file in package.root.rglob("*"))
    texts = {
        file: (package.root / file).read_text(encoding="utf-8", errors="replace")
        for file in sorted(files)
        if collection.chooses(file) and (package.root / file).is_file()
    }
    extract = extract_pod_paragraphs if collection.suffix == ".pod" else extract_paragraphs
    task = bar.add_task(package.name, total=len(texts))
    pages: list[Page] = []
    for file in reading_order(texts):
        chunks = cut_into_chunks(extract(texts[file]), counter)
        pages.append(Page(file=file, shelf=collection.shelf(file), chunks=tuple(chunks)))
        bar.advance(task)
    bar.remove_task(task)
    _write_whole(path, _PAGES.dump_json(tuple(pages)))
    return tuple(pages)


def choose_chains(
    cuts: Iterable[tuple[Collection, Package, Sequence[Page]]],
    held_out: dict[str, list[str]],
    say: Say,
) -> list[Chain]:
    """Choose what is learned from: no held-out page, no near copy of one, no text twice.

    `held_out` is each held-out file's paragraphs. `say` is told what was left out, and why.
    """
    runs = runs_of(text for paragraphs in held_out.values() for text in paragraphs)
    seen: set[str] = set()
    chains: list[Chain] = []
    for collection, package, pages in cuts:
        kept = {}
        for page in pages:
            if reason := _fault(page, held_out, runs):
                say(f"left out {collection.package}: {page.file} ({reason})")
            else:
                kept[page.file] = _keep(page.chunks, seen, runs)
        shelves = {page.file: page.shelf for page in pages}
        sizes = ((shelves[file], file, len(chunks)) for file, chunks in kept.items())
        for shelf, files in group_pages(sizes, CHUNKS_PER_CHAIN):
            chunks = tuple(chunk for file in files for chunk in kept[file])
            if len(chunks) >= MIN_CHAIN:
                chains.append(Chain(_source(collection, package, shelf, files), chunks))
    return chains


def _fault(page: Page, held_out: dict[str, list[str]], runs: set[int]) -> str:
    if page.file in held_out:
        return "held out"
    share = share_copied(page.chunks, runs)
    return f"{share:.0%} of it is held out" if share >= PAGE_SHARE else ""


def _keep(chunks: Iterable[str], seen: set[str], runs: set[int]) -> list[str]:
    kept = []
    for chunk in chunks:
        key = chunk.casefold()
        if key not in seen and share_copied([chunk], runs) < CHUNK_SHARE:
            seen.add(key)
            kept.append(chunk)
    return kept


def _source(collection: Collection, package: Package, shelf: str, files: Sequence[str]) -> Source:
    first = Path(files[0]).stem
    title = f"{package.name}: {shelf}/{first}" if shelf else f"{package.name}: {first}"
    return Source(
        title=title if len(files) == 1 else f"{title} and {len(files) - 1} more",
        package=package.name,
        version=package.version,
        files=tuple(files),
        licence=collection.licence,
        copyright=collection.copyright,
    )


def _embed_and_write(
    out: Path,
    chains: Sequence[Chain],
    mean: Floats,
    encoder: Encoder,
    progress: Progress,
    shard: int,
) -> None:
    texts = [chunk for chain in chains for chunk in chain.chunks]
    about = About(
        encoder=f"{encoder.name}, bfloat16",
        pooling=POOLING,
        chains=tuple(chain.source for chain in chains),
    )
    ids = np.array([identify(text) for text in texts], dtype=np.int64)
    if _is_whole(out, about, ids, mean):
        progress.console.print(f"{out} holds this very corpus already")
        return
    remove_about(out)
    encoded = [text.encode() for text in texts]
    named = b"\n".join([f"{about.encoder} {shard}".encode(), *encoded])
    folder = out / f"raw-{hashlib.blake2b(named, digest_size=6).hexdigest()}"
    _embed(folder, texts, encoder, progress, shard)
    vectors = np.lib.format.open_memmap(
        out / "vectors.npy", mode="w+", dtype=np.float16, shape=(len(texts), mean.size)
    )
    for index, path in enumerate(sorted(folder.glob("*.npy"))):
        rows = slice(index * shard, index * shard + shard)
        vectors[rows] = center(np.load(path).astype(np.float32), mean).astype(np.float16)
    vectors.flush()
    sizes = [len(chain.chunks) for chain in chains]
    write_corpus(
        out,
        about,
        ids=ids,
        chain=np.repeat(np.arange(len(chains), dtype=np.int16), sizes),
        text=np.frombuffer(b"".join(encoded), dtype=np.uint8),
        text_offsets=np.cumsum([0, *map(len, encoded)], dtype=np.int64),
        mean=mean,
    )
    for left in out.glob("raw-*"):  # this one's, and any that a build of other texts left behind
        shutil.rmtree(left)


def _is_whole(out: Path, about: About, ids: Ints, mean: Floats) -> bool:
    try:
        found = open_corpus(out)
    except ArchiveError:
        return False
    return (
        found.about == about and np.array_equal(found.ids, ids) and np.array_equal(found.mean, mean)
    )


def _embed(
    folder: Path, texts: Sequence[str], encoder: Encoder, progress: Progress, shard: int
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    task = progress.add_task("embedding chunks", total=len(texts))
    for start in range(0, len(texts), shard):
        some, path = texts[start : start + shard], folder / f"{start // shard:05d}.npy"
        if path.exists():
            progress.advance(task, len(some))
            continue
        raw = encoder.embed(some, lambda done: progress.advance(task, done))
        _save_whole(path, raw.astype(np.float16))


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def _save_whole(path: Path, array: np.ndarray[tuple[int, ...], np.dtype[np.float16]]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        np.save(file, array)
    partial.replace(path)
