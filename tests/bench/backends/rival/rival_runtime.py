"""The rival: the same model in plain eager torch, float32, served by MLServer and its own batching.

It runs in an environment of its own and does the work of our model server: window, model, top 10
of the same bank. It is given what suits it best:

- MLServer's REST door knows no binary tensors, and a list of floats would cost it more than the
  model does. So a context comes as base64 of its little-endian float32, one BYTES element: the
  batcher joins such elements as they are, whatever the lengths.
- A batch is padded at the end to its longest context. The GRU is causal, so what is padded costs
  time but changes nothing: each row's state is taken at its own last vector.
- It need not leave the context's own vectors out of the neighbours, which ours does.

Every answer says how long its batch took and what it held (`engine_s`, `steps`, `padded`).
"""

import asyncio
import base64
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse, Parameters
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from backends import checkpoint
from backends.model import predict
from backends.shape import DIMENSION

TOP_K = 10
Floats = NDArray[np.float32]


class LvmRuntime(MLModel):  # type: ignore[misc]  # MLServer is not installed where types are checked
    """One model. RIVAL_* in the environment name the bank, the checkpoint or seed, the threads."""

    async def load(self) -> bool:
        """Load the model and the bank, and warm up at the longest window."""
        threads = int(os.environ["RIVAL_THREADS"])
        self._window = int(os.environ["RIVAL_WINDOW"])
        # "loop": the model runs in the event loop, as MLServer's own examples do. "thread": beside
        # it, one batch at a time, so that requests are read meanwhile.
        in_loop = os.environ["RIVAL_RUNS_IN"] == "loop"
        torch.set_num_threads(threads)
        one = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,))
        self._thread = None if in_loop else one
        path, seed = os.environ.get("RIVAL_CHECKPOINT"), int(os.environ["RIVAL_SEED"])
        self._model = (checkpoint.load(Path(path)) if path else checkpoint.seeded(seed)).model
        with np.load(os.environ["RIVAL_BANK"], allow_pickle=False) as bank:
            vectors, self._ids = bank["vectors"].astype(np.float32), bank["ids"]
        faiss.omp_set_num_threads(1)
        self._index = faiss.IndexFlatIP(DIMENSION)
        self._index.add(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        self._work([np.zeros((self._window, DIMENSION), np.float32)])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a batch: one base64 text for each context."""
        texts = payload.inputs[0].data.root
        if self._thread is None:
            return self._answer(texts)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, texts)

    def _answer(self, texts: list[str]) -> InferenceResponse:
        contexts = [
            np.frombuffer(base64.b64decode(text), "<f4").reshape(-1, DIMENSION)[-self._window :]
            for text in texts
        ]
        began = time.perf_counter()
        vectors, scores, rows = self._work(contexts)
        lengths = [len(context) for context in contexts]
        facts = {
            "engine_s": time.perf_counter() - began,
            "steps": sum(lengths),
            "padded": max(lengths) * len(lengths),
        }
        return InferenceResponse(
            model_name=self.name,
            parameters=Parameters(**facts),
            outputs=[
                NumpyCodec.encode_output("PREDICTION", vectors),
                NumpyCodec.encode_output("NEIGHBOR_IDS", self._ids[rows]),
                NumpyCodec.encode_output("NEIGHBOR_SCORES", scores),
            ],
        )

    @torch.inference_mode()
    def _work(self, contexts: list[Floats]) -> tuple[Any, Any, Any]:
        """Predict: B contexts [n, 768] -> vectors [B, 768], scores [B, 10], rows [B, 10]."""
        model = self._model
        tensors = [torch.tensor(context) for context in contexts]
        last = torch.stack([tensor[-1:] for tensor in tensors])  # [B, 1, 768]
        ends = torch.tensor([len(tensor) - 1 for tensor in tensors])
        padded = pad_sequence(tensors, batch_first=True)  # [B, longest, 768]
        read = model.first_read().expand(*padded.shape[:2], DIMENSION)
        states, _ = model.gru(torch.cat([model.input_norm(padded), read], dim=-1))
        delta = model.delta(states[torch.arange(len(tensors)), ends])
        vectors = predict(last, delta).numpy()
        scores, rows = self._index.search(vectors, TOP_K)
        return vectors, scores, rows
