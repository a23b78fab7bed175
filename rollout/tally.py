"""Integer counts in, the figures of one stage out. Pure.

Gateways add integers under `minute|stratum|counter` (rollout.snapshot.Counter names the counters);
a stage's totals have `-` for the minute. Reading is two steps. `read` checks every field against
the closed set of names and adds up the minutes, which leaves counters by stratum: a `Counts`. Two
of them add, in any order, to the `Counts` of the hashes added up, so replicas, minutes and flushes
never matter. `summarise` then computes shares, rates and quantiles; it is the only step that cannot
be undone. `tally` is both.

What was never counted is None, not 0: no data is an outcome of its own.

Agreement is rounded down to hundredths by `share_bin`, so a mean of it may be short of the true one
by up to 0.01, never above it. Latencies: `rollout.latencies`.
"""

import re
from collections import Counter as Multiset
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from backends.protocol import PREFIX_OUTCOMES
from rollout.errors import RolloutError
from rollout.latencies import (
    BY_PREFIX,
    ByPrefix,
    Quantiles,
    quantile,
    quantiles_of,
    told_apart,
)
from rollout.plan import Stage
from rollout.snapshot import (
    ALL_MINUTES,
    HITS,
    SHARE_BINS,
    Counter,
    Frozen,
    Mode,
    Role,
    stratum_names,
)

STRATA: Final = stratum_names()
"""Every context-length bucket where a plan names no other borders, shortest first."""
_STRATUM = re.compile(r"(?:<=|>|[1-9]\d*-)[1-9]\d*")
PAIR_OUTCOMES: Final = ("00", "01", "10", "11")
"""The outcomes of a pair, the incumbent's digit first."""
AGREEMENTS: Final = ("cosine", "overlap1", "overlap5", "overlap10", "rbo")
Families = Mapping[str, Mapping[str, int]]
"""Counts by a counter's name up to its last dot, and by what follows."""

_ROLE = "(?:incumbent|candidate)"
_WORD = "[a-z0-9][a-z0-9_-]*"
_MARK = "(?:budget|p50|p95|p99)"
_OBSERVED: Final = "|".join(
    (
        r"mirror\.(?:intended|compared)",
        rf"mirror\.dropped\.{_WORD}",
        rf"(?:assigned|fallback|due|labels)\.{_ROLE}",
        rf"over\.{_ROLE}\.{_MARK}",
        rf"pair\.over\.{_MARK}\.[01]{{2}}",
        r"pair\.due",
        rf"error\.{_ROLE}\.{_WORD}",
        rf"(?:pair\.)?latency\.{_ROLE}\.[0-9]+",
        r"pair\.error\.[01]{2}",
        rf"pair\.(?:{'|'.join(AGREEMENTS)})\.-?[0-9]+",
        rf"hit(?:{'|'.join(map(str, HITS))})\.{_ROLE}",
        rf"pair\.hit(?:{'|'.join(map(str, HITS))})\.[01]{{2}}",
        r"truth\.(?:incumbent|candidate|difference)\.-?[0-9]+",
    )
)
_LABELS: Final = re.compile(r"(?:first\.)?(?:pair\.)?(?:due|labels|hit[0-9]+)(?:\..*)?")
"""What counts by its label window."""
_COUNTER: Final = re.compile(
    rf"overridden|keyless|sampled|keys\.beyond|(?:first\.)?(?:{_OBSERVED})|{BY_PREFIX.pattern}"
)


class CountsError(RolloutError):
    """A count that no gateway of this version writes: its field, its counter or its value."""


class Agreement(Frozen):
    """How far two predictions agreed over the pairs compared; 1 is equal, None is no pair."""

    n: int
    mean: float | None
    p10: float | None
    p50: float | None
    histogram: tuple[tuple[float, int], ...]
    """(lower edge, pairs), rising; bins are a hundredth wide and empty ones are left out."""


