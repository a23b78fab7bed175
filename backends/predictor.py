"""One request's work, start to end, in the engine's thread: window, model, neighbours."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.bank import Bank
from backends.engine.port import Engine
from backends.errors import NotFiniteError
from backends.protocol import Prediction, Request


@dataclass(frozen=True, slots=True)
class Predictor:
    """An engine, a bank, and what they are. `window` is in vectors, `checkpoint` a sha256."""

    engine: Engine
    bank: Bank
    window: int
    checkpoint: str
    trained: bool

    def predict(self, request: Request) -> Prediction:
        """Predict from the newest `window` vectors; neighbours exclude the whole context.

        Raises NotFiniteError when the model's answer is not finite, which the context is.
        """
        window = request.context[-self.window :]
        with np.errstate(all="ignore"):
            vector = self.engine.run(window)
        if not np.isfinite(vector).all():
            raise NotFiniteError(
                "the engine failed: the model's answer is not finite, though every number of the "
                f"context is (the largest is {np.abs(window).max():.3g}; vectors of length 1 are "
                "expected)"
            )
        exclude = request.context if request.exclude_context else None
        ids, scores = self.bank.search(vector, request.top_k, exclude)
        return Prediction(
            vector=vector,
            ids=ids,
            scores=scores,
            length=request.length,
            window=len(window),
            checkpoint=self.checkpoint,
            bank=self.bank.identity,
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What the model's metadata says about it."""
        engine = self.engine.capabilities
        return {
            "window": self.window,
            "trained": self.trained,
            "weights": "trained weights" if self.trained else "untrained weights",
            "checkpoint": self.checkpoint,
            "bank": self.bank.identity,
            "bank_size": self.bank.size,
            "engine": engine.name,
            "device": engine.device,
            "threads": engine.threads,
        }
