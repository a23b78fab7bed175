"""The compiled engine: the whole model on the CPU by way of native/gru.c.

All of it is float32, but for the GRU's products where `precision` is bfloat16 (native/dots.h).

Here is what surrounds the kernel: weights are packed once; a batch is laid out step after step,
longest context first; threads are handed their parts; the head, which runs once a context, is a few
products and numpy. Agreement with torch is a test.
"""

import ctypes
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from backends.engine import library
from backends.engine.packing import Kind, Packed, by_unit, pack
from backends.engine.port import Capabilities, GivenUpError, Piece, Precision, Reading, State
from backends.protocol import Floats
from backends.shape import DIMENSION, HIDDEN, LAYERS
from backends.weights import Weights

_WORTH_SHARING: Final = 8
"""Steps from which waking other threads costs less than they save."""
_KEPT_BYTES: Final = 40 << 20
"""The largest array that is kept for the next batch: 16 windows of 500 vectors need 33 MB."""
_SHORTEST: Final = np.float32(1e-12)
"""torch.nn.functional.normalize's: what a shorter vector is divided by."""


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """A packed matrix, and what the kernel knows it by: its addresses, so it must be kept."""

    packed: Packed
    matrix: library.Matrix


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a batch's vectors stand: see the head of gru.c.

    `order` [B]: pieces, longest first. `counts` [steps]: rows of a step. `begins` [steps]: the
    packed row at which a step begins; row b of it is of piece b in `order`. `last` [B]: the packed
    row at which each piece, in `order`, ends.
    """

    order: list[int]
    counts: NDArray[np.int32]
    begins: NDArray[np.intp]
    last: NDArray[np.int32]


class _Rooms:
    """Memory that every batch needs, kept: what is new each time costs a page fault a page."""

    def __init__(self) -> None:
        self._held: dict[str, Floats] = {}

    def take(self, name: str, *shape: int) -> Floats:
        """Give an array of this shape, not cleared: the one of that name that was there before."""
        size = math.prod(shape)
        held = self._held.get(name)
        if held is None or held.size < size:
            held = np.empty(size, dtype=np.float32)
            if held.nbytes <= _KEPT_BYTES:
                self._held[name] = held
        return held[:size].reshape(shape)


class CompiledEngine:
    """Runs weights through the compiled kernel on `threads` threads.

    Raises EngineUnavailableError where there is no kernel for this machine, or none that makes
    products in `precision`.
    """

    def __init__(self, weights: Weights, *, threads: int, precision: Precision = "float32") -> None:
        self._kernel, variant = library.load()
        if precision == "bfloat16":
            library.check_dots(variant)
        self._dots = precision == "bfloat16"
        self._kept: list[_Held] = []
        self._rooms = _Rooms()
        self._meeting = library.Meeting()
        self._threads = threads
        self._others = ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="engine-part")
        arrays = weights.arrays
        self._norm = arrays["input_norm.weight"], arrays["input_norm.bias"]
        self._fused_norm = arrays["fusion.3.weight"], arrays["fusion.3.bias"]
        self._unit = weights.delta == "unit"
        self._pack_head(arrays)
        self._pack_layers(arrays)
        self._capabilities = Capabilities(
            name=f"compiled-{variant}",
            device="cpu",
            threads=threads,
            weights="float32"
            if Kind.WHOLE in {held.packed.kind for held in self._kept}
            else "bfloat16",
            precision=precision,
            ragged=True,
        )

    @property
    def capabilities(self) -> Capabilities:
        """What this engine is."""
        return self._capabilities

    def run(self, pieces: Sequence[Piece]) -> list[Reading]:
        """Read the pieces as one ragged batch."""
        layout = lay_out([len(piece.vectors) for piece in pieces])
        before = np.zeros((LAYERS, len(pieces), HIDDEN), dtype=np.float32)
        for place, i in enumerate(layout.order):
            state = pieces[i].state
            if state is not None:
                before[:, place] = state
        with np.errstate(all="ignore"):  # what is not finite is the caller's to see
            after = self._walk(self._laid_out(pieces, layout), before, layout)
            lasts = np.stack([pieces[i].vectors[-1] for i in layout.order])
            predicted = self._predicted(lasts, np.ascontiguousarray(after[-1]))
        readings: list[Any] = [None] * len(pieces)
        for place, i in enumerate(layout.order):
            readings[i] = Reading(predicted[place], np.ascontiguousarray(after[:, place]))
        return readings

    def predict(self, lasts: Floats, states: Sequence[State]) -> Floats:
        """Predict from states: the head alone."""
        with np.errstate(all="ignore"):
            return self._predicted(lasts, np.stack([state[-1] for state in states]))

    def _predicted(self, lasts: Floats, state: Floats) -> Floats:
        """Predict from last vectors [B, 768] and the last layer's state [B, 512]."""
        return _unit(lasts + self._delta(state))

    def give_up(self) -> None:
        """Have the run that is under way raise GivenUpError, within a step."""
        self._meeting.stop = 1

    def _laid_out(self, pieces: Sequence[Piece], layout: _Layout) -> Floats:
        """Normalize the pieces' vectors and put them where the layout has them: [total, 768]."""
        rows = self._rooms.take("rows", int(layout.counts.sum()), DIMENSION)
        for place, i in enumerate(layout.order):
            vectors = np.ascontiguousarray(pieces[i].vectors, dtype=np.float32)
            rows[layout.begins[: len(vectors)] + place] = self._normalized(vectors, self._norm)
        return rows

    def _walk(self, rows: Floats, before: State, layout: _Layout) -> State:
        """Run all layers: rows [total, 768] and states [4, B, 512] -> states after, [4, B, 512]."""
        steps, batch = len(layout.counts), len(layout.order)
        outs = self._rooms.take("outs", 2, len(rows), HIDDEN)
        after = np.empty_like(before)
        parts = self._threads if steps >= _WORTH_SHARING else 1
        widths = 3 * HIDDEN + (parts * DIMENSION if self._dots else 0)  # see gru_walk's `room`
        room = self._rooms.take("room", self._kernel.rows_of_a_block() + batch, widths)
        meeting = self._meeting = library.Meeting()

        def walk(part: int) -> None:
            self._kernel.gru_walk(
                self._into, self._over, LAYERS, rows.ctypes.data, before.ctypes.data,
                layout.counts.ctypes.data, steps, layout.last.ctypes.data, outs.ctypes.data,
                room.ctypes.data, after.ctypes.data, part, parts, ctypes.byref(meeting),
            )  # fmt: skip

        others = [self._others.submit(walk, part) for part in range(1, parts)]
        walk(0)
        for other in others:
            other.result()
        if meeting.over:
            raise GivenUpError
        return after

    def _delta(self, state: Floats) -> Floats:
        """Compute model.py's delta: [B, 512] -> [B, 768]."""
        fused = self._product(self._fusion, np.concatenate([state, self._read(state)], axis=1))
        self._kernel.gelu(fused.ctypes.data, fused.size)
        head = self._product(self._middle, self._normalized(fused, self._fused_norm))
        self._kernel.gelu(head.ctypes.data, head.size)
        raw = self._product(self._out, head)
        return _unit(raw) if self._unit else raw

    def _read(self, state: Floats) -> Floats:
        """Read the memory: [B, 512] -> [B, 768]."""
        query = _unit(self._product(self._query, state))
        likeness = self._product(self._slots, query)  # cosines, so no maximum need be taken off
        chances = np.exp(likeness)
        chances /= chances.sum(axis=1, keepdims=True)
        return self._product(self._contents, chances)

    def _product(self, by: _Held, rows: Floats) -> Floats:
        """Multiply rows [B, depth] with a packed matrix: [B, columns]."""
        out = np.empty((len(rows), by.packed.scales.size), dtype=np.float32)
        self._kernel.linear(ctypes.byref(by.matrix), rows.ctypes.data, len(rows), out.ctypes.data)
        return np.ascontiguousarray(out[:, : by.packed.columns])

    def _normalized(self, rows: Floats, norm: tuple[Floats, Floats]) -> Floats:
        out = np.empty_like(rows)
        gain, bias = norm
        self._kernel.layer_norm(
            rows.ctypes.data, len(rows), rows.shape[1],
            gain.ctypes.data, bias.ctypes.data, out.ctypes.data,
        )  # fmt: skip
        return out

    def _pack(
        self,
        matrix: Floats,
        bias: Floats | None = None,
        scales: Floats | None = None,
        dots: Kind | None = None,
    ) -> _Held:
        packed = pack(matrix, bias, scales, lanes=self._kernel.lanes_of_a_vector(), dots=dots)
        held = _Held(packed, library.matrix(packed))
        self._kept.append(held)
        return held

    def _pack_head(self, arrays: dict[str, Floats]) -> None:
        memory = arrays["memory.memory"]
        lengths = np.maximum(np.linalg.norm(memory, axis=1), _SHORTEST)
        self._query = self._pack(
            arrays["memory.query_proj.weight"], arrays["memory.query_proj.bias"]
        )
        # Dividing a column's product, not the slot's numbers, leaves those in bfloat16.
        self._slots = self._pack(memory, scales=(1 / lengths).astype(np.float32))
        self._contents = self._pack(memory.T)
        self._fusion = self._pack(arrays["fusion.0.weight"], arrays["fusion.0.bias"])
        self._middle = self._pack(arrays["output_proj.0.weight"], arrays["output_proj.0.bias"])
        self._out = self._pack(arrays["output_proj.3.weight"], arrays["output_proj.3.bias"])

    def _pack_layers(self, arrays: dict[str, Floats]) -> None:
        order = by_unit()
        into_dots = Kind.FINE_DEPTH_PAIRS if self._dots else None
        over_dots = Kind.DEPTH_PAIRS if self._dots else None
        first = self._read(np.zeros((1, HIDDEN), dtype=np.float32))[0]  # the same at every step
        self._into, self._over = (library.Matrix * LAYERS)(), (library.Matrix * LAYERS)()
        for layer in range(LAYERS):
            into, bias = arrays[f"gru.weight_ih_l{layer}"], arrays[f"gru.bias_ih_l{layer}"]
            if layer == 0:
                bias = bias + into[:, DIMENSION:] @ first
                into = into[:, :DIMENSION]
            over = arrays[f"gru.weight_hh_l{layer}"], arrays[f"gru.bias_hh_l{layer}"]
            self._into[layer] = self._pack(into[order], bias[order], dots=into_dots).matrix
            held = self._pack(over[0][order], over[1][order], dots=over_dots)
            self._over[layer] = held.matrix


def lay_out(lengths: Sequence[int]) -> _Layout:
    """Lay a batch of pieces of these lengths out, step after step, longest first. Pure."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    sizes = np.array([lengths[i] for i in order])
    steps = np.arange(sizes[0])
    counts = (sizes[None, :] > steps[:, None]).sum(axis=1, dtype=np.int32)
    begins = np.concatenate([[0], np.cumsum(counts)[:-1]])
    last = begins[sizes - 1] + np.arange(len(sizes))
    return _Layout(order, counts, begins, last.astype(np.int32))


def _unit(rows: Floats) -> Floats:
    """Bring rows [B, 768] to length 1, as torch.nn.functional.normalize does.

    A row whose length overflows becomes not a number, not the zeros that dividing by it would give.
    """
    lengths = np.sqrt(np.einsum("bi,bi->b", rows, rows))[:, None]
    lengths[~np.isfinite(lengths)] = np.nan
    brought: Floats = rows / np.maximum(lengths, _SHORTEST)
    return brought
