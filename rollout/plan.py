"""What a rollout is meant to do: stages, gates, targets, and what follows from a verdict. Pure.

Values are validated at birth: each field by itself (pydantic), and the fields against each other
(`cross_faults`, over whatever could be read). `rollout.planfile` reads and writes plans.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from rollout.freeze import Freeze
from rollout.gates import (
    DEFAULT_GUARD,
    Agreement,
    GuardMetric,
    LatencyQuantile,
    Required,
    default_requirements,
    requirement_faults,
)
from rollout.minutes import WATERMARK_MOST_S
from rollout.quantities import Count, Name, Seconds, Share, duration, no_truth_value, rising
from rollout.snapshot import (
    HITS,
    LABEL_WINDOW_S,
    STRATUM_BORDERS,
    Arm,
    Frozen,
    Mode,
    Scope,
    Tier,
    Unit,
    stratum_names,
)

_EVERYTHING: Final = 100.0
_DAY: Final = 86_400.0
Flag = Annotated[bool, Field(strict=True)]
Points = Annotated[Share, Field(gt=0, lt=100)]
Ratio = Annotated[float, BeforeValidator(no_truth_value), Field(ge=1, le=100)]
Slower = Annotated[float, BeforeValidator(no_truth_value), Field(ge=0, le=10_000)]
Alpha = Annotated[float, BeforeValidator(no_truth_value), Field(gt=0, le=0.2)]
Borders = Annotated[
    tuple[Annotated[Count, Field(gt=0)], ...],
    Field(min_length=1, max_length=64),
    AfterValidator(rising),
]
Weight = Annotated[float, BeforeValidator(no_truth_value), Field(gt=0, le=1000)]


def _kept(watermark_s: float) -> float:
    """Refuse a watermark behind which no minute is known any more. Raises ValueError."""
    if watermark_s > WATERMARK_MOST_S:
        raise ValueError(
            f"must be at most {duration(WATERMARK_MOST_S)}, not {duration(watermark_s)}: the store "
            "keeps the counts of a minute for two hours, and what it has dropped cannot be told "
            "from what may count"
        )
    return watermark_s


Watermark = Annotated[Seconds, AfterValidator(_kept)]


class Stage(Frozen):
    """One step of a rollout: how much traffic the candidate sees, and what must be seen first."""

    name: Name = Field(description="Unique in the plan.")
    mode: Mode = Field(description="shadow: compared and dropped; ab: the candidate answers.")
    weight: Share = Field(
        gt=0, description="Percent of the requests in scope that the candidate gets."
    )
    shadow_sample: Share = Field(
        default=0, description="ab only: percent also sent to the arm that did not answer."
    )
    min_duration_s: Seconds = Field(description="Time in the stage before the gate may open.")
    min_requests: Count = Field(description="Requests in scope before the gate may open.")
    min_pairs: Count = Field(
        default=0, description="Requests that both arms answered, before the gate may open."
    )
    max_duration_s: Seconds | None = Field(
        default=None, description="Deadline: a gate still shut after it is on_inconclusive."
    )
    max_requests: Count | None = Field(default=None, description="Likewise, in requests in scope.")
    approval: Flag = Field(
        default=False, description="Whether an approver must agree before the stage is left."
    )
    approval_timeout_s: Seconds = Field(
        default=3 * _DAY, description="How long an approval is awaited before the rollout is held."
    )
    require: tuple[Required, ...] | None = Field(
        default=None,
        description="Checks that the gate requires, of paired_errors, errors, latency_budget, "
        "latency_relative, mirror_coverage, label_coverage, hits, targets and agreement; by "
        "default those of the mode and the weight. The others are reported.",
    )

    @property
    def mirrors(self) -> bool:
        """Whether this stage sends requests to both arms."""
        return self.mode == "shadow" or self.shadow_sample > 0

    @property
    def splits(self) -> bool:
        """Whether both arms answer clients in this stage."""
        return self.mode == "ab" and 0 < self.weight < _EVERYTHING

    @property
    def required(self) -> tuple[Required, ...]:
        """The checks that this stage's gate requires."""
        if self.require is not None:
            return self.require
        return default_requirements(self.mode, self.weight, mirrors=self.mirrors)


