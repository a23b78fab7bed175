"""A rollout's store once more, small and slow: what the real ones must agree with.

Written from the words of `rollout.store.port`, and sharing nothing with it but what is input: the
snapshots that gateways have applied. `Held` is all that a store remembers; a copy of it is a dump.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from modelled_life import Life, Where

from rollout.snapshot import Snapshot

Place = tuple[int, int]
"""Epoch and version."""
BUDGET_S = 2
DAY_S = 86_400
ALIVE_S = 10
SILENT_S = 3600


@dataclass(frozen=True)
class Beat:
    """A gateway's heartbeat."""

    place: Place
    at: float
    applied: Snapshot | None
    identities: Mapping[str, str]


@dataclass(frozen=True)
class Entry:
    """An audit entry."""

    at: float
    actor: str
    command: str
    reason: str
    rollout: str
    states: tuple[str, str]
    stages: tuple[str, str]
    place: Place


@dataclass(frozen=True)
class Answer:
    """What a command led to."""

    command: str
    version: str
    rollout: str
    state: str
    stage: str


@dataclass
class Held:
    """All that a store remembers."""

    place: Place | None = None
    active: frozenset[str] = frozenset()
    split: Life | None = None
    """The rollout as gateways are told of it; None where they are told of none."""
    changed: float = 0.0
    life: Life | None = None
    lives: dict[str, Life] = field(default_factory=dict)
    audit: list[Entry] = field(default_factory=list)
    keys: dict[str, tuple[tuple[str, ...], Answer, float]] = field(default_factory=dict)
    lease: tuple[str, int, float] | None = None
    fence: int = 0
    beats: dict[str, Beat] = field(default_factory=dict)
    counts: dict[Where, Counter[str]] = field(default_factory=dict)
    sequences: dict[str, tuple[int, float]] = field(default_factory=dict)
    labels: dict[str, tuple[Where | None, str, float, int | None]] = field(default_factory=dict)
    """Request -> where it counts, its arm, until when, and its label."""
    slices: dict[tuple[Where, int], tuple[str, str, float]] = field(default_factory=dict)
    """Slice of time -> the rank and the request whose vectors are kept, and until when."""
    vectors: dict[str, float] = field(default_factory=dict)
    """Request -> until when its vectors are kept."""

    def told(self) -> object:
        """Say what gateways are told, as `told` reads it off a snapshot."""
        split = self.split and (self.split.salt, *self.split.where, self.split.settled)
        return (self.place, self.active, split, self.changed)


def told(snapshot: Snapshot) -> object:
    """Say what a snapshot tells gateways."""
    live = snapshot.rollout
    split = live and (live.salt, live.id, live.evidence_epoch, live.stage, live.counting)
    active = frozenset(tier.arm for tier in snapshot.tiers if tier.active)
    return (snapshot.position, active, split, snapshot.changed_at)


@dataclass(frozen=True)
class Draft:
    """A change that was thought through."""

    expected: Place | None
    deadline: float
    place: Place
    key: str
    asked: tuple[str, ...]
    entry: Entry
    answer: Answer
    life: Life | None
    active: frozenset[str]
    lease: tuple[str, int] | None = None


