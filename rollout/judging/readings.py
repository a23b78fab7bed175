"""From a stage's counters to the few integers that a test is a function of. Pure.

A `Reading` sees one stage under one evidence epoch, in all strata or in some. With `unit: key` it
reads the counters that begin with `first.`: only the first observation of a key per stage and
metric, because the requests of one key are no independent draws.

Labels are read from the counts whose label window has closed; everything else from the counts
behind the watermark.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from rollout.plan import Stage
from rollout.snapshot import Counter, Role, Unit
from rollout.tally import STRATA, Counts

FIRST: Final = "first."


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Seen:
    """What one visited stage has shown under the present evidence epoch.

    Compared by identity: whoever hands the same one in again is spared its arithmetic.
    """

    stage: Stage
    counts: Counts
    """The totals without the minutes newer than the plan's watermark."""
    labels: Counts
    """The totals without the minutes whose label window is open (`Plan.labels`)."""


class Pairs(NamedTuple):
    """Pairs by what they say: the candidate better, worse, or the arms alike."""

    better: int
    worse: int
    alike: int


class Cells(NamedTuple):
    """An A/B split by arm and outcome."""

    candidate_yes: int
    candidate_no: int
    incumbent_yes: int
    incumbent_no: int


class Reading:
    """One stage's counters, in `strata`."""

    def __init__(
        self,
        seen: Seen,
        unit: Unit,
        strata: tuple[str, ...] = STRATA,
        each: tuple["Reading", ...] = (),
    ) -> None:
        self.stage = seen.stage
        self._each = each
        """The same in each stratum, where these are at hand: what was added up there is kept."""
        self._prefix = FIRST if unit == "key" else ""
        self._counts = _parts(seen.counts, strata)
        self._labels = _parts(seen.labels, strata)
        self._added: dict[str, int] = {}
        """Counters that were added up before: every test asks again for the same few."""
        self._errors: dict[str, int] | None = None

    # --- requests ------------------------------------------------------------------------------

    def assigned(self, role: Role) -> int:
        """Requests assigned to the role's arm."""
        return self._count(Counter.assigned(role))

    @property
    def requests(self) -> int:
        """Requests in the split."""
        return self.assigned("incumbent") + self.assigned("candidate")

    def errors(self, role: Role) -> int:
        """Failed attempts of the assigned arm, of all kinds."""
        if self._errors is None:
            self._errors = self._sum_errors()
        return self._errors[role]

    def _sum_errors(self) -> dict[str, int]:
        if self._each:
            roles: tuple[Role, ...] = ("incumbent", "candidate")
            return {role: sum(one.errors(role) for one in self._each) for role in roles}
        found = {"incumbent": 0, "candidate": 0}
        for tail, count in self._tails("error."):
            found[tail.partition(".")[0]] += count
        return found

    def over(self, role: Role, mark: str) -> int:
        """Requests that took longer than the role's side of a latency mark."""
        return self._count(f"over.{role}.{mark}")

    @property
    def attempts(self) -> tuple[int, int]:
        """The candidate's own attempts: (failed, not failed); mirrored ones in the shadow."""
        if self.stage.mode == "shadow":
            pairs = self.pair("error")
            failed = pairs["01"] + pairs["11"]
            return failed, pairs["00"] + pairs["10"]
        failed = self.errors("candidate")
        return failed, self.assigned("candidate") - failed

    def slow(self, mark: str) -> tuple[int, int]:
        """The candidate's requests by latency: (over, not over) its side of `mark`."""
        if self.stage.mode == "shadow":
            pairs = self.pair(f"over.{mark}")
            return pairs["01"] + pairs["11"], pairs["00"] + pairs["10"]
        over = self.over("candidate", mark)
        return over, self.assigned("candidate") - over

    def latencies(self) -> Iterator[tuple[int, int]]:
        """What clients of the candidate waited for: (bin, requests)."""
        for tail, count in self._tails("latency.candidate."):
            yield int(tail), count

    def dropped(self) -> dict[str, int]:
        """Mirrors that were intended and not compared, by why."""
        found: dict[str, int] = {}
        for why, count in sorted(self._tails(Counter.mirror_dropped(""))):
            found[why] = found.get(why, 0) + count
        return found

    # --- pairs ---------------------------------------------------------------------------------

    def pair(self, name: str) -> dict[str, int]:
        """Pairs by outcome, the incumbent's digit first."""
        return {ab: self._count(f"pair.{name}.{ab}") for ab in ("00", "01", "10", "11")}

    @property
    def pairs(self) -> int:
        """Requests that both arms tried to answer."""
        return sum(self.pair("error").values())

    def paired_bad(self, name: str) -> Pairs:
        """Pairs by an outcome that is bad to have: an error, or more time than a mark."""
        pairs = self.pair(name)
        return Pairs(better=pairs["10"], worse=pairs["01"], alike=pairs["00"] + pairs["11"])

    @property
    def mirrors(self) -> int:
        """Mirrors that were intended."""
        return self._count(Counter.MIRROR_INTENDED)

    def agreement(self, name: str) -> dict[int, int]:
        """Pairs by agreement of the arms, in hundredths rounded down."""
        found: dict[int, int] = {}
        for tail, count in self._tails(f"pair.{name}."):
            found[int(tail)] = found.get(int(tail), 0) + count
        return found

    # --- labels --------------------------------------------------------------------------------

    def labels(self, role: Role) -> int:
        """Labelled requests assigned to the role's arm."""
        return self._label(Counter.labels(role))

    def due(self, role: Role) -> int:
        """Answered requests of the role's arm whose truth is awaited."""
        return self._label(f"due.{role}")

    @property
    def pairs_due(self) -> int:
        """Pairs of two predictions whose truth is awaited."""
        return self._label("pair.due")

    def paired_hits(self, k: int) -> Pairs:
        """Labelled pairs by whose own first k held the truth."""
        pairs = {ab: self._label(f"pair.hit{k}.{ab}") for ab in ("00", "01", "10", "11")}
        return Pairs(better=pairs["01"], worse=pairs["10"], alike=pairs["00"] + pairs["11"])

    def split_hits(self, k: int) -> Cells:
        """Labelled requests by arm and hit."""
        candidate, incumbent = (
            self._label(Counter.hit(role, k)) for role in ("candidate", "incumbent")
        )
        return Cells(
            candidate,
            self.labels("candidate") - candidate,
            incumbent,
            self.labels("incumbent") - incumbent,
        )

    def hits(self, k: int) -> tuple[int, int]:
        """The candidate's labelled predictions: (hit, missed)."""
        if self.stage.mode == "shadow":
            pairs = {ab: self._label(f"pair.hit{k}.{ab}") for ab in ("00", "01", "10", "11")}
            return pairs["01"] + pairs["11"], pairs["00"] + pairs["10"]
        cells = self.split_hits(k)
        return cells.candidate_yes, cells.candidate_no

    @property
    def labelled_pairs(self) -> int:
        """Pairs whose truth has come."""
        return sum(self.paired_hits(1))

    # --- contradictions ------------------------------------------------------------------------

    def contradictions(self) -> Iterator[str]:
        """Say which counts cannot both be true."""
        for role in ("incumbent", "candidate"):
            total = self.assigned(role)
            if self.errors(role) > total:
                yield f"{self.errors(role)} errors of {total} requests assigned to the {role}"
            for mark in ("budget", "p50", "p95", "p99"):
                if self.over(role, mark) > total:
                    yield f"{self.over(role, mark)} of {total} requests of the {role} over {mark}"
            for k in (1, 5, 10):
                hits = self._label(Counter.hit(role, k))
                if hits > self.labels(role):
                    yield f"{hits} hits in {self.labels(role)} labels of the {role}"
            if self.labels(role) > self.due(role) > 0:
                yield f"{self.labels(role)} labels of {self.due(role)} awaited of the {role}"
        if self.mirrors > self.requests:
            yield f"{self.mirrors} mirrors of {self.requests} requests"

    @property
    def empty(self) -> bool:
        """Whether nothing at all was counted."""
        return not self._counts and not self._labels

    def _count(self, name: str) -> int:
        return self._add(name, self._counts)

    def _label(self, name: str) -> int:
        return self._add(name, self._labels)

    def _add(self, name: str, parts: tuple[Mapping[str, int], ...]) -> int:
        found = self._added.get(name)
        if found is None:  # a counter is either about labels or not: its name says which
            full = self._prefix + name
            found = self._added[name] = sum([part[full] for part in parts if full in part])
        return found

    def _tails(self, prefix: str) -> list[tuple[str, int]]:
        """List what follows `prefix` in counters' names, with their counts."""
        prefix = self._prefix + prefix
        n = len(prefix)
        return [
            (name[n:], part[name])
            for part in self._counts
            for name in part
            if name.startswith(prefix)
        ]


def _parts(counts: Counts, strata: tuple[str, ...]) -> tuple[Mapping[str, int], ...]:
    held = counts.by_stratum
    return tuple(held[name] for name in strata if name in held)
