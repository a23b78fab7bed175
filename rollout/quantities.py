"""The quantities of a plan, as a person writes them: durations, shares, counts, names. Pure."""

import re
from typing import Annotated, Final

from pydantic import BeforeValidator, Field, StringConstraints

from rollout.snapshot import Percent

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
WRITTEN_DURATION: Final = r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*$"
_DURATION: Final = re.compile(WRITTEN_DURATION)


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


def no_truth_value(value: object) -> object:
    """Refuse true and false where a number is meant. Raises ValueError."""
    if isinstance(value, bool):
        raise ValueError("write a number, not true or false")  # noqa: TRY004 - pydantic collects ValueError
    return value


def rising(values: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse numbers that do not rise. Raises ValueError."""
    if list(values) != sorted(set(values)):
        raise ValueError(f"must rise from one to the next, unlike {list(values)}")
    return values


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$", max_length=64)]
Seconds = Annotated[float, BeforeValidator(seconds), Field(ge=0, allow_inf_nan=False)]
Share = Annotated[Percent, BeforeValidator(no_truth_value)]
Count = Annotated[int, BeforeValidator(no_truth_value), Field(ge=0)]
