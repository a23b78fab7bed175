"""What a gateway must know, versioned; and what it reports, typed. The contract of Redis.

Controllers write a `Snapshot`; gateways read it and never write it. Gateways write `Batch`es of
integer counts, samples and pending labels; controllers read them. Neither calls the other.

A snapshot is ordered by `(epoch, version)`: the version grows by one with every transition, the
epoch only when a store lost its memory. A gateway never goes back to a lower pair.

Counters are integers with names from a closed set (`Counter`), so that replicas merge by addition,
in any order. A counter's name may carry a bin: `latency.candidate.231`. Bins are described beside
their functions: `latency_bin` (logarithmic, 1 % relative error) and `share_bin` (linear).

Every count is added in two places: in its stage's totals, which last and whose size is bounded by
the closed set of names; and in its minute (labels: in its slot, see `rollout.minutes`), which is
forgotten. Totals are complete at every moment, whenever a count comes in, so a reader of a stage
reads them alone, and nothing has to be folded. Whoever wants the totals without the newest minutes
subtracts those.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from types import MappingProxyType
from typing import Annotated, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

BUCKETS: Final = 10_000
"""Assignment resolution: one bucket is a hundredth of a percent."""
LABEL_WINDOW_S: Final = 3600.0
"""How long a request's truth may arrive, where no plan says otherwise."""

Role = Literal["incumbent", "candidate"]
Mode = Literal["shadow", "ab"]
Scope = Literal["long", "all"]
Unit = Literal["request", "key"]
Arm = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
Percent = Annotated[float, Field(ge=0, le=100)]
MarkName = Annotated[str, StringConstraints(pattern=r"^(budget|p50|p95|p99)$")]
"""`budget` is the plan's, for both arms; a quantile is the incumbent's before the rollout, and the
candidate's side of it has the plan's tolerance on top."""


class Frozen(BaseModel):
    """A value: immutable, and refused at birth when a field is unknown or wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Position(NamedTuple):
    """A snapshot's place in the order of all snapshots. Written `epoch.version`."""

    epoch: int
    version: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.version}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `epoch.version`. Raises ValueError."""
        epoch, _, version = text.partition(".")
        return cls(int(epoch), int(version))


class Tier(Frozen):
    """One line of the tier table: an arm, and the longest context (in vectors) that it reads."""

    arm: Arm
    max_length: int = Field(gt=0)
    active: bool = True


DEFAULT_TIERS: Final = (
    Tier(arm="phase1", max_length=100),
    Tier(arm="phase2", max_length=500, active=False),
)


class Mark(Frozen):
    """A latency to count against, in seconds: each arm's own side, exact where bins are not."""

    incumbent: float = Field(gt=0)
    candidate: float = Field(gt=0)


STRATUM_BORDERS: Final = (100, 200, 350, 500)
"""The longest context, in vectors, of each bucket but the last."""


class Live(Frozen):
    """The part of a running rollout that a gateway acts on."""

    id: str
    candidate: Arm
    incumbent: Arm
    scope: Scope
    unit: Unit
    salt: str
    evidence_epoch: int = Field(ge=1)
    stage: str
    mode: Mode
    weight: Percent
    shadow_sample: Percent
    label_window_s: float = Field(gt=0)
    marks: dict[MarkName, Mark] = Field(default_factory=dict)
    """Frozen when the rollout began, so that what is counted means the same in all its stages."""
    strata: tuple[int, ...] = Field(
        default=STRATUM_BORDERS, exclude_if=lambda borders: borders == STRATUM_BORDERS
    )
    """Borders of the context-length buckets that requests are counted in."""
    counting: bool = True
    """False until every live gateway has applied the stage: what is decided before is warm-up."""

    @property
    def counted_stage(self) -> str:
        """The stage that a request decided now is counted under."""
        return self.stage if self.counting else warm_up(self.stage)

    def role(self, arm: str) -> Role:
        """Name the part that `arm` plays in this rollout."""
        return "candidate" if arm == self.candidate else "incumbent"


class Snapshot(Frozen):
    """Everything a gateway needs to decide, at one version."""

    epoch: int = Field(ge=0)
    version: int = Field(ge=0)
    tiers: tuple[Tier, ...]
    rollout: Live | None = None
    changed_at: float = 0.0
    """Unix seconds on the store's clock."""

    @property
    def position(self) -> Position:
        """The snapshot's place in the order."""
        return Position(self.epoch, self.version)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        check_tiers(self.tiers)
        arms = {tier.arm for tier in self.tiers}
        if self.rollout and not {self.rollout.candidate, self.rollout.incumbent} <= arms:
            raise ValueError("the rollout names an arm that the tier table does not hold")
        return self