class Plan(Frozen):
    """What a rollout is meant to do, from its first stage to 100 %."""

    name: Name = Field(description="Begins the ids of this plan's rollouts.")
    candidate: Arm = Field(description="The tier on trial.")
    scope: Scope = Field(default="long", description="Which requests take part.")
    unit: Unit = Field(default="request", description="What assignment is sticky to.")
    stages: tuple[Stage, ...] = Field(description="In order; the last is ab at 100 %.")
    max_error_rate: Points = Field(
        default=0.5,
        description="Percent of the candidate's own attempts that may fail; 0 could not be proven.",
    )
    error_margin: Points = Field(
        default=0.5,
        description="Percentage points by which the candidate may fail more often on pairs.",
    )
    error_ratio: Ratio = Field(
        default=2,
        description="A/B gate: errors above max_error_rate pass up to so many of the incumbent's.",
    )
    rollback_error_ratio: Ratio = Field(
        default=1,
        description="A/B guard: proven more than this many times the incumbent's errors is FAIL.",
    )
    latency_budget_s: Seconds = Field(
        default=1,
        gt=0,
        description="What the candidate's latency_quantile may be, for the client.",
    )
    latency_quantile: LatencyQuantile = Field(
        default="p99", description="The quantile that the budget is for: p50, p95 or p99."
    )
    latency_margins: dict[LatencyQuantile, Slower] = Field(
        default={"p50": 100, "p95": 100},
        description="Percent by which the candidate's quantiles may exceed the incumbent's.",
    )
    min_mirror_coverage: Share = Field(
        default=95, description="Percent of the intended comparisons that must have been made."
    )
    targets: dict[int, Share] = Field(
        default={1: 30, 5: 55, 10: 70}, description="Hit@k in percent: reported, not required."
    )
    gate_hit: Literal[1, 5, 10] = Field(
        default=5, description="The k of the Hit@k that `hits` compares."
    )
    hit_margin: Points = Field(
        default=3, description="Percentage points by which the candidate's Hit@k may be lower."
    )
    hit_stratum_margin: Points | None = Field(
        default=None,
        description="The same in each major stratum, where fewer are: by default twice as wide.",
    )
    major_stratum: Share = Field(
        default=20, description="Percent of the traffic in scope that makes a stratum a major one."
    )
    strata: Borders | None = Field(
        default=None,
        description="Longest contexts, in vectors, of the strata but the last: by default "
        f"{', '.join(map(str, STRATUM_BORDERS))} and what the tiers read at most.",
    )
    agreement_floor: dict[Agreement, Annotated[float, Field(gt=-1, lt=1)]] = Field(
        default={"overlap10": 0.3},
        description="What the mean agreement of the arms must exceed: reported, not required.",
    )
    alpha_rollback: Alpha = Field(
        default=0.01, description="The chance of a rollback that no regression justifies."
    )
    alpha_promote: Alpha = Field(
        default=0.05, description="The chance that a gate opens on what is not so."
    )
    guard: dict[GuardMetric, Weight] = Field(
        default=dict(DEFAULT_GUARD),
        description="Weights of what the rollback guard looks at: error_rate, paired_errors, "
        "errors, latency_budget and hits. What is left out is not looked at.",
    )
    watermark_s: Watermark = Field(
        default=60,
        description="Minutes of admission newer than this do not count yet, at most 114m; 0 takes "
        "everything.",
        json_schema_extra={"maximum": WATERMARK_MOST_S},
    )
    labels: Literal["closed", "arrived"] = Field(
        default="closed",
        description="Count truths once their label window has closed, or as they arrive: right "
        "only where the delay does not depend on the outcome.",
    )
    min_label_coverage: Share = Field(
        default=50,
        description="Percent of the awaited truths that must have come by the end of their window.",
    )
    label_window_s: Seconds = Field(
        default=LABEL_WINDOW_S, description="How long after a request its truth may arrive."
    )
    on_pass: Literal["wait", "advance"] = Field(
        default="wait", description="A gate that passes: wait for a person, or advance by itself."
    )
    on_fail: Literal["rollback", "hold"] = Field(
        default="rollback", description="The rollback guard fires: 0 % at once, or hold."
    )
    on_inconclusive: Literal["hold", "rollback"] = Field(
        default="hold", description="A stage's deadline or max_requests is reached undecided."
    )
    on_error: Literal["wait", "hold"] = Field(
        default="wait",
        description="It cannot be measured: wait until it can, or hold for a person.",
    )
    freeze: tuple[Freeze, ...] = Field(
        default=(), description="Windows in which nothing advances; an abort always works."
    )
    max_retries: Count = Field(
        default=3, description="How often `retry` may begin this plan anew after its end."
    )

    @property
    def borders(self) -> tuple[int, ...]:
        """The borders of the strata."""
        return STRATUM_BORDERS if self.strata is None else self.strata

    @property
    def stratum_names(self) -> tuple[str, ...]:
        """The strata, shortest contexts first."""
        return stratum_names(self.borders)

    def around(self, tiers: tuple[Tier, ...]) -> Self:
        """Give the plan with its strata settled: where it names none, also at the tiers' limits."""
        borders = tuple(sorted({*STRATUM_BORDERS, *(tier.max_length for tier in tiers)}))
        if self.strata is not None or borders == STRATUM_BORDERS:
            return self
        return self.model_copy(update={"strata": borders})

    @property
    def stratum_margin(self) -> float:
        """The margin of Hit@k in a major stratum, in points."""
        widest = min(2 * self.hit_margin, 99.0)
        return self.hit_stratum_margin if self.hit_stratum_margin is not None else widest

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        faults = cross_faults({**dict(self), "stages": [dict(stage) for stage in self.stages]})
        if faults:
            told = "; ".join(f"{path}: {message}" for path, message in faults)
            raise PydanticCustomError("cross_faults", "{told}", {"told": told})
        return self


