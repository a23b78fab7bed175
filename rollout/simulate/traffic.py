"""Traffic as the counters that gateways would have flushed, drawn without its requests. Pure.

Seven days at twenty requests a second are twelve million requests, so nothing here draws one: a
grain (a minute, or longer in a long plan) is a Poisson number of requests in each group, split
binomially as the assignment would, with multinomial outcomes. A sum of counts drawn that way has
the distribution that counting the requests one by one would give.

Requests that both arms try have one joint outcome, which is counted as a pair and, for the arm that
was assigned, as what was served. Where requests have keys, a key's first observation in a stage is
drawn apart from the rest, for the counters `first.*`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rollout.plan import Stage
from rollout.simulate.world import (
    ROLES,
    Arrival,
    Floats,
    World,
    error_chance,
    over_chance,
    rank_chances,
    together,
)
from rollout.snapshot import HITS, Counter, Mark, Role

Ints = NDArray[np.int64]
FAILURE: Final = "status"
"""The kind of every error here: kinds are for people, no test reads them."""
OUTCOMES: Final = ("00", "01", "10", "11")
RANKS: Final = 4
"""The truth stands at 1, at 2-5, at 6-10, or below."""
_LATE_SPLIT: Final = 2
"""Ranks 1 and 2-5 are hits of the first five."""


class Load(NamedTuple):
    """Requests by assigned role, each `[grains, groups]`: tried by one arm alone, or by both."""

    alone: dict[Role, Ints]
    both: dict[Role, Ints]


@dataclass(frozen=True, slots=True)
class Block:
    """Some grains of one stage. Strata are in the order of `strata`."""

    counts: dict[str, Ints]
    """Counter -> `[grains, strata]`, complete at once."""
    truths: dict[str, Ints]
    """`""` (all) and `first.` -> `[categories, grains, strata]`: what the truths will say."""


@dataclass(slots=True)
class Keys:
    """How many keys of each group the candidate has; weights nest, so it only grows."""

    total: Ints
    """`[groups]`"""
    weight: float = 0.0
    candidate: Ints = field(init=False)

    def __post_init__(self) -> None:
        self.candidate = np.zeros_like(self.total)

    @classmethod
    def of(cls, world: World) -> "Keys":
        """Count the keys of each group."""
        keys = [world.rps * 3600 * group.share / group.per_key for group in world.groups]
        return cls(np.maximum(1, np.rint(keys)).astype(np.int64))

    def at(self, weight: float, rng: np.random.Generator) -> Ints:
        """Give the candidate's keys at a share of `weight`, which is no less than before."""
        left = 1 - self.weight
        more = min(1.0, (weight - self.weight) / left) if left > 0 else 0.0
        if more > 0:
            self.candidate = self.candidate + rng.binomial(self.total - self.candidate, more)
            self.weight = weight
        return self.candidate


