"""What a shadow comparison report holds: the JSON document, typed.

Every figure of the page stands here under a stable path (`stages.0.candidate.assigned`), raw and
unrounded; the page only writes it down. Shares, rates and coverage are percent, latencies
milliseconds, times Unix seconds. None (JSON null) means that it was not measured.
"""

from typing import Final, Literal

from rollout.judge import Verdict
from rollout.machine import AuditEntry, State
from rollout.snapshot import Arm, Frozen, Role, Scope, Unit
from rollout.tally import RoleTally, StageTally

FORMAT: Final = "turnout.report/1"


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


class ArmReport(RoleTally):
    """One arm in one stage."""

    arm: Arm
    error_rate: Rate
    hit_rates: dict[int, Rate]
    """For each k, of the labelled requests that were assigned to the arm."""


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
    verdict: Verdict | None
    """What the stage was left on."""

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
    nearest: dict[Role, int | None]
    """The first neighbour that each arm named."""


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
    mirrored: int
    compared: int
    labels: int


class Note(Frozen):
    """What a figure of this report means, or what is not claimed."""

    about: str
    text: str


class Report(Frozen):
    """The whole document."""

    format: Literal["turnout.report/1"] = FORMAT
    made_at: float
    headline: Headline
    notice: str | None
    """What must be read before any figure, such as that weights are untrained."""
    summary: tuple[str, ...]
    totals: Totals
    targets: dict[int, float]
    stages: tuple[StageReport, ...]
    differences: tuple[Difference, ...]
    samples: int
    """How many sampled requests `differences` was chosen from."""
    audit: tuple[AuditEntry, ...]
    models: dict[Arm, Model]
    notes: tuple[Note, ...]
