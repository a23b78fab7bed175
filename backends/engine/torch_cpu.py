"""The reference engine: torch on the CPU, float32, one window at a time."""

from typing import Final

import numpy as np
import torch

from backends.checkpoint import Checkpoint
from backends.engine.port import Capabilities
from backends.model import DIMENSION, predict
from backends.protocol import Floats

WARM_SEED: Final = 0


class TorchEngine:
    """Runs a checkpoint's model with the first memory read folded into the GRU's bias.

    Make it in the thread that runs it: torch's thread count holds for the calling thread.
    """

    def __init__(self, checkpoint: Checkpoint, *, threads: int) -> None:
        torch.set_num_threads(threads)
        self._model = checkpoint.model
        self._gru = checkpoint.model.folded_gru()
        self._capabilities = Capabilities(name="torch", device="cpu", threads=threads)

    @property
    def capabilities(self) -> Capabilities:
        """What this engine is."""
        return self._capabilities

    def warm(self, length: int) -> None:
        """Run once at `length` vectors."""
        random = np.random.default_rng(WARM_SEED)
        self.run(random.standard_normal((length, DIMENSION), dtype=np.float32))

    @torch.inference_mode()
    def run(self, window: Floats) -> Floats:
        """Predict: window float32 [n, 768] -> float32 [768]."""
        # A copy, because a request's array may be a read-only view of its body.
        context = torch.tensor(window).unsqueeze(0)  # [1, n, 768]
        states, _ = self._gru(self._model.input_norm(context))  # [1, n, 512]
        vector: Floats = predict(context, self._model.delta(states[:, -1]))[0].numpy()
        return vector