class Visit:
    """The traffic of one stage from its entry on, block by block.

    `drift` is the path of the whole rollout from this visit's first grain on. `keys` are those of
    the rollout, where the world has keys.
    """

    def __init__(
        self,
        world: World,
        stage: Stage,
        marks: Mapping[str, Mark],
        *,
        grain_s: float,
        rng: np.random.Generator,
        keys: Keys | None = None,
    ) -> None:
        self.world = world
        self.stage = stage
        self.marks = marks
        self.grain_s = grain_s
        self.rng = rng
        self.strata = tuple(dict.fromkeys(group.stratum for group in world.groups))
        places = [self.strata.index(group.stratum) for group in world.groups]
        self._gather = np.eye(len(self.strata), dtype=np.int64)[places]
        self._plain = places == list(range(len(self.strata)))
        mirrors = stage.weight if stage.mode == "shadow" else stage.shadow_sample
        self._mirrored = mirrors / 100
        self._weight = stage.weight / 100 if stage.mode == "ab" else 0.0
        self._owned = self._own(keys) if keys else None
        self._unseen = None if self._owned is None else [kept.copy() for kept in self._owned]

    def block(self, drift: Floats) -> Block:
        """Draw the next grains, as many as `drift` is long."""
        if self._owned is None:
            return self._fold([("", self._requests(len(drift)))], drift)
        first, rest = self._keyed(len(drift))
        return self._fold([("first.", first), ("", rest)], drift)

    # --- how many --------------------------------------------------------------------------------

    def _requests(self, grains: int) -> Load:
        shares = np.array([group.share for group in self.world.groups])
        rate = self.world.rps * self.grain_s * shares
        total = self.rng.poisson(rate, (grains, len(shares)))
        candidate = self.rng.binomial(total, self._weight)
        assigned: dict[Role, Ints] = {"incumbent": total - candidate, "candidate": candidate}
        both = {role: self.rng.binomial(n, self._mirrored) for role, n in assigned.items()}
        return Load({role: assigned[role] - both[role] for role in ROLES}, both)

    def _own(self, keys: Keys) -> list[Ints]:
        """Split the keys: by role those of one arm alone, then those that are also mirrored."""
        candidate = keys.at(self._weight, self.rng)
        parts = (keys.total - candidate, candidate)
        mirrored = [self.rng.binomial(part, self._mirrored) for part in parts]
        return [*(part - both for part, both in zip(parts, mirrored, strict=True)), *mirrored]

    def _keyed(self, grains: int) -> tuple[Load, Load]:
        """Draw the first observation of each key, and all that follow it."""
        assert self._owned is not None  # noqa: S101 - the caller looked
        assert self._unseen is not None  # noqa: S101 - set with it
        each = np.array([group.per_key for group in self.world.groups]) * self.grain_s / 3600
        late = np.exp(-each[:, None] * np.arange(grains + 1))  # not seen before grain g
        chances = np.concatenate([late[:, :-1] - late[:, 1:], late[:, -1:]], axis=1)
        more = each / -np.expm1(-each) - 1  # of a key in the grain of its first request, on average
        firsts, others = list[Ints](), list[Ints]()
        for place, keys in enumerate(self._owned):
            known = keys - self._unseen[place]
            seen = self.rng.multinomial(self._unseen[place], chances)  # [groups, grains + 1]
            self._unseen[place] = seen[:, -1]
            first = seen[:, :-1].T
            before = known + np.cumsum(first, axis=0) - first
            firsts.append(first)
            others.append(self.rng.poisson(before * each + first * more))
        return _load(firsts), _load(others)

    # --- what became of them ---------------------------------------------------------------------

    def _fold(self, loads: list[tuple[str, Load]], drift: Floats) -> Block:
        """Draw the outcomes of each load; the counters without a prefix take all of them."""
        counts: dict[str, Ints] = {}
        truths: dict[str, Ints] = {}
        chances = Chances.of(self.world, self.marks, drift)
        for prefix, load in loads:
            found, told = self._outcomes(load, chances)
            for name in {"", prefix}:
                for counter, by in found.items():
                    key = name + counter
                    counts[key] = counts[key] + by if key in counts else by
                truths[name] = truths[name] + told if name in truths else told
        return Block(
            {name: self._by_stratum(by) for name, by in counts.items()},
            {name: self._by_stratum(by) for name, by in truths.items()},
        )

    def _by_stratum(self, by_group: Ints) -> Ints:
        return by_group if self._plain else by_group @ self._gather

    def _outcomes(self, load: Load, chances: "Chances") -> tuple[dict[str, Ints], Ints]:
        rng, counts = self.rng, dict[str, Ints]()
        assigned = {role: load.alone[role] + load.both[role] for role in ROLES}
        tried = {role: rng.binomial(load.both[role], 1 - self.world.mirror_lost) for role in ROLES}
        lone = {role: assigned[role] - tried[role] for role in ROLES}
        served, pairs = _drawn(rng, lone, tried, chances.errors, self.world.concord.errors)
        both = sum(pairs.values(), start=np.zeros(1, np.int64))
        intended = load.both["incumbent"] + load.both["candidate"]
        counts[Counter.MIRROR_INTENDED] = intended
        counts[Counter.MIRROR_COMPARED] = both[..., 0, 0]
        counts[Counter.mirror_dropped("full")] = intended - both.sum((-2, -1))
        counts[Counter.mirror_dropped("error")] = both.sum((-2, -1)) - both[..., 0, 0]
        _paired(counts, "pair.error", both)
        compared = {role: pairs[role][..., 0, 0] for role in ROLES}
        for role in ROLES:
            failed = served[role][..., 1]
            counts[Counter.assigned(role)] = counts[Counter.due(role)] = assigned[role]
            counts[Counter.error(role, FAILURE)] = counts[Counter.fallback(role)] = failed
        counts[Counter.PAIR_DUE] = counts[Counter.MIRROR_COMPARED]
        lone = {role: assigned[role] - compared[role] for role in ROLES}
        for mark, over in chances.over.items():
            served, pairs = _drawn(rng, lone, compared, over, self.world.concord.latency)
            for role in ROLES:
                counts[Counter.over(role, mark)] = served[role][..., 1]
            _paired(counts, f"pair.over.{mark}", pairs["incumbent"] + pairs["candidate"])
        return counts, self._truths(lone, compared, chances.ranks)

    def _truths(self, lone: dict[Role, Ints], compared: dict[Role, Ints], ranks: "Two") -> Ints:
        """Draw where the truths will stand: `[8 served + 16 paired categories, grains, groups]`."""
        told = self.world.labelled
        lone = {role: self.rng.binomial(n, told) for role, n in lone.items()}
        compared = {role: self.rng.binomial(n, told) for role, n in compared.items()}
        served, pairs = _drawn(self.rng, lone, compared, ranks, self.world.concord.hits)
        both = pairs["incumbent"] + pairs["candidate"]
        flat = both.reshape(*both.shape[:-2], RANKS * RANKS)
        every = np.concatenate([served["incumbent"], served["candidate"], flat], axis=-1)
        return np.moveaxis(every, -1, 0)


def _load(parts: list[Ints]) -> Load:
    """Name the parts in the order of `Visit._own`."""
    return Load(
        {"incumbent": parts[0], "candidate": parts[1]},
        {"incumbent": parts[2], "candidate": parts[3]},
    )