class RoleTally(Frozen):
    """One arm in one stage, by assignment: a request belongs to the arm it was assigned."""

    role: Role
    assigned: int
    errors: dict[str, int]
    """Failed attempts of the assigned arm, by kind."""
    error_count: int
    error_percent: float | None
    """Of the requests assigned."""
    fallbacks: int
    latency_ms: Quantiles
    """What the client waited for."""
    arm_latency_ms: Quantiles
    """The arm's own time on mirrored pairs."""
    latency_by_prefix: ByPrefix
    arm_latency_by_prefix: ByPrefix
    labels: int
    hits: dict[int, int]
    """Labelled requests whose truth was among the first k; one entry for each k of HITS."""


class StratumTally(Frozen):
    """The requests of one context-length bucket."""

    stratum: str
    requests: int
    incumbent: int
    candidate: int


class StageTally(Frozen):
    """The figures of one stage. Shares, rates and coverage are percent."""

    stage: str
    mode: Mode
    requests: int
    """Requests in the split: assigned to either arm."""
    overridden: int
    keyless: int
    incumbent: RoleTally
    candidate: RoleTally
    intended_share: float
    """The stage's weight: of mirrored requests in `shadow`, of answered ones in `ab`."""
    actual_share: float | None
    mirror_intended: int
    mirror_compared: int
    mirror_dropped: dict[str, int]
    mirror_coverage: float | None
    """Mirrors seen to their end, of those intended: what the gate asks for."""
    pairs: int
    """Mirrors seen to their end: both arms had answered or failed. Those that both answered are
    compared."""
    pair_errors: dict[str, int]
    """Pairs by who failed: `10` = the incumbent failed, the candidate did not."""
    agreement: dict[str, Agreement]
    """By name: cosine, overlap1, overlap5, overlap10, rbo."""
    pair_hits: dict[int, dict[str, int]]
    """For each k of HITS, labelled pairs by whose own first k held the truth."""
    strata: tuple[StratumTally, ...]

    def role(self, role: Role) -> RoleTally:
        """One arm's figures."""
        return self.candidate if role == "candidate" else self.incumbent


@dataclass(frozen=True)
class Counts:
    """Checked counters of one stage, by stratum; minutes are added up. A commutative monoid."""

    by_stratum: Mapping[str, Mapping[str, int]]

    def __add__(self, other: "Counts") -> "Counts":
        """The counts of both."""
        sums = {name: Multiset(counters) for name, counters in self.by_stratum.items()}
        for name, counters in other.by_stratum.items():
            sums.setdefault(name, Multiset()).update(counters)
        return _counts(sums)

    def __sub__(self, part: "Counts") -> "Counts":
        """The counts without a part of them. Raises CountsError where it is no part of them."""
        sums = {name: Multiset(counters) for name, counters in self.by_stratum.items()}
        for name, counters in part.by_stratum.items():
            left = sums.setdefault(name, Multiset())
            left.subtract(counters)
            if short := [counter for counter in counters if left[counter] < 0]:
                raise CountsError(
                    f"the minutes hold more of {short[0]!r} ({name}) than the stage they belong to"
                )
        return _counts(sums)

    def only(self, keep: Callable[[str], bool]) -> "Counts":
        """The counters whose names are to be kept."""
        return _counts(
            {
                name: {counter: value for counter, value in counters.items() if keep(counter)}
                for name, counters in self.by_stratum.items()
            }
        )

    @property
    def total(self) -> Mapping[str, int]:
        """Counters over all strata."""
        total: Multiset[str] = Multiset()
        for counters in self.by_stratum.values():
            total.update(counters)
        return total


@dataclass(frozen=True)
class StageCounts:
    """One stage, as a person sees it and as a judge may. Each counter is for one of the latter."""

    total: Counts
    """Everything that has come in."""
    counts: Counts
    """Behind the watermark: whatever is no label, without the newest minutes, and without what is
    for the report alone."""
    labels: Counts
    """`due`, `labels`, `hit` and their pairs: of requests whose label window has closed."""