# --- fields against each other -------------------------------------------------------------------

Readable = Mapping[str, Any]
"""The fields of a stage that could be read each by itself."""


def cross_faults_of(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Check what can be read of a document that has other faults too: (path, what is wrong)."""
    raw = document.get("stages")
    stages = [_readable(stage) for stage in raw] if isinstance(raw, list) else None
    return cross_faults({**document, "stages": stages})


def _readable(raw: object) -> Readable:
    """Read each field of a stage that is sound by itself; a default stands for one not given."""
    if not isinstance(raw, dict):
        return {}
    try:
        return dict(Stage.model_validate(raw))
    except ValidationError as error:
        bad = {str(detail["loc"][0]) for detail in error.errors()}
        sound = {name: value for name, value in raw.items() if name not in bad}
        read = dict(Stage.model_validate({**_PLACEHOLDERS, **sound}))
        return {name: value for name, value in read.items() if name not in bad}


_PLACEHOLDERS: Final[Readable] = {
    "name": "-", "mode": "ab", "weight": 1, "min_duration_s": 0, "min_requests": 0
}  # fmt: skip


def cross_faults(fields: Readable) -> list[tuple[str, str]]:
    """Check fields against each other, as far as they could be read: (path, what is wrong)."""
    faults: list[tuple[str, str]] = []
    stages, targets = fields.get("stages"), fields.get("targets")
    if stages is not None:
        faults += _name_faults(stages)
        for index, stage in enumerate(stages):
            faults += _mirror_faults(f"stages[{index}]", stage)
            faults += _limit_faults(f"stages[{index}]", stage)
            faults += requirement_faults(f"stages[{index}]", stage)
        faults += _order_faults(stages)
        faults += _last_faults(stages)
    if isinstance(targets, dict):
        known = ", ".join(map(str, HITS))
        faults += [
            (f"targets.{k}", f"is not measured: targets are for Hit@k with k = {known}")
            for k in targets
            if str(k) not in map(str, HITS)
        ]
    if fields.get("label_window_s") == 0:
        faults.append(("label_window_s", "must be longer than 0, or no truth can ever arrive"))
    faults += _evidence_faults(fields)
    return faults


def _evidence_faults(fields: Readable) -> Iterator[tuple[str, str]]:
    if fields.get("guard") == {}:
        yield "guard", "is empty: the rollback guard must look at something"
    ratio, strict = _number(fields, "error_ratio"), _number(fields, "rollback_error_ratio")
    if ratio and strict and strict > ratio:
        yield "rollback_error_ratio", "is above error_ratio: a gate would pass what is rolled back"
    narrow, wide = _number(fields, "hit_margin"), _number(fields, "hit_stratum_margin")
    if narrow and wide and wide < narrow:
        yield "hit_stratum_margin", "is narrower than hit_margin, and a stratum has fewer labels"


def _number(fields: Readable, name: str) -> float | None:
    value = fields.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _name_faults(stages: Sequence[Readable]) -> Iterator[tuple[str, str]]:
    seen: dict[str, int] = {}
    for index, stage in enumerate(stages):
        name = stage.get("name")
        if name in seen:
            yield f"stages[{index}].name", f"{name!r} is also the name of stages[{seen[name]}]"
        elif name is not None:
            seen[name] = index


def _mirror_faults(path: str, stage: Readable) -> Iterator[tuple[str, str]]:
    mode, sample = stage.get("mode"), stage.get("shadow_sample")
    if mode == "shadow" and sample:
        yield f"{path}.shadow_sample", "belongs to ab stages: a shadow stage mirrors its weight"
    if mode == "ab" and sample == 0 and stage.get("min_pairs"):
        reason = "can never be reached: set shadow_sample, or nothing is paired"
        yield f"{path}.min_pairs", reason


def _limit_faults(path: str, stage: Readable) -> Iterator[tuple[str, str]]:
    """A limit below what must be seen first could only end the stage undecided."""
    for most, least in (("max_duration_s", "min_duration_s"), ("max_requests", "min_requests")):
        high, low = stage.get(most), stage.get(least)
        if high is not None and low is not None and high <= low:
            yield f"{path}.{most}", f"must be more than {least}, or the gate could never open"
    if stage.get("approval") and stage.get("approval_timeout_s") == 0:
        yield f"{path}.approval_timeout_s", "must be longer than 0, or nobody could approve"


def _order_faults(stages: Sequence[Readable]) -> Iterator[tuple[str, str]]:
    """A candidate's traffic only grows: A/B weights nest, so nobody is sent back and forth."""
    most: dict[str, float] = {}
    for index, stage in enumerate(stages):
        mode, weight = stage.get("mode"), stage.get("weight")
        if mode == "shadow" and "ab" in most:
            yield f"stages[{index}].mode", "is shadow after an ab stage: shadow stages come first"
        if mode is None or weight is None:
            continue
        if weight < most.get(mode, 0):
            told = f"shrinks from {most[mode]:g} to {weight:g}: weights only grow"
            yield f"stages[{index}].weight", told
        most[mode] = max(weight, most.get(mode, 0))


def _last_faults(stages: Sequence[Readable]) -> Iterator[tuple[str, str]]:
    if not stages:
        yield "stages", "is empty: a plan has at least one stage"
        return
    path, last = f"stages[{len(stages) - 1}]", stages[-1]
    for name, wanted in (("mode", "ab"), ("weight", _EVERYTHING)):
        if name in last and last[name] != wanted:
            told = f"{wanted:g}" if isinstance(wanted, float) else wanted
            yield f"{path}.{name}", f"must be {told}: a rollout's last stage is ab at 100 %"


_WEEK: Final = 7 * _DAY
_PATIENCE: Final = 4 * _WEEK
"""What is undecided so long is held for a person: it will hardly be decided by waiting."""

DEFAULT_PLAN: Final = Plan(
    name="default",
    candidate="phase2",
    stages=(
        Stage(
            name="shadow-5",
            mode="shadow",
            weight=5,
            min_duration_s=_WEEK,
            max_duration_s=_PATIENCE,
            min_requests=1000,
            min_pairs=50,
        ),
        *(
            Stage(
                name=f"ab-{weight}",
                mode="ab",
                weight=weight,
                shadow_sample=5,
                min_duration_s=_WEEK,
                max_duration_s=_PATIENCE,
                min_requests=1000,
                min_pairs=50,
            )
            for weight in (25, 50, 100)
        ),
    ),
)
