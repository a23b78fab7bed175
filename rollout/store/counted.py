"""What gateways reported, in this process: the counting of flush.lua and label.lua over again.

`MemoryStore` keeps it. It passes the same tests as the scripts.
"""

from collections import Counter as Multiset
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rollout import background
from rollout.background import HOUR, field_of, hours
from rollout.layout import KEPT_KEYS, SEQUENCE_TTL_S, label_keep_s, until_ms
from rollout.minutes import MINUTE_S, MINUTE_TTL_S, Horizon, label_slot
from rollout.snapshot import (
    ALL_MINUTES,
    HITS,
    KEPT_SAMPLES,
    Batch,
    Cell,
    Counter,
    LabelOutcome,
    Metric,
    Observation,
    Pending,
    Role,
    Sample,
    Vectors,
    metric_of,
)
from rollout.store.port import Observations
from rollout.tally import is_label

Where = tuple[str, int, str]
"""Rollout, evidence epoch, counted stage."""
Fields = Multiset[str]


@dataclass(slots=True)
class Stage:
    """One stage: its totals, its minutes, and the minutes of its labels."""

    totals: Fields = field(default_factory=Multiset)
    minutes: dict[int, Fields] = field(default_factory=lambda: defaultdict(Multiset))
    labels: dict[int, Fields] = field(default_factory=lambda: defaultdict(Multiset))

    def add(self, cell: Cell, counter: str, by: int = 1) -> None:
        """Count in the totals and in the minute."""
        self.totals[f"{ALL_MINUTES}|{cell.stratum}|{counter}"] += by
        part = self.labels if is_label(counter) else self.minutes
        part[cell.minute][f"{cell.minute}|{cell.stratum}|{counter}"] += by

    def recent(self, horizon: Horizon) -> dict[str, int]:
        """Add up the minutes newer than the watermark."""
        _forget(self.minutes, horizon.now - MINUTE_TTL_S)
        return _sum(one for minute, one in self.minutes.items() if minute in horizon.recent)

    def unclosed(self, horizon: Horizon) -> dict[str, int]:
        """Add up the labels whose window has not closed."""
        window_s = horizon.label_window_s
        _forget(self.labels, horizon.now - label_keep_s(window_s))
        return _sum(
            one
            for minute, one in self.labels.items()
            if label_slot(minute, window_s) in horizon.unclosed
        )


@dataclass(slots=True)
class Awaited:
    """A pending label: what it is about, of what it is a key's first, and what came."""

    pending: Pending
    firsts: set[Metric]
    label: int | None = None


