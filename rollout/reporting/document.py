"""What a shadow comparison report holds: the JSON document, typed.

Every figure of the page stands here under a stable path (`stages.0.candidate.assigned`), raw and
unrounded; the page only writes it down. Shares, rates and coverage are percent, latencies
milliseconds, times Unix seconds. None (JSON null) means that it was not measured.
"""

from typing import Final, Literal

from rollout.judging.nearness import Nearness
from rollout.latencies import Quantiles
from rollout.machine import AuditEntry, State
from rollout.snapshot import Arm, Frozen, Role, Scope, Unit
from rollout.stakes import StakeRow
from rollout.tally import RoleTally, StageTally
from rollout.verdict import Verdict

Whose = Literal["incumbent", "candidate", "pairs"]
FORMAT: Final = "turnout.report/2"


class Rate(Frozen):
    """A share of `n`, with its Wilson 95 % interval: for one look at a sample of fixed size."""

    count: int
    n: int
    percent: float | None
    low: float | None
    high: float | None


class Ratio(Frozen):
    """Whether traffic was split as intended: the sample-ratio check.

    `ln_e` is the natural logarithm of an e-value against the intended share; it may be looked at
    any number of times. `mismatch` from E = 1000 up.
    """

    intended: float
    counted: int
    of: int
    actual: float | None
    ln_e: float | None
    kind: Literal["consistent", "mismatch", "not tested", "no data"]
    reason: str


class Coverage(Frozen):
    """How much of what was awaited came. `percent` is None where nothing was awaited."""

    due: int
    came: int
    percent: float | None


class PairDifference(Frozen):
    """Hit@k of the candidate minus Hit@k of the incumbent on the same requests, in points.

    `low` and `high` are a 95 % confidence sequence: valid at every look, unlike the interval of a
    `Rate`.
    """

    n: int
    points: float | None
    low: float | None
    high: float | None


class ArmReport(RoleTally):
    """One arm in one stage."""

    arm: Arm
    error_rate: Rate
    hit_rates: dict[int, Rate]
    """For each k, of the labelled requests that were assigned to the arm."""


class LengthArm(Frozen):
    """One arm in one context-length bucket of one stage, by assignment."""

    assigned: int
    error_count: int
    error_percent: float | None
    latency_ms: Quantiles
    arm_latency_ms: Quantiles


class LengthReport(Frozen):
    """One context-length bucket of one stage."""

    stratum: str
    requests: int
    percent: float | None
    """Of the stage's requests."""
    incumbent: LengthArm
    candidate: LengthArm
    compared: int
    cosine: float | None
    """Mean over the pairs compared."""
    labelled_pairs: int
    pair_hit_rates: dict[Role, dict[int, Rate]]
    pair_differences: dict[int, PairDifference]


class StageReport(StageTally):
    """One stage of the plan, as far as it came."""

    reached: bool
    entered_at: float | None
    left_at: float | None
    duration_s: float | None
    """Until `made_at` in the stage that is still on."""
    incumbent: ArmReport
    candidate: ArmReport
    split: Ratio
    """The stage's weight: of mirrors in `shadow`, of answers in `ab`."""
    sampling: Ratio | None
    """The `shadow_sample` of an `ab` stage."""
    labelled_pairs: int
    pair_hit_rates: dict[Role, dict[int, Rate]]
    """Each arm's own hits on the labelled pairs: in `shadow`, the candidate's only ones."""
    pair_differences: dict[int, PairDifference]
    nearness: Nearness
    """Cosines to the truth, on those of them that kept their vectors."""
    label_coverage: dict[Whose, Coverage]
    """Truths that came, of those awaited: by assigned arm, and for both arms of a pair."""
    lengths: tuple[LengthReport, ...]
    """By length of the context, shortest first."""
    warm_up: int
    """Requests before every gateway had applied the stage: in none of the figures here."""
    sampled: int
    """Pairs that were taken as samples: what the requests that differ most were chosen from."""
    verdict: Verdict | None
    judged: Literal["on leaving", "at the report"] | None
    """When: a stage left by its gate keeps the verdict that it was left on."""

    def role(self, role: Role) -> ArmReport:
        """One arm's figures."""
        return self.candidate if role == "candidate" else self.incumbent


