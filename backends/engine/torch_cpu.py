"""The reference engine: torch on the CPU or a CUDA device, float32.

Contexts of a batch are packed (torch's PackedSequence), so that a short one costs what it costs
alone.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pack_sequence

from backends.checkpoint import Checkpoint
from backends.engine.port import Capabilities, Piece, Reading, State
from backends.model import predict
from backends.protocol import Floats
from backends.shape import HIDDEN, LAYERS


class TorchEngine:
    """Runs a checkpoint's model with the first memory read folded into the GRU's bias.

    Make it in the thread that runs it: torch's thread count holds for the calling thread.
    """

    def __init__(self, checkpoint: Checkpoint, *, threads: int, device: str = "cpu") -> None:
        torch.set_num_threads(threads)
        self._device = torch.device(device)
        self._model = checkpoint.model.to(self._device)
        self._gru = checkpoint.model.folded_gru().to(self._device)
        self._gru.flatten_parameters()
        self._capabilities = Capabilities(
            name="torch",
            device=device,
            threads=threads,
            weights="float32",
            precision="float32",
            ragged=True,
        )

    @property
    def capabilities(self) -> Capabilities:
        """What this engine is."""
        return self._capabilities

    @torch.inference_mode()
    def predict(self, lasts: Floats, states: Sequence[State]) -> Floats:
        """Predict from states: the head alone."""
        last = torch.tensor(lasts, device=self._device)[:, None]  # [B, 1, 768]
        state = torch.tensor(np.stack([state[-1] for state in states]), device=self._device)
        predicted: Floats = predict(last, self._model.delta(state)).cpu().numpy()
        return predicted

    def give_up(self) -> None:
        """Do nothing: torch's run cannot be stopped."""

    @torch.inference_mode()
    def run(self, pieces: Sequence[Piece]) -> list[Reading]:
        """Read the pieces as one packed batch."""
        # Copies, because a request's array may be a read-only view of its body.
        contexts = [torch.tensor(piece.vectors, device=self._device) for piece in pieces]
        before = np.zeros((LAYERS, len(pieces), HIDDEN), dtype=np.float32)
        for place, piece in enumerate(pieces):
            if piece.state is not None:
                before[:, place] = piece.state
        packed = pack_sequence([self._model.input_norm(c) for c in contexts], enforce_sorted=False)
        _, states = self._gru(packed, torch.from_numpy(before).to(self._device))  # [4, B, 512]
        last = torch.stack([context[-1] for context in contexts])[:, None]  # [B, 1, 768]
        vectors = predict(last, self._model.delta(states[-1])).cpu().numpy()
        after = states.cpu().numpy()
        return [
            Reading(vector, np.ascontiguousarray(after[:, place]))
            for place, vector in enumerate(vectors)
        ]