def stage_counts(
    total: Mapping[str, int], recent: Mapping[str, int], unclosed: Mapping[str, int]
) -> StageCounts:
    """Check a stage's raw totals, and take away the minutes that a judge must not read yet.

    `recent` are the minutes newer than the watermark, `unclosed` the labels of requests whose
    window has not closed; both are parts of the totals. Raises CountsError.
    """
    everything = read(total)
    return StageCounts(
        total=everything,
        counts=everything.only(_is_judged) - read(recent).only(_is_judged),
        labels=everything.only(is_label) - read(unclosed),
    )


@lru_cache(maxsize=1 << 12)
def is_label(counter: str) -> bool:
    """Whether a counter is about truths: awaited ones, those that came, and hits."""
    return _LABELS.fullmatch(counter) is not None


def is_reported(counter: str) -> bool:
    """Whether a counter is for the report alone: no judge reads it, and there are many."""
    return counter.startswith(("prefix.", "truth.", "first.truth."))


@lru_cache(maxsize=1 << 12)
def _is_judged(counter: str) -> bool:
    return not is_label(counter) and not is_reported(counter)


def tally(stage: Stage, counts: Mapping[str, int]) -> StageTally:
    """Compute a stage's figures from its raw totals, or from any minutes of it.

    The field is `minute|stratum|counter`, with `-` for the minute in totals. All fields are added
    up, so give totals or minutes, not both.
    Raises CountsError on a field, a counter or a value that is not of the closed set.
    """
    return summarise(stage, read(counts))


def read(counts: Mapping[str, int]) -> Counts:
    """Check a raw hash and add up its minutes. Raises CountsError."""
    sums: dict[str, dict[str, int]] = {name: {} for name in STRATA}
    for field, value in counts.items():
        name, counter = _split(field)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise CountsError(
                f"the count {field!r} is {value!r}: a count is a whole number, 0 or more"
            )
        counters = sums.setdefault(name, {})
        counters[counter] = counters.get(counter, 0) + value
    return _counts(sums)


def summarise(stage: Stage, counts: Counts, strata: tuple[str, ...] = STRATA) -> StageTally:
    """Compute the figures of checked counts, in all and in `strata`."""
    total = counts.total
    families = _families(total)
    incumbent, candidate = _role(families, "incumbent"), _role(families, "candidate")
    requests = incumbent.assigned + candidate.assigned
    intended = total.get(Counter.MIRROR_INTENDED, 0)
    compared = total.get(Counter.MIRROR_COMPARED, 0)
    pair_errors = _pairs(total, "pair.error.")
    pairs = sum(pair_errors.values())
    return StageTally(
        stage=stage.name,
        mode=stage.mode,
        requests=requests,
        overridden=total.get(Counter.OVERRIDDEN, 0),
        keyless=total.get(Counter.KEYLESS, 0),
        incumbent=incumbent,
        candidate=candidate,
        intended_share=stage.weight,
        actual_share=percent(intended if stage.mode == "shadow" else candidate.assigned, requests),
        mirror_intended=intended,
        mirror_compared=compared,
        mirror_dropped=_family(families, Counter.mirror_dropped("")),
        mirror_coverage=percent(pairs, intended),
        pairs=pairs,
        pair_errors=pair_errors,
        agreement={name: _agreement(_family(families, f"pair.{name}.")) for name in AGREEMENTS},
        pair_hits={k: _pairs(total, f"pair.hit{k}.") for k in HITS},
        strata=tuple(_stratum(name, counts.by_stratum.get(name, {})) for name in strata),
    )


def percent(part: int, whole: int) -> float | None:
    """`part` of `whole` in percent; None when there is no whole."""
    return 100 * part / whole if whole else None


@lru_cache(maxsize=1 << 14)  # a judge reads the same few thousand names at every look
def _split(field: str) -> tuple[str, str]:
    """Take `minute|stratum|counter` apart into stratum and counter."""
    parts = field.split("|")
    if len(parts) != 3 or not (parts[0] == ALL_MINUTES or parts[0].isdecimal()):  # noqa: PLR2004 - minute|stratum|counter
        raise CountsError(f"the count {field!r} has no name of the form minute|stratum|counter")
    _, name, counter = parts
    if not _STRATUM.fullmatch(name):
        raise CountsError(
            f"the count {field!r} names the unknown stratum {name!r}: they are as "
            f"{', '.join(STRATA)}"
        )
    if not _COUNTER.fullmatch(counter):
        raise CountsError(
            f"the count {field!r} names the unknown counter {counter!r}: "
            "rollout.snapshot.Counter has the closed set of names"
        )
    return name, counter