Two = dict[Role, Floats]
"""Chances of an outcome's categories under each arm: `[grains, groups, categories]`."""


class Chances(NamedTuple):
    """The chances of one block."""

    errors: Two
    over: dict[str, Two]
    ranks: Two

    @classmethod
    def of(cls, world: World, marks: Mapping[str, Mark], drift: Floats) -> "Chances":
        """Compute the chances at each grain and in each group."""
        return cls(
            {role: _yes_no(error_chance(world, role, drift)) for role in ROLES},
            {
                name: {role: _yes_no(over_chance(world, role, mark, drift)) for role in ROLES}
                for name, mark in marks.items()
            },
            {role: rank_chances(world, role, drift) for role in ROLES},
        )


def _yes_no(chance: Floats) -> Floats:
    return np.stack([1 - chance, chance], axis=-1)


def _drawn(
    rng: np.random.Generator, lone: dict[Role, Ints], tried: dict[Role, Ints], two: Two, same: float
) -> tuple[dict[Role, Ints], dict[Role, Ints]]:
    """Draw one outcome: served by role `[..., a]`, and the pairs of each role `[..., a, a]`."""
    served, pairs = dict[Role, Ints](), dict[Role, Ints]()
    a = two["incumbent"].shape[-1]
    joint = together(two["incumbent"], two["candidate"], same)
    joint = joint.reshape(*joint.shape[:-2], a * a)
    for role in ROLES:
        both = _multinomial(rng, tried[role], joint).reshape(*tried[role].shape, a, a)
        pairs[role] = both
        own = both.sum(-1) if role == "incumbent" else both.sum(-2)
        served[role] = own + _multinomial(rng, lone[role], two[role])
    return served, pairs


def _multinomial(rng: np.random.Generator, n: Ints, chances: Floats) -> Ints:
    if not n.any():
        return np.zeros((*n.shape, chances.shape[-1]), np.int64)
    if chances.shape[-1] == 2:  # noqa: PLR2004 - a binomial is drawn faster
        yes = rng.binomial(n, chances[..., 1])
        return np.stack([n - yes, yes], axis=-1)
    return rng.multinomial(n, chances)


def _paired(counts: dict[str, Ints], prefix: str, pairs: Ints) -> None:
    for outcome in OUTCOMES:
        counts[f"{prefix}.{outcome}"] = pairs[..., int(outcome[0]), int(outcome[1])]


# --- truths --------------------------------------------------------------------------------------


def _label_counters() -> dict[str, Ints]:
    """Say which of the 24 categories each counter adds up."""
    rank = np.tile(np.arange(RANKS), 2)
    place = np.arange(RANKS * RANKS)
    incumbent, candidate = place // RANKS, place % RANKS
    counters: dict[str, Ints] = {}
    for index, role in enumerate(ROLES):
        own = np.arange(2 * RANKS) // RANKS == index
        counters[Counter.labels(role)] = np.concatenate([own, np.zeros(RANKS * RANKS, bool)])
        for within, k in enumerate(HITS):
            hit = own & (rank <= within)
            counters[Counter.hit(role, k)] = np.concatenate([hit, np.zeros(RANKS * RANKS, bool)])
    for within, k in enumerate(HITS):
        for outcome in OUTCOMES:
            one, other = outcome[0] == "1", outcome[1] == "1"
            pair = ((incumbent <= within) == one) & ((candidate <= within) == other)
            name = Counter.pair_hit(k, incumbent=one, candidate=other)
            counters[name] = np.concatenate([np.zeros(2 * RANKS, bool), pair])
    return {name: chosen.astype(np.int64) for name, chosen in counters.items()}


_COUNTERS: Final = _label_counters()
LABEL_NAMES: Final = tuple(_COUNTERS)
_SUMS: Final = np.stack(list(_COUNTERS.values()))
_HIT: Final = (
    np.concatenate([np.tile(np.arange(RANKS), 2), np.arange(RANKS * RANKS) // RANKS]) < _LATE_SPLIT
)
"""Which categories count as hits for when the truth comes; of pairs the incumbent's rank does."""


def arriving(truths: Ints, arrivals: tuple[Arrival, ...], rng: np.random.Generator) -> list[Ints]:
    """Split truths `[categories, strata]` by when they come; the last part never does."""
    if len(arrivals) == 1 and arrivals[0][1:] == (1.0, 1.0):
        return [truths, np.zeros_like(truths)]
    shares = np.where(
        _HIT[:, None],
        [one.of_hits for one in arrivals],
        [one.of_misses for one in arrivals],
    )
    rest = np.clip(1 - shares.sum(1, keepdims=True), 0, None)
    chances = np.concatenate([shares, rest], axis=1)[:, None, :]
    split = rng.multinomial(truths, chances / chances.sum(-1, keepdims=True))
    return list(np.moveaxis(split, -1, 0))


def label_counts(truths: Ints) -> Ints:
    """Count truths `[categories, strata]` into `[len(LABEL_NAMES), strata]`."""
    counted: Ints = _SUMS @ truths
    return counted