def check_tiers(tiers: tuple[Tier, ...]) -> tuple[Tier, ...]:
    """Return `tiers` if they make a table. Raises ValueError, naming every fault of it."""
    faults: list[str] = []
    arms = [tier.arm for tier in tiers]
    lengths = [tier.max_length for tier in tiers]
    if len(set(arms)) != len(arms):
        faults.append(f"an arm stands twice in {', '.join(arms)}")
    if lengths != sorted(set(lengths)):
        faults.append(f"max_length must rise from tier to tier, found {lengths}")
    if not any(tier.active for tier in tiers):
        faults.append("no tier is active, so nothing could answer")
    if faults:
        raise ValueError("the tier table: " + "; ".join(faults))
    return tiers


# --- what a gateway reports ----------------------------------------------------------------------


def warm_up(stage: str) -> str:
    """Name the cells of a stage's warm-up. No stage has such a name, and no judge reads them."""
    return f"{stage}/warm-up"


class Cell(NamedTuple):
    """What a count belongs to. `minute` is the admission time in whole minutes since 1970."""

    rollout: str
    evidence_epoch: int
    stage: str
    """`Live.counted_stage`."""
    minute: int
    stratum: str


KEPT_SAMPLES: Final = 50
"""How many samples are kept of each stage."""


class Sample(Frozen):
    """One compared request, for the report: how far the arms were apart on it.

    A gateway takes a bounded number a second, whatever they show; of these a store keeps those of
    each stage with the least agreement (`Keys.samples`), and `Counter.SAMPLED` says of how many.
    """

    request_id: str
    rollout: str
    evidence_epoch: int = Field(default=1, ge=1)
    stage: str
    at: float
    length: int
    cosine: float
    overlap10: float
    rbo: float
    latency_ms: dict[Role, float]
    top: dict[Role, tuple[int, ...]]

    @property
    def agreement(self) -> float:
        """What samples are ranked by: overlap@10, and among equals the cosine.

        Overlaps lie 0.1 apart and a cosine between -1 and 1: a 25th of it never outweighs one.
        """
        return self.overlap10 + self.cosine / 25


class Pending(NamedTuple):
    """A request whose truth may still arrive: the first ten ids of every arm that answered.

    `cell` is None for a request outside any rollout: its label is accepted and counts nowhere.
    """

    request_id: str
    at: float
    """When it was admitted, in Unix seconds."""
    cell: Cell | None = None
    assigned: Role | None = None
    top: Mapping[Role, tuple[int, ...]] = MappingProxyType({})
    label_window_s: float = LABEL_WINDOW_S
    """The rollout's `Live.label_window_s`: so long after its admission the request is forgotten."""
    key: str | None = None
    """Where the routing key is the unit: a keyed digest of it."""

    @property
    def awaited(self) -> tuple[str, ...]:
        """The counters of what a truth may come to."""
        if self.cell is None or self.assigned is None or not self.top:
            return ()
        return _awaited(self.assigned, len(self.top) > 1)


KEPT_VECTORS: Final = 500
"""How many requests of one label window and stage keep their vectors."""