def _counts(sums: Mapping[str, Mapping[str, int]]) -> Counts:
    """Drop zeros, so that equal counts are equal values, and freeze."""
    kept = {
        name: MappingProxyType({counter: value for counter, value in counters.items() if value})
        for name, counters in sums.items()
    }
    return Counts(MappingProxyType({name: counters for name, counters in kept.items() if counters}))


def _role(families: Families, role: Role) -> RoleTally:
    def count(counter: str) -> int:
        family, dot, tail = counter.rpartition(".")
        return families.get(family + dot, {}).get(tail, 0)

    assigned = count(Counter.assigned(role))
    errors = _family(families, Counter.error(role, ""))
    error_count = sum(errors.values())
    latency_ms = _quantiles(_family(families, f"latency.{role}."))
    arm_latency_ms = _quantiles(_family(families, f"pair.latency.{role}."))
    return RoleTally(
        role=role,
        assigned=assigned,
        errors=errors,
        error_count=error_count,
        error_percent=percent(error_count, assigned),
        fallbacks=count(Counter.fallback(role)),
        latency_ms=latency_ms,
        arm_latency_ms=arm_latency_ms,
        latency_by_prefix=told_apart(_by_prefix(families, f"latency.{role}."), latency_ms.n),
        arm_latency_by_prefix=told_apart(
            _by_prefix(families, f"pair.latency.{role}."), arm_latency_ms.n
        ),
        labels=count(Counter.labels(role)),
        hits={k: count(Counter.hit(role, k)) for k in HITS},
    )


def _stratum(name: str, counters: Mapping[str, int]) -> StratumTally:
    incumbent = counters.get(Counter.assigned("incumbent"), 0)
    candidate = counters.get(Counter.assigned("candidate"), 0)
    return StratumTally(
        stratum=name,
        requests=incumbent + candidate,
        incumbent=incumbent,
        candidate=candidate,
    )


def _families(total: Mapping[str, int]) -> Families:
    """Sort counters by their names up to the last dot: histograms make thousands of them."""
    found: dict[str, dict[str, int]] = {}
    for counter, count in total.items():
        family, dot, tail = counter.rpartition(".")
        found.setdefault(family + dot, {})[tail] = count
    return found


def _family(families: Families, name: str) -> dict[str, int]:
    """Give what follows `name` in the counters' names, in order of name."""
    return dict(sorted(families.get(name, {}).items()))


def _by_prefix(families: Families, latency: str) -> dict[str, dict[int, int]]:
    """Give the bins of a latency by what known prefixes did."""
    return {
        outcome: _bins(families[name].items())
        for outcome in PREFIX_OUTCOMES
        if (name := f"prefix.{outcome}.{latency}") in families
    }


def _pairs(total: Mapping[str, int], prefix: str) -> dict[str, int]:
    return {outcome: total.get(prefix + outcome, 0) for outcome in PAIR_OUTCOMES}


def _bins(tails: Iterable[tuple[str, int]]) -> dict[int, int]:
    return {int(bin_): count for bin_, count in tails}


def _quantiles(tails: Mapping[str, int]) -> Quantiles:
    return quantiles_of(_bins(tails.items()))


def _agreement(tails: Mapping[str, int]) -> Agreement:
    bins = _bins(tails.items())
    n = sum(bins.values())

    def value(q: float) -> float | None:
        bin_ = quantile(bins, q)
        return None if bin_ is None else bin_ / SHARE_BINS

    return Agreement(
        n=n,
        mean=sum(bin_ * count for bin_, count in bins.items()) / n / SHARE_BINS if n else None,
        p10=value(0.10),
        p50=value(0.50),
        histogram=tuple((bin_ / SHARE_BINS, bins[bin_]) for bin_ in sorted(bins)),
    )
