"""A gateway's batch, laid out for flush.lua and label.lua, which document the order. Pure."""

import functools
from base64 import b64decode, b64encode
from collections import Counter as Multiset
from collections.abc import Iterator
from typing import Final, NamedTuple

import orjson

from rollout import background
from rollout.background import BACKGROUND_TTL_S, HOUR, field_of
from rollout.keys import Keys
from rollout.minutes import MINUTE_S, MINUTE_TTL_S, label_slot, slot_width
from rollout.snapshot import (
    ALL_MINUTES,
    KEPT_SAMPLES,
    Batch,
    Cell,
    Observation,
    Pending,
    Role,
    Vectors,
    metric_of,
)

SEQUENCE_TTL_S: Final = 86_400
SILENT_S: Final = 3600
"""After how long without a heartbeat a gateway is forgotten."""
KEPT_KEYS: Final = 200_000
"""How many routing keys are remembered for each metric of a stage."""
KEYS_TTL_S: Final = 8 * 86_400
"""How long keys are remembered after the last one that was new: longer than a stage is silent."""


class Place(NamedTuple):
    """A hash, and what its fields begin with: `minute|stratum`."""

    key: str
    cell: str


def flush_arguments(batch: Batch, keys: Keys) -> tuple[list[str], list[str | float]]:
    """Lay a batch out for flush.lua: its KEYS and its ARGV."""
    return _Layout(keys, batch).arguments()


