"""The figure that stops a training: Hit@5 of held-back chains, their context left out."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from backends.model import MemoryAugmentedGRU
from backends.protocol import DIMENSION
from backends.training.baselines import WATCHED
from backends.training.corpus import Corpus
from backends.training.ranks import Floats, Ints, rank_truths, summarize
from backends.training.recipe import Recipe
from backends.training.recurrence import predict_positions, read_window
from backends.training.windows import Window, cut_windows

_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Validation:
    """Fixed queries, (window, position) each, and the candidates: `bank` [N, 768], their rows."""

    windows: tuple[Window, ...]
    queries: NDArray[np.int64]
    bank: NDArray[np.float16]
    rows: Ints


def prepare(
    corpus: Corpus, spans: list[tuple[int, int]], elsewhere: Ints, recipe: Recipe
) -> Validation:
    """Choose queries from `spans`; candidates are all their rows and some of `elsewhere`."""
    rng = np.random.default_rng([recipe.seed, 1])
    windows = cut_windows(spans, recipe.context_length, 0)
    pairs = [(w, p) for w, window in enumerate(windows) for p in range(window.length)]
    count = min(recipe.validation_queries, len(pairs))
    queries = np.array([pairs[i] for i in np.sort(rng.choice(len(pairs), count, replace=False))])
    own = np.concatenate([np.arange(*span) for span in spans])
    more = min(max(0, recipe.validation_bank - own.size), elsewhere.size)
    others = rng.choice(elsewhere, more, replace=False)
    rows = np.sort(np.concatenate([own, others])).astype(np.int64)
    return Validation(tuple(windows), queries, corpus.vectors[rows], rows)


def validate(
    model: MemoryAugmentedGRU, corpus: Corpus, validation: Validation, dtype: torch.dtype
) -> dict[str, float]:
    """Return Hit@1/5/10, MRR and cosine of the model, and of the watched baselines."""
    asked = [validation.windows[window] for window, _ in validation.queries]
    at = np.array([w.start + p for w, (_, p) in zip(asked, validation.queries, strict=True)])
    last = corpus.vectors[at].astype(np.float32)
    truths = corpus.vectors[at + 1].astype(np.float32)
    begins = np.array([window.start for window in asked])
    contexts = [
        np.arange(*np.searchsorted(validation.rows, (begin, row + 1)))
        for begin, row in zip(begins, at, strict=True)
    ]
    predicted = _predict(model, corpus, validation, last, dtype)

    def figures(vectors: Floats) -> dict[str, float]:
        ranks = rank_truths(vectors, truths, validation.bank, contexts)
        return dict(summarize(ranks, (vectors * truths).sum(axis=1)))

    found = figures(predicted)
    for baseline in WATCHED:
        vectors = baseline.predict(corpus.vectors, begins, at + 1)
        found |= {f"{baseline.short}_{name}": value for name, value in figures(vectors).items()}
    return found


@torch.inference_mode()
def _predict(
    model: MemoryAugmentedGRU,
    corpus: Corpus,
    validation: Validation,
    last: Floats,
    dtype: torch.dtype,
) -> Floats:
    model.eval()
    predicted = np.empty_like(last)
    asked = validation.queries
    for first in range(0, len(validation.windows), _AT_ONCE):
        windows = validation.windows[first : first + _AT_ONCE]
        mine = np.flatnonzero((asked[:, 0] >= first) & (asked[:, 0] < first + len(windows)))
        if not mine.size:
            continue
        states = read_window(model, context_of(corpus, windows), dtype)
        chosen = states[asked[mine, 0] - first, asked[mine, 1]]
        predicted[mine] = predict_positions(model, torch.from_numpy(last[mine]), chosen).numpy()
    return predicted


def context_of(corpus: Corpus, windows: tuple[Window, ...] | list[Window]) -> torch.Tensor:
    """Read windows as float32 [B, n, 768]; the shorter ones end in zeros, which nothing reads."""
    shape = (len(windows), max(window.length for window in windows), DIMENSION)
    context = np.zeros(shape, dtype=np.float32)
    for row, window in enumerate(windows):
        context[row, : window.length] = corpus.vectors[window.start : window.start + window.length]
    return torch.from_numpy(context)