class Counted:
    """Counts, samples and pending labels under `clock` (Unix seconds)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._stages: dict[Where, Stage] = defaultdict(Stage)
        self._seen: dict[tuple[Where, str], set[str]] = defaultdict(set)
        self._background: dict[tuple[str, int], Fields] = defaultdict(Multiset)
        self._samples: dict[Where, list[Sample]] = defaultdict(list)
        self._vectors: dict[str, Vectors] = {}
        self._slices: dict[tuple[Where, int], Vectors] = {}
        """Whose vectors are kept of each slice of time."""
        self._truths: dict[str, int] = {}
        """By request, of those that are among the samples."""
        self._sequences: dict[str, tuple[int, float]] = {}
        """By boot: the last one, and until when it is remembered."""
        self._awaited: dict[str, Awaited] = {}

    def flush(self, batch: Batch) -> bool:
        """Count `batch`; False when this `(boot, sequence)` had been counted before."""
        now = self._clock()
        last, until = self._sequences.get(batch.boot, (-1, now))
        if batch.sequence <= last and now <= until:
            return False
        self._sequences[batch.boot] = (batch.sequence, now + SEQUENCE_TTL_S)
        for cell, counters in batch.counts.items():
            if cell.rollout == background.ROLLOUT:
                hour = self._background[cell.stage, cell.minute // HOUR * HOUR]
                for counter, by in counters.items():
                    hour[field_of(cell.minute, counter)] += by
                continue
            stage = self._stages[_where(cell)]
            for counter, by in counters.items():
                stage.add(cell, counter, by)
        for seen in batch.observations:
            self._first(seen)
        for one in batch.pending:
            self._await(one)
        for sample in batch.samples:
            self._sample(sample)
        for vectors in batch.vectors:
            self._keep(vectors)
        return True

    def label(self, request_id: str, target_id: int) -> LabelOutcome:
        """Take in the truth of a request: the first counts, for every arm that answered."""
        held = self._awaited.get(request_id)
        if held is None or self._clock() >= held.pending.at + held.pending.label_window_s:
            return "unknown"
        if held.label is not None:
            return "repeat" if held.label == target_id else "contradiction"
        held.label = target_id
        if held.pending.cell is None:
            return "outside"
        where = _where(held.pending.cell)
        if any(one.request_id == request_id for one in self._samples.get(where, ())):
            self._truths[request_id] = target_id
        stage = self._stages[where]
        for metric, counter in _outcomes(held.pending, target_id):
            stage.add(held.pending.cell, counter)
            if metric in held.firsts:
                stage.add(held.pending.cell, Counter.first(counter))
        return "counted" if self.vectors(request_id) is None else "sampled"

    def vectors(self, request_id: str) -> Vectors | None:
        """Read the vectors of a request; None when they are not kept, or no longer."""
        held = self._vectors.get(request_id)
        return held if held is not None and self._is_open(held) else None

    def observations(
        self, rollout: str, epoch: int, stages: Sequence[str], samples: int, horizon: Horizon | None
    ) -> Observations:
        """Read the counts of `stages`, and of each up to `samples`."""
        kept = [self._samples.get((rollout, epoch, name), ())[:samples] for name in stages]
        found = {name: self._stages.get((rollout, epoch, name), Stage()) for name in stages}
        return Observations(
            counts={name: dict(stage.totals) for name, stage in found.items()},
            samples=tuple(one for samples_ in kept for one in samples_),
            truths={
                one.request_id: self._truths[one.request_id]
                for samples_ in kept
                for one in samples_
                if one.request_id in self._truths
            },
            recent={name: one.recent(horizon) for name, one in found.items()} if horizon else {},
            unclosed={name: one.unclosed(horizon) for name, one in found.items()}
            if horizon
            else {},
        )

    def background(self, places: Sequence[str], now: float) -> dict[str, dict[str, int]]:
        """Read the last day of places outside rollouts."""
        read = hours(now)
        return {
            name: _sum(
                one
                for (held, hour), one in self._background.items()
                if (held, hour in read) == (name, True)
            )
            for name in places
        }

    def _sample(self, sample: Sample) -> None:
        """Keep a sample, if it is among those of its stage with the least agreement."""
        kept = self._samples[sample.rollout, sample.evidence_epoch, sample.stage]
        kept.append(sample)
        kept.sort(key=lambda one: (one.agreement, one.model_dump_json()))
        for gone in kept[KEPT_SAMPLES:]:
            self._truths.pop(gone.request_id, None)
        del kept[KEPT_SAMPLES:]

    def _is_open(self, vectors: Vectors) -> bool:
        return self._clock() * 1000 < until_ms(vectors)

    def _keep(self, one: Vectors) -> None:
        """Keep vectors if no lower rank of their slice is kept, until their label window closes."""
        place = (_where(one.cell), one.slice)
        held = self._slices.get(place)
        if held is not None and self._is_open(held):
            if held.rank <= one.rank:
                return
            self._vectors.pop(held.request_id, None)
        self._slices[place] = self._vectors[one.request_id] = one

    def _first(self, seen: Observation) -> bool:
        """Count an observation's twins if its key is new to the metric; whether it was."""
        known = self._seen[_where(seen.cell), seen.metric]
        if seen.key in known:
            return False
        stage = self._stages[_where(seen.cell)]
        if len(known) >= KEPT_KEYS:
            stage.add(seen.cell, Counter.KEYS_BEYOND)
            return False
        known.add(seen.key)
        for counter in seen.counters:
            stage.add(seen.cell, Counter.first(counter))
        return True

    def _await(self, one: Pending) -> None:
        firsts: set[Metric] = set()
        if one.cell is not None:
            for counter in one.awaited:
                self._stages[_where(one.cell)].add(one.cell, counter)
                metric = metric_of(counter)
                if one.key and self._first(Observation(one.cell, metric, one.key, (counter,))):
                    firsts.add(metric)
        held = self._awaited.get(one.request_id)
        if held is None or held.label is None:
            self._awaited[one.request_id] = Awaited(one, firsts)


def _where(cell: Cell) -> Where:
    return (cell.rollout, cell.evidence_epoch, cell.stage)


def _forget(parts: dict[int, Fields], before: float) -> None:
    for minute in [minute for minute in parts if minute < before // MINUTE_S]:
        del parts[minute]


def _sum(parts: Iterable[Fields]) -> dict[str, int]:
    sums: Fields = Multiset()
    for one in parts:
        sums.update(one)
    return dict(sums)


def _outcomes(pending: Pending, target: int) -> Iterator[tuple[Metric, str]]:
    """Say what a truth counts: (metric, counter)."""
    top, assigned = pending.top, pending.assigned
    if assigned is None:
        return
    other: Role = "candidate" if assigned == "incumbent" else "incumbent"
    got = top.get(assigned, top.get(other))
    if got is not None:
        yield "due", Counter.labels(assigned)
    for k in HITS:
        if got is not None and target in got[:k]:
            yield "due", Counter.hit(assigned, k)
        if len(top) > 1:
            hits = (target in top["incumbent"][:k], target in top["candidate"][:k])
            yield "pair.due", Counter.pair_hit(k, *hits)
