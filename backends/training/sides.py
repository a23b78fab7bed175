"""The corpus, divided: which rows train, validate and are held out, after the quality gates."""

from dataclasses import dataclass

import numpy as np

from backends.training.corpus import Corpus
from backends.training.ranks import Ints
from backends.training.split import check_leaks, split_chains

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Sides:
    """The rows [from, to) of each chain of each side, and the line that proves them apart."""

    train: tuple[Span, ...]
    validation: tuple[Span, ...]
    test: tuple[Span, ...]
    proof: str


def divide(
    corpus: Corpus, demo_ids: Ints, *, seed: int, min_chain: int = 7, coherence: float = -1.0
) -> Sides:
    """Divide the corpus by chains. The quality gates hold for training chains alone.

    `demo_ids` are the ids of the sample's chunks, held out whatever the seed. Raises
    split.LeakError when a text stands on two sides.
    """
    starts = corpus.starts
    split = split_chains([source.title for source in corpus.about.chains], seed)

    def spans(chains: tuple[int, ...]) -> tuple[Span, ...]:
        return tuple((int(starts[chain]), int(starts[chain + 1])) for chain in chains)

    sides = {"train": split.train, "validation": split.validation, "test": split.test}
    ids = {
        name: np.concatenate([corpus.ids[slice(*span)] for span in spans(chains)] or [demo_ids[:0]])
        for name, chains in sides.items()
    }
    proof = check_leaks({**ids, "demo": demo_ids}, sides)
    good = tuple(
        span
        for span in spans(split.train)
        if span[1] - span[0] >= min_chain and (coherence <= -1 or cohere(corpus, span) >= coherence)
    )
    return Sides(good, spans(split.validation), spans(split.test), proof)


def cohere(corpus: Corpus, span: Span) -> float:
    """Return the mean cosine of a chain's neighbouring chunks."""
    vectors = corpus.vectors[slice(*span)].astype(np.float32)
    return float((vectors[1:] * vectors[:-1]).sum(axis=1).mean())