class Difference(Frozen):
    """One sampled request on which the arms were far apart."""

    request_id: str
    stage: str
    at: float
    length: int
    """Vectors in the context."""
    cosine: float
    overlap10: float
    rbo: float
    latency_ms: dict[Role, float]
    """Each arm's own time."""
    top: dict[Role, tuple[int, ...]]
    """The first neighbours that each arm named, the nearest first; ten at most."""
    shared: int
    """How many of them both named."""
    truth: int | None = None
    """The id of what came in truth; None where it is not known."""
    truth_place: dict[Role, int | None] | None = None
    """At which place each arm named it, from 1, the nearest; None for an arm that did not."""


class Moment(Frozen):
    """One look of the controller, as `rollout.trace` kept it."""

    at: float
    since_start_s: float
    stage: str
    gate: str
    guard_ln_e: float | None
    guard_high: float
    ln_e: dict[str, float]
    """By the name of a check that the gate requires."""
    requests: int
    pairs: int
    pair_hit_rates: dict[Role, dict[int, float | None]]
    """Percent of the labelled pairs, for each k."""
    pair_differences: dict[int, PairDifference]


class Timeline(Frozen):
    """The evidence over time. `kept` looks were kept, of which `moments` are shown."""

    kept: int
    moments: tuple[Moment, ...]


class Guard(Frozen):
    """What the rollback guard says; `verdict.stakes` names every entry that it weighs."""

    verdict: Verdict
    judged: Literal["on ending", "at the report"]
    """When: a rollout that ended by itself keeps what its guard said then."""
    high: float
    """ln of the highest average e-value that it ever saw."""
    rows: tuple[StakeRow, ...] = ()
    """What the average is the sum of: the largest parts, and all others in one."""


class Model(Frozen):
    """What an arm computed with: sha256 of its checkpoint and of its bank."""

    checkpoint: str
    bank: str
    trained: bool


class Headline(Frozen):
    """Which rollout this is, where it stands, and who started and ended it."""

    rollout: str
    plan: str
    state: State
    candidate: Arm
    incumbent: Arm
    scope: Scope
    unit: Unit
    evidence_epoch: int
    stage: str
    """The last stage reached."""
    started_at: float
    started_by: str | None
    ended_at: float | None
    ended_by: str | None
    duration_s: float


class Totals(Frozen):
    """Counts over all stages. Rates are not pooled: weights differ between stages."""

    requests: int
    incumbent: int
    candidate: int
    candidate_percent: float | None
    errors_incumbent: int
    errors_candidate: int
    pair_errors_incumbent: int
    """Of the pairs, those on which this arm failed: of mirrors too, which no client waits for."""
    pair_errors_candidate: int
    mirrored: int
    compared: int
    labels: int
    labelled_pairs: int


class Note(Frozen):
    """What a figure of this report means, or what is not claimed."""

    about: str
    text: str


class Report(Frozen):
    """The whole document."""

    format: Literal["turnout.report/2"] = FORMAT
    made_at: float
    headline: Headline
    notice: str | None
    """What must be read before any figure, such as that weights are untrained."""
    summary: tuple[str, ...]
    totals: Totals
    targets: dict[int, float]
    stages: tuple[StageReport, ...]
    differences: tuple[Difference, ...]
    sampled: int
    """How many sampled requests `differences` was chosen from."""
    timeline: Timeline
    guard: Guard | None
    """None where nothing could be judged."""
    audit: tuple[AuditEntry, ...]
    models: dict[Arm, Model]
    notes: tuple[Note, ...]