class ModelledStore:
    """The store, and the clock."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.held = Held()

    # --- what is read ----------------------------------------------------------------------------

    @property
    def furthest(self) -> Beat | None:
        """The heartbeat of the gateway that has come furthest from what the store holds."""
        beats = [beat for beat in self.held.beats.values() if beat.place > (0, 0)]
        return max(beats, key=lambda one: (one.place, self.strange(one)), default=None)

    def strange(self, beat: Beat) -> bool:
        """Say whether a gateway has applied what the store does not know of."""
        place, seen = self.held.place, beat.applied
        if place is None or beat.place > place:
            return beat.place > (0, 0)
        return beat.place == place and seen is not None and told(seen) != self.held.told()

    @property
    def lost(self) -> bool:
        return self.furthest is not None and self.strange(self.furthest)

    @property
    def next(self) -> Place:
        if self.lost and self.furthest:
            return (self.furthest.place[0] + 1, 1)
        place = self.held.place
        return (place[0], place[1] + 1) if place else (1, 1)

    @property
    def alive(self) -> list[Beat]:
        return [beat for beat in self.held.beats.values() if self.now - beat.at < ALIVE_S]

    def leads(self) -> tuple[str, int] | None:
        lease = self.held.lease
        return lease[:2] if lease and lease[2] > self.now else None

    def kept(self, key: str) -> tuple[tuple[str, ...], Answer] | None:
        found = self.held.keys.get(key)
        return found[:2] if found and found[2] >= self.now else None

    def identities(self) -> dict[str, tuple[str, ...]]:
        seen: dict[str, set[str]] = {}
        for beat in self.alive:
            for arm, name in beat.identities.items():
                seen.setdefault(arm, set()).add(name)
        return {arm: tuple(sorted(names)) for arm, names in seen.items()}

    # --- the store -------------------------------------------------------------------------------

    def apply(self, draft: Draft) -> str:
        held = self.held
        if self.kept(draft.key):
            return "Repeated"
        if self.now > draft.deadline:
            return "Late"
        if held.place != draft.expected:
            return "Moved"
        if draft.lease is not None and draft.lease != self.leads():
            return "Fenced"
        if any(beat.place >= draft.place for beat in held.beats.values()):
            return "Behind"
        held.place, held.active, held.changed = draft.place, draft.active, draft.entry.at
        held.split = draft.life if draft.life and draft.life.live else None
        if draft.life:
            held.life = held.lives[draft.life.id] = draft.life
        held.audit.append(draft.entry)
        held.keys[draft.key] = (draft.asked, draft.answer, self.now + DAY_S)
        return "Applied"

    def lead(self, holder: str, ttl_s: float) -> tuple[str, int] | None:
        lease = self.leads()
        if lease is None:
            self.held.fence += 1
            lease = (holder, self.held.fence)
        if lease[0] != holder:
            return None
        self.held.lease = (*lease, self.now + ttl_s)
        return lease

    def resign(self, lease: tuple[str, int]) -> None:
        if self.leads() == lease:
            self.held.lease = None

    def beat(self, boot: str, beat: Beat, *, first: bool) -> None:
        if first:
            kept = {b: one for b, one in self.held.beats.items() if one.at >= self.now - SILENT_S}
            self.held.beats = kept
        self.held.beats[boot] = beat

    def flush(self, boot: str, sequence: int, counts: Mapping[Where, Mapping[str, int]]) -> bool:
        last, until = self.held.sequences.get(boot, (0, 0.0))
        if until >= self.now and sequence <= last:
            return False
        self.held.sequences[boot] = (sequence, self.now + DAY_S)
        for where, by in counts.items():
            self.held.counts.setdefault(where, Counter()).update(by)
        return True

    def await_label(self, request: str, where: Where | None, role: str, until: float) -> None:
        if where is not None:
            self.held.counts.setdefault(where, Counter())[f"due.{role}"] += 1
        held = self.held.labels.get(request)
        labelled = held is not None and held[3] is not None and held[2] > self.now
        if not labelled and until > self.now:
            self.held.labels[request] = (where, role, until, None)

    def keep(self, request: str, slice_: tuple[Where, int], rank: str, until: float) -> None:
        best, other, last = self.held.slices.get(slice_, ("", "", 0.0))
        if last > self.now:
            if best <= rank:
                return
            self.held.vectors.pop(other, None)
        self.held.slices[slice_] = (rank, request, until)
        self.held.vectors[request] = until

    def label(self, request: str, target: int, top: tuple[int, ...]) -> str:
        where, role, until, label = self.held.labels.get(request, (None, "", 0.0, None))
        if until <= self.now:
            return "unknown"
        if label is not None:
            return "repeat" if label == target else "contradiction"
        self.held.labels[request] = (where, role, until, target)
        if where is None:
            return "outside"
        counts = self.held.counts.setdefault(where, Counter())
        counts[f"labels.{role}"] += 1
        for k in (1, 5, 10):
            if target in top[:k]:
                counts[f"hit{k}.{role}"] += 1
        return "sampled" if self.held.vectors.get(request, 0.0) > self.now else "counted"
