"""One contestant in a process of its own: plain eager `torch.nn.GRU`, or one of our engines.

A process each, because two engines in one would share thread pools, and the threads that one keeps
spinning would slow the other. The parent sends a JSON line, and gets one back:

    {"do": "warm", "length": n}
    {"do": "time", "count": c, "length": n, "draw": d}    c windows of n vectors at once
    {"do": "grow", "length": n, "draw": d}                n vectors, all but the last one known
    {"do": "agree", "scratch": k, "continued": m, "folder": path}   (bench_agreement)

What is timed is the engine's work alone: the baseline's input is normalised and concatenated
before, and it has no head, no second memory read and no neighbours to find.
"""

import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_adapter import EAGER, Adapter, Spec, weights_of
from bench_agreement import answer_continued, answer_from_scratch
from bench_contexts import window

from backends.engine.port import State
from backends.protocol import DIMENSION, Floats

Command = dict[str, Any]


class Baseline:
    """The GRU of the same weights as torch runs it: 1,536 wide, 4 layers of 512, float32."""

    continues = False

    def __init__(self, spec: Spec) -> None:
        torch.set_num_threads(spec.threads)
        self._model = weights_of(spec).model

    @torch.inference_mode()
    def timed(self, windows: list[Floats]) -> float:
        """Run windows of one length as a batch: seconds."""
        context = torch.tensor(np.stack(windows))  # [B, n, 768]
        read = self._model.first_read().expand(*context.shape[:2], DIMENSION)
        wide = torch.cat([self._model.input_norm(context), read], dim=-1)  # [B, n, 1536]
        began = time.perf_counter()
        self._model.gru(wide)
        return time.perf_counter() - began

    def grown(self, whole: Floats, _: int) -> float:
        """Read all of it again, which is what there is to do without states."""
        return self.timed([whole])


class Ours:
    """An engine of ours, behind the adapter."""

    def __init__(self, spec: Spec) -> None:
        self.adapter = Adapter(spec)
        self._state_before = functools.lru_cache(maxsize=64)(self._read_before)

    continues = True

    def timed(self, windows: list[Floats]) -> float:
        """Run windows from their start: seconds."""
        began = time.perf_counter()
        self.adapter.read(windows)
        return time.perf_counter() - began

    def grown(self, whole: Floats, draw: int) -> float:
        """Read the last vector after the state before it; all of it where there are no states."""
        state = self._state_before(draw, len(whole))
        began = time.perf_counter()
        self.adapter.read([whole[-1:]], [state])
        return time.perf_counter() - began

    def _read_before(self, draw: int, length: int) -> State:
        return self.adapter.read([window(draw, length)[:-1]])[0].state


def main() -> None:
    """Answer commands until the input ends."""
    spec = Spec(**json.loads(sys.argv[1]))
    contestant = Baseline(spec) if spec.engine == EAGER else Ours(spec)
    _say({"continues": contestant.continues})
    for text in sys.stdin:
        _say(_obey(contestant, json.loads(text)))


def _obey(contestant: Baseline | Ours, command: Command) -> Command:
    match command:
        case {"do": "warm", "length": length}:
            contestant.timed([window(0, length)])
            return {}
        case {"do": "time", "count": count, "length": length, "draw": draw}:
            windows = [window(draw + place, length) for place in range(count)]
            return {"seconds": contestant.timed(windows)}
        case {"do": "grow", "length": length, "draw": draw}:
            return {"seconds": contestant.grown(window(draw, length), draw)}
        case {"do": "agree", "scratch": scratch, "continued": continued, "folder": folder}:
            assert isinstance(contestant, Ours)
            read: Callable[..., Any] = contestant.adapter.read
            answer_from_scratch(read, scratch, Path(folder))
            answer_continued(read, continued if contestant.continues else 0, Path(folder))
            return {}
    raise ValueError(f"no such command: {command}")


def _say(answer: Command) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
