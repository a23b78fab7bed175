"""Plans as files: YAML or plain values in, a `Plan` or every fault of it out. Pure.

A plan is written once, by a person. Reading it reports *every* fault at once, each with its path in
the document and its line in the file, because a release engineer who fixes one fault per attempt
loses an afternoon. So the checks have three layers, and all of them always run: the YAML itself,
each field by itself (pydantic), and the fields against each other (`rollout.plan.cross_faults`,
over whatever could be read).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple

import yaml
from pydantic import BaseModel, ValidationError

from rollout.errors import RolloutError
from rollout.freeze import Freeze
from rollout.plan import Plan, Stage, cross_faults_of
from rollout.quantities import WRITTEN_DURATION, duration

MAX_TEXT: Final = 256 * 1024
_PARTS: Final[Mapping[str, type[BaseModel]]] = {"stages": Stage, "freeze": Freeze}
"""The fields of a plan that are lists, and of what."""


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
            for path, message in cross_faults_of(document)
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
    in_list = bool(steps) and steps[0] in _PARTS
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
    owner = _PARTS.get(str(detail["loc"][0]), Plan)
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
    values = _with_durations(plan.model_dump(mode="json"))
    lines: list[str] = []
    for name, field in Plan.model_fields.items():
        lines.append(f"# {field.description}")
        if part := _PARTS.get(name):
            lines += [f"#   {key}: {of.description}" for key, of in part.model_fields.items()]
        lines.append(yaml.safe_dump({name: values[name]}, sort_keys=False))
    return "\n".join(lines)


def _with_durations(values: Any) -> Any:
    """Write every field that counts seconds (`..._s`) as a duration."""
    if isinstance(values, list):
        return [_with_durations(value) for value in values]
    if not isinstance(values, dict):
        return values
    return {
        key: duration(value)
        if str(key).endswith("_s") and value is not None
        else _with_durations(value)
        for key, value in values.items()
    }


def schema() -> dict[str, Any]:
    """Describe a plan as JSON Schema (2020-12), for editors and programs.

    What a schema cannot say, `parse_plan` says: fields against each other. Durations may also be
    written as `7d`, `36h`, `15m`, `90s` or `500ms`.
    """
    described = Plan.model_json_schema()
    for part in (described, *described["$defs"].values()):
        for name, field in part.get("properties", {}).items():
            if name.endswith("_s"):
                part["properties"][name] = _or_written(field)
    address = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {**address, **described, "title": "A plan of turnout"}


def _or_written(field: Mapping[str, Any]) -> dict[str, Any]:
    """Allow a duration to be written with its unit."""
    facts = {key: field[key] for key in ("default", "description", "title") if key in field}
    rest = {key: value for key, value in field.items() if key not in facts}
    numbers = rest.get("anyOf", [rest])
    return {**facts, "anyOf": [*numbers, {"type": "string", "pattern": WRITTEN_DURATION}]}