class _Layout:
    """A batch on its way into two flat lists."""

    def __init__(self, keys: Keys, batch: Batch) -> None:
        self._keys = keys
        self._batch = batch
        self._places: dict[str, int] = {keys.sequence(batch.boot): 1}
        self._lifetimes: dict[int, int] = {}

    def arguments(self) -> tuple[list[str], list[str | float]]:
        batch, keys = self._batch, self._keys
        counts = [(where, field, by) for (where, field), by in self._counts().items()]
        firsts = [*self._firsts(), *self._awaited_firsts()]
        samples = [
            (
                self._place(keys.samples(one.rollout, one.evidence_epoch, one.stage)),
                one.agreement,
                one.model_dump_json(),
                self._place(keys.truths(one.rollout, one.evidence_epoch, one.stage)),
                one.request_id,
            )
            for one in batch.samples
        ]
        pending = [
            (self._place(keys.pending(one.request_id)), opened(one, keys), until_ms(one))
            for one in batch.pending
        ]
        vectors = [self._vectors(one) for one in batch.vectors]
        arguments: list[str | float] = [batch.sequence, SEQUENCE_TTL_S, KEPT_SAMPLES, KEPT_KEYS]
        for items in (counts, firsts, samples, pending, vectors, list(self._lifetimes.items())):
            arguments.append(len(items))
            for item in items:
                arguments.extend(item)
        return list(self._places), arguments

    def _vectors(self, one: Vectors) -> tuple[str | int, ...]:
        cell, keys = one.cell, self._keys
        return (
            self._place(keys.slice(cell.rollout, cell.evidence_epoch, cell.stage, one.slice)),
            self._place(keys.vectors(one.request_id)),
            one.rank,
            write_vectors(one),
            until_ms(one),
        )

    def _place(self, key: str, keep_s: int | None = None) -> int:
        place = self._places.setdefault(key, len(self._places) + 1)
        if keep_s is not None:
            self._lifetimes[place] = max(keep_s, self._lifetimes.get(place, 0))
        return place

    def _counts(self) -> Multiset[tuple[int, str]]:
        sums: Multiset[tuple[int, str]] = Multiset()
        for cell, counters in self._batch.counts.items():
            if cell.rollout == background.ROLLOUT:
                hour = self._keys.background(cell.stage, cell.minute // HOUR * HOUR)
                where = self._place(hour, BACKGROUND_TTL_S)
                for counter, by in counters.items():
                    sums[where, field_of(cell.minute, counter)] += by
                continue
            for where, prefix in self._cells(cell):
                for counter, by in counters.items():
                    sums[where, f"{prefix}|{counter}"] += by
        awaited = Multiset(
            (one.cell, one.label_window_s, one.awaited) for one in self._batch.pending
        )
        for (label_cell, window_s, names), by in awaited.items():
            if label_cell is not None:
                for where, prefix in self._label_cells(label_cell, window_s):
                    for counter in names:
                        sums[where, f"{prefix}|{counter}"] += by
        return sums

    def _firsts(self) -> Iterator[tuple[str | int, ...]]:
        for seen in self._batch.observations:
            yield self._first(seen, self._cells(seen.cell))

    def _awaited_firsts(self) -> Iterator[tuple[str | int, ...]]:
        for one in self._batch.pending:
            if one.cell is None or one.key is None:
                continue
            told = self._place(self._keys.pending(one.request_id))
            for counter in one.awaited:
                seen = Observation(one.cell, metric_of(counter), one.key, (counter,))
                yield self._first(seen, self._label_cells(one.cell, one.label_window_s), told)

    def _first(
        self, seen: Observation, cells: tuple[tuple[int, str], ...], told: int = 0
    ) -> tuple[str | int, ...]:
        cell = seen.cell
        known = self._keys.seen(cell.rollout, cell.evidence_epoch, cell.stage, seen.metric)
        (total, total_cell), (part, part_cell) = cells
        return (
            self._place(known, KEYS_TTL_S),
            seen.key,
            total,
            total_cell,
            part,
            part_cell,
            " ".join(seen.counters),
            told,
            seen.metric,
        )

    def _cells(self, cell: Cell) -> tuple[tuple[int, str], ...]:
        total, minute = count_places(cell, self._keys)
        return (
            (self._place(total.key), total.cell),
            (self._place(minute.key, MINUTE_TTL_S), minute.cell),
        )

    def _label_cells(self, cell: Cell, window_s: float) -> tuple[tuple[int, str], ...]:
        total, slot = label_places(cell, window_s, self._keys)
        return (
            (self._place(total.key), total.cell),
            (self._place(slot.key, label_keep_s(window_s)), slot.cell),
        )


def count_places(cell: Cell, keys: Keys) -> tuple[Place, Place]:
    """Name the two places of a count: the stage's totals, and the minute."""
    stage = (cell.rollout, cell.evidence_epoch, cell.stage)
    return (
        Place(keys.counts(*stage), f"{ALL_MINUTES}|{cell.stratum}"),
        Place(keys.minute(*stage, cell.minute), f"{cell.minute}|{cell.stratum}"),
    )


def label_places(cell: Cell, label_window_s: float, keys: Keys) -> tuple[Place, Place]:
    """Name the two places of a label's counts: the stage's totals, and the label slot."""
    stage = (cell.rollout, cell.evidence_epoch, cell.stage)
    slot = label_slot(cell.minute, label_window_s)
    return (
        Place(keys.counts(*stage), f"{ALL_MINUTES}|{cell.stratum}"),
        Place(keys.labels(*stage, slot), f"{slot}|{cell.stratum}"),
    )


def label_keep_s(label_window_s: float) -> int:
    """Say how long a label slot is kept after its last request: past the end of its window."""
    return int(label_window_s) + slot_width(label_window_s) * MINUTE_S + MINUTE_TTL_S


def until_ms(pending: Pending | Vectors) -> int:
    """Say when a label window closes: Unix milliseconds."""
    return int((pending.at + pending.label_window_s) * 1000)


def write_vectors(vectors: Vectors) -> str:
    """Write vectors as JSON, which `read_vectors` reads."""
    return orjson.dumps(
        {
            **vectors._asdict(),
            "cell": list(vectors.cell),
            "incumbent": b64encode(vectors.incumbent).decode(),
            "candidate": b64encode(vectors.candidate).decode(),
        }
    ).decode()


def read_vectors(stored: str | bytes) -> Vectors:
    """Read what `write_vectors` wrote. Raises ValueError, TypeError or KeyError."""
    facts = orjson.loads(stored)
    arms: dict[str, bytes] = {role: b64decode(facts[role]) for role in ("incumbent", "candidate")}
    return Vectors(**{**facts, **arms, "cell": Cell(*facts["cell"])})


def opened(pending: Pending, keys: Keys) -> str:
    """Write a pending label the way label.lua reads it, but for its last brace."""
    cell = pending.cell
    if cell is None:
        return "{"
    # Ids are texts: Lua's numbers hold 53 bits.
    top = ",".join([f'"{role}":[{_texts(ids)}]' for role, ids in pending.top.items()])
    opening = _opening(cell, pending.label_window_s, pending.assigned, keys)
    return f'{opening},"top":{{{top}}}'


def _texts(ids: tuple[int, ...]) -> str:
    return '"' + '","'.join(map(str, ids)) + '"' if ids else ""


@functools.lru_cache(maxsize=256)
def _opening(cell: Cell, label_window_s: float, assigned: Role | None, keys: Keys) -> str:
    """Write what the pending labels of one cell have in common."""
    totals, slot = label_places(cell, label_window_s, keys)
    return orjson.dumps(
        {
            "totals": totals._asdict(),
            "slot": slot._asdict(),
            "keep_s": label_keep_s(label_window_s),
            "assigned": assigned,
        }
    ).decode()[:-1]
