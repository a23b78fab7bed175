"""What a rollout is meant to do: stages, gates, targets. Pure, and validated at birth.

A plan is written once, by a person, in YAML. Reading it reports *every* fault at once, each with
its path in the document and its line in the file, because a release engineer who fixes one fault
per attempt loses an afternoon. So the checks have three layers, and all of them always run: the
YAML itself, each field by itself (pydantic), and the fields against each other (`_cross_faults`,
over whatever stages could be read).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, NamedTuple, Self

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rollout.errors import RolloutError
from rollout.snapshot import HITS, LABEL_WINDOW_S, Arm, Frozen, Mode, Percent, Scope, Unit

MAX_TEXT: Final = 256 * 1024
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*")
_EVERYTHING: Final = 100.0


def seconds(value: object) -> object:
    """Read `7d`, `36h`, `90s`, `500ms` or a number of seconds. Raises ValueError on other texts."""
    if isinstance(value, bool):
        raise ValueError("write a duration such as 7d, 36h, 15m, 90s, 500ms or a number of seconds")  # noqa: TRY004 - pydantic collects ValueError
    if not isinstance(value, str):
        return value
    found = _DURATION.fullmatch(value)
    if found is None:
        raise ValueError("write a duration such as 7d, 36h, 15m, 90s, 500ms or a number of seconds")
    return float(found[1]) * _UNITS[found[2]]


def duration(value: float) -> str:
    """Write a duration as its largest whole unit: `7d`, `36h`, `90s`, `0.5s`."""
    for unit in ("d", "h", "m"):
        if value and value % _UNITS[unit] == 0:
            return f"{value / _UNITS[unit]:.0f}{unit}"
    return f"{value:.3f}".rstrip("0").rstrip(".") + "s"


def _no_truth_value(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("write a number, not true or false")  # noqa: TRY004 - pydantic collects ValueError
    return value


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$", max_length=64)]
Seconds = Annotated[float, BeforeValidator(seconds), Field(ge=0, allow_inf_nan=False)]
Share = Annotated[Percent, BeforeValidator(_no_truth_value)]
Count = Annotated[int, BeforeValidator(_no_truth_value), Field(ge=0)]


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

    @property
    def mirrors(self) -> bool:
        """Whether this stage sends requests to both arms."""
        return self.mode == "shadow" or self.shadow_sample > 0

    @property
    def splits(self) -> bool:
        """Whether both arms answer clients in this stage."""
        return self.mode == "ab" and 0 < self.weight < _EVERYTHING


class Plan(Frozen):
    """What a rollout is meant to do, from its first stage to 100 %."""

    name: Name = Field(description="Begins the ids of this plan's rollouts.")
    candidate: Arm = Field(description="The tier on trial.")
    scope: Scope = Field(default="long", description="Which requests take part.")
    unit: Unit = Field(default="request", description="What assignment is sticky to.")
    stages: tuple[Stage, ...] = Field(description="In order; the last is ab at 100 %.")
    max_error_rate: Share = Field(
        default=0.5, description="Percent of the candidate's own attempts that may fail."
    )
    min_mirror_coverage: Share = Field(
        default=95, description="Percent of the intended comparisons that must have been made."
    )
    targets: dict[int, Share] = Field(
        default={1: 30, 5: 55, 10: 70}, description="Hit@k in percent: reported, not required."
    )
    label_window_s: Seconds = Field(
        default=LABEL_WINDOW_S, description="How long after a request its truth may arrive."
    )

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        stages = [dict(stage) for stage in self.stages]
        faults = _cross_faults(stages, self.targets, self.label_window_s)
        if faults:
            told = "; ".join(f"{path}: {message}" for path, message in faults)
            raise PydanticCustomError("cross_faults", "{told}", {"told": told})
        return self


class Fault(NamedTuple):
    """One thing wrong with a plan. `line` counts from 1; None where there is no file."""

    path: str
    line: int | None
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class PlanError(RolloutError):
    """A plan that cannot be followed, with everything that is wrong with it."""

    status: ClassVar[int] = 422

    def __init__(self, errors: Sequence[Fault]) -> None:
        self.errors = tuple(errors)
        super().__init__(
            f"the plan has {len(self.errors)} fault{'s' * (len(self.errors) != 1)}: "
            + "; ".join(map(str, self.errors))
        )


# --- reading -------------------------------------------------------------------------------------


def parse_plan(text: str) -> Plan:
    """Read a plan from YAML. Raises PlanError with every fault, by path and line."""
    if len(text) > MAX_TEXT:
        raise PlanError([Fault("", 1, f"the plan is longer than {MAX_TEXT} characters")])
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):  # what refers to itself has no end
                line = event.start_mark.line + 1 if event.start_mark else None
                raise PlanError([Fault("", line, f"write *{event.anchor} out: a plan is a tree")])
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document = None if root is None else yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        raise PlanError([Fault("", line, f"this is no YAML: {error.problem}")]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise PlanError([Fault("", None, f"this is no YAML: {error}")]) from None
    except (RecursionError, TypeError):
        raise PlanError([Fault("", None, "this is nested too deep, or has a key that is no text")])  # noqa: B904
    lines: dict[str, int] = {}
    twice = [] if root is None else list(_walk(root, "", lines))
    return _read(document, lines, twice)


def read_plan(document: object) -> Plan:
    """Read a plan from plain values (the API's JSON). Raises PlanError with every fault."""
    return _read(document, {}, [])


def _read(document: object, lines: Mapping[str, int], known: list[Fault]) -> Plan:
    if not isinstance(document, dict):
        message = f"a plan is a mapping with the fields {', '.join(Plan.model_fields)}"
        raise PlanError([*known, Fault("", 1 if lines else None, message)])
    faults = list(known)
    plan = None
    try:
        plan = Plan.model_validate(document)
    except ValidationError as error:
        faults += [
            Fault(path, _line(path, lines), _told(detail))
            for detail in error.errors()
            if detail["type"] != "cross_faults"
            for path in [_path(detail["loc"])]
        ]
        faults += [
            Fault(path, _line(path, lines), message)
            for path, message in _cross_faults_of(document)
            if not any(fault.path == path for fault in faults)
        ]
    if plan is None or faults:
        raise PlanError(sorted(faults, key=lambda fault: fault.line or 0))
    return plan


def _walk(node: yaml.Node, path: str, lines: dict[str, int]) -> Iterator[Fault]:
    """Fill `lines` (path -> line); yield a fault for each key that stands twice."""
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _walk(item, f"{path}[{index}]", lines)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = f"{path}.{key.value}".removeprefix(".")
            if below in lines:
                message = f"stands twice: first in line {lines[below]}"
                yield Fault(below, key.start_mark.line + 1, message)
                continue
            lines[below] = key.start_mark.line + 1
            yield from _walk(value, below, lines)


def _path(loc: tuple[int | str, ...]) -> str:
    steps = [step for step in loc if step != "[key]"]
    in_list = bool(steps) and steps[0] == "stages"
    return "".join(
        f"[{step}]" if isinstance(step, int) and in_list else f".{step}" for step in steps
    ).removeprefix(".")


def _line(path: str, lines: Mapping[str, int]) -> int | None:
    """Find the line of the nearest thing that stands in the file."""
    while path and path not in lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return lines.get(path)


def _told(detail: Mapping[str, Any]) -> str:
    """Say in our words what pydantic found."""
    message, found = str(detail["msg"]), str(detail["input"])[:60]
    owner = Stage if detail["loc"][0] == "stages" else Plan
    words = {
        "missing": "is missing",
        "extra_forbidden": f"is unknown: the fields are {', '.join(owner.model_fields)}",
        "value_error": message.removeprefix("Value error, "),
        "tuple_type": f"must be a list, not {found!r}",
        "dict_type": f"must be a mapping, not {found!r}",
        "model_type": f"must be a mapping, not {found!r}",
        "string_pattern_mismatch": f"must match {detail.get('ctx', {}).get('pattern')}, "
        f"unlike {found!r}",
    }
    said = f"{message[0].lower()}{message[1:]}, not {found!r}"
    return words.get(str(detail["type"]), said)


# --- writing -------------------------------------------------------------------------------------


def write_plan(plan: Plan) -> str:
    """Write a plan as YAML that `parse_plan` reads, each field under a sentence about it."""
    values = plan.model_dump(mode="json")
    values["label_window_s"] = duration(plan.label_window_s)
    for stage, written in zip(plan.stages, values["stages"], strict=True):
        written["min_duration_s"] = duration(stage.min_duration_s)
    lines: list[str] = []
    for name, field in Plan.model_fields.items():
        lines.append(f"# {field.description}")
        if name == "stages":
            lines += [f"#   {key}: {of.description}" for key, of in Stage.model_fields.items()]
        lines.append(yaml.safe_dump({name: values[name]}, sort_keys=False))
    return "\n".join(lines)


# --- fields against each other -------------------------------------------------------------------

Readable = Mapping[str, Any]
"""The fields of a stage that could be read each by itself."""


def _cross_faults_of(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Check what can be read of a document that has other faults too."""
    raw = document.get("stages")
    stages = [_readable(stage) for stage in raw] if isinstance(raw, list) else None
    return _cross_faults(stages, document.get("targets"), document.get("label_window_s"))


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


def _cross_faults(
    stages: Sequence[Readable] | None, targets: object, label_window_s: object
) -> list[tuple[str, str]]:
    """Check fields against each other, as far as they could be read."""
    faults: list[tuple[str, str]] = []
    if stages is not None:
        faults += _name_faults(stages)
        for index, stage in enumerate(stages):
            faults += _mirror_faults(f"stages[{index}]", stage)
        faults += _order_faults(stages)
        faults += _last_faults(stages)
    if isinstance(targets, dict):
        known = ", ".join(map(str, HITS))
        faults += [
            (f"targets.{k}", f"is not measured: targets are for Hit@k with k = {known}")
            for k in targets
            if str(k) not in map(str, HITS)
        ]
    if label_window_s == 0:
        faults.append(("label_window_s", "must be longer than 0, or no truth can ever arrive"))
    return faults


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


_WEEK: Final = 7 * 86_400.0

DEFAULT_PLAN: Final = Plan(
    name="default",
    candidate="phase2",
    stages=(
        Stage(
            name="shadow-5",
            mode="shadow",
            weight=5,
            min_duration_s=_WEEK,
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
                min_requests=1000,
                min_pairs=50,
            )
            for weight in (25, 50, 100)
        ),
    ),
)