class Vectors(NamedTuple):
    """Both arms' predictions for one request, kept until its truth comes.

    A label window is cut into as many slices as requests may be kept, and of each slice the request
    with the lowest rank is: so they are few, spread over the whole of a stage, and chosen by
    nothing that they show.
    """

    request_id: str
    at: float
    """When it was admitted, in Unix seconds."""
    cell: Cell
    label_window_s: float
    incumbent: bytes
    """float16 `[768]`, little-endian."""
    candidate: bytes
    key: str | None = None
    """As `Pending.key`."""

    @property
    def slice(self) -> int:
        """Which slice of time the request was admitted in, counted since 1970."""
        return int(self.at * KEPT_VECTORS // self.label_window_s)

    @property
    def rank(self) -> str:
        """A hash of the request's id, as hexadecimal digits."""
        name = self.request_id.encode(errors="surrogatepass")
        return blake2b(name, digest_size=8, person=b"turnout.vectors").hexdigest()


class Heartbeat(Frozen):
    """A gateway's word that it lives, and which version it applied."""

    boot: str
    at: float
    epoch: int
    version: int
    held: bool
    """Whether the local file `hold-at-incumbent` stops candidate traffic here."""
    dropped: int = 0
    """Counts lost since boot because the spool was full."""
    identities: dict[Arm, str] = Field(default_factory=dict)
    """What each arm's model server says that it computes with; an arm that does not is left out."""
    applied: Snapshot | None = None
    """What was applied: a store that lost its memory learns from it what is in force."""

    @property
    def position(self) -> Position:
        """The place of the snapshot that was applied."""
        return Position(self.epoch, self.version)


Metric = Literal["request", "pair", "due", "pair.due", "truth"]
"""What is counted once for each routing key and stage, where keys are the unit."""


def metric_of(awaited: str) -> Metric:
    """Name the metric of a counter of `Pending.awaited`."""
    return "pair.due" if awaited == Counter.PAIR_DUE else "due"


@dataclass(frozen=True, slots=True)
class Observation:
    """What one request counts if it is the first of its routing key to be seen by the metric."""

    cell: Cell
    metric: Metric
    key: str
    """A keyed digest of the routing key, never the key itself."""
    counters: tuple[str, ...]
    """Their twins (`Counter.first`) are added to; these themselves are in the batch's counts."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one gateway saw since its last flush. `(boot, sequence)` makes it count once."""

    boot: str
    sequence: int
    counts: Mapping[Cell, Mapping[str, int]]
    samples: tuple[Sample, ...] = ()
    pending: tuple[Pending, ...] = ()
    """Each also counts `Pending.awaited`."""
    observations: tuple[Observation, ...] = ()
    vectors: tuple[Vectors, ...] = ()


LabelOutcome = Literal["counted", "sampled", "outside", "repeat", "contradiction", "unknown"]
"""What came of a label. `sampled`: counted, and its request's `Vectors` are kept."""

# --- counters ------------------------------------------------------------------------------------

ALL_MINUTES: Final = "-"
"""Stands for the minute in the fields of a stage's totals."""
RELATIVE_ERROR: Final = 0.01
_GAMMA: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
SHARE_BINS: Final = 100


class Counter:
    """The closed set of counter names. `role` is incumbent or candidate.

    A pair's outcome is two digits, the incumbent's first: `10` = incumbent yes, candidate no.

    Each counter of an observation has a twin, `first.<counter>`, where the routing key is the unit:
    it counts no more than one observation of a key per stage and metric, because those of one key
    are not independent.
    """

    OVERRIDDEN: Final = "overridden"
    KEYLESS: Final = "keyless"
    MIRROR_INTENDED: Final = "mirror.intended"
    MIRROR_COMPARED: Final = "mirror.compared"
    PAIR_DUE: Final = "pair.due"
    """Pairs of two predictions whose truth is awaited: what `pair_hit` may come to."""
    KEYS_BEYOND: Final = "keys.beyond"
    """Observations whose key was new when no more keys could be remembered: no twin has them."""
    SAMPLED: Final = "sampled"
    """Pairs that were taken as a `Sample`."""

    @staticmethod
    def assigned(role: Role) -> str:
        """Requests assigned to the role's arm."""
        return f"assigned.{role}"

    @staticmethod
    def error(role: Role, kind: str) -> str:
        """Failures of the assigned arm, by kind (timeout, connection, status, invalid, refused)."""
        return f"error.{role}.{kind}"

    @staticmethod
    def fallback(role: Role) -> str:
        """Requests assigned to the role's arm that the other arm answered."""
        return f"fallback.{role}"

    @staticmethod
    def latency(role: Role, seconds: float) -> str:
        """What the client waited for, by assigned arm."""
        return f"latency.{role}.{latency_bin(seconds)}"

    @staticmethod
    def arm_latency(role: Role, seconds: float) -> str:
        """The arm's own time on a mirrored pair: advisory, one of the two was not served."""
        return f"pair.latency.{role}.{latency_bin(seconds)}"

    @staticmethod
    def by_prefix(latency: str, outcome: str) -> str:
        """A `latency` or `arm_latency`, of those for which the arm's known prefixes did this.

        `outcome` is hit, miss, slid or off. Model servers that do not tell have none of these.
        """
        return f"prefix.{outcome}.{latency}"

    @staticmethod
    def mirror_dropped(why: str) -> str:
        """Mirrors that were intended but not compared (full, bytes, timeout, error, refused)."""
        return f"mirror.dropped.{why}"

    @staticmethod
    def pair_error(incumbent: bool, candidate: bool) -> str:
        """Pairs by who failed."""
        return f"pair.error.{incumbent:d}{candidate:d}"

    @staticmethod
    def pair_value(
        name: Literal["cosine", "overlap1", "overlap5", "overlap10", "rbo"], value: float
    ) -> str:
        """Pairs by agreement of the two predictions, in hundredths."""
        return f"pair.{name}.{share_bin(value)}"

    @staticmethod
    def over(role: Role, mark: str) -> str:
        """Requests that took longer than the role's side of a mark, by assigned arm; exact."""
        return f"over.{role}.{mark}"

    @staticmethod
    def pair_over(mark: str, incumbent: bool, candidate: bool) -> str:
        """Pairs by which arm took longer than its side of a mark."""
        return f"pair.over.{mark}.{incumbent:d}{candidate:d}"

    @staticmethod
    def due(role: Role) -> str:
        """Answered requests whose truth is awaited, by assigned arm: what `labels` may come to."""
        return f"due.{role}"

    @staticmethod
    def first(counter: str) -> str:
        """The twin of a counter that takes one observation of each key."""
        return f"first.{counter}"

    @staticmethod
    def labels(role: Role) -> str:
        """Labelled requests, by assigned arm."""
        return f"labels.{role}"

    @staticmethod
    def hit(role: Role, k: int) -> str:
        """Labelled requests whose truth was among the first k that the client got."""
        return f"hit{k}.{role}"

    @staticmethod
    def pair_hit(k: int, incumbent: bool, candidate: bool) -> str:
        """Labelled pairs by whose own first k held the truth."""
        return f"pair.hit{k}.{incumbent:d}{candidate:d}"

    @staticmethod
    def truth_cosine(role: Role, value: float) -> str:
        """Pairs that kept their vectors, by the role's cosine to the truth, in hundredths."""
        return f"truth.{role}.{share_bin(value)}"

    @staticmethod
    def truth_difference(value: float) -> str:
        """Likewise, by the candidate's cosine to the truth minus the incumbent's, cut to +-0.3."""
        return f"truth.difference.{difference_bin(value)}"


HITS: Final = (1, 5, 10)


@functools.cache
def _awaited(assigned: Role, paired: bool) -> tuple[str, ...]:
    due = Counter.due(assigned)
    return (due, Counter.PAIR_DUE) if paired else (due,)


def latency_bin(seconds: float) -> int:
    """The logarithmic bin of a duration, counted in microseconds: `ceil(ln(us) / ln(gamma))`.

    gamma = (1 + a) / (1 - a), a = 1 % (Masson et al., DDSketch, VLDB 2019).
    """
    return math.ceil(math.log(max(seconds * 1e6, 1.0)) / math.log(_GAMMA))


def latency_of(bin_: int) -> float:
    """The duration in seconds that stands for a bin, at most 1 % from any in it."""
    return float(2 * _GAMMA**bin_ / (_GAMMA + 1) / 1e6)


def share_bin(value: float) -> int:
    """The bin of a value from -1 to 1, in hundredths, rounded down (against the candidate)."""
    return math.floor(max(-1.0, min(1.0, value)) * SHARE_BINS + 1e-9)


DIFFERENCE_LIMIT: Final = 0.3
"""Where differences of two cosines are cut off: a bound that a bet can be made against."""
DIFFERENCE_BIN: Final = 0.002


def difference_bin(value: float) -> int:
    """The bin of a difference of two cosines, in steps of 0.002, rounded down."""
    cut = max(-DIFFERENCE_LIMIT, min(DIFFERENCE_LIMIT, value))
    return math.floor(cut / DIFFERENCE_BIN + 1e-9)


@functools.lru_cache(maxsize=4096)
def stratum(length: int, borders: tuple[int, ...] = STRATUM_BORDERS) -> str:
    """The context-length bucket of a request: `<=100`, `101-200`, `201-350`, `351-500`, `>500`."""
    low = 0
    for border in borders:
        if length <= border:
            return f"{low + 1}-{border}" if low else f"<={border}"
        low = border
    return f">{low}"


@functools.lru_cache(maxsize=64)
def stratum_names(borders: tuple[int, ...] = STRATUM_BORDERS) -> tuple[str, ...]:
    """Every context-length bucket of these borders, shortest first."""
    return (*(stratum(border, borders) for border in borders), stratum(borders[-1] + 1, borders))
