"""How long a plan will take with the traffic that there was. Pure.

A stage lasts as long as its longest wish: its minimum duration, or its requests and its pairs at
the rate of the recent traffic in scope. It is a forecast of the gate's *minima*: how many requests
the evidence itself needs depends on what is measured, and the judge says so as it goes.

What is not known is not forecast: a stage whose requests depend on a rate that nobody measured has
its minimum duration, and no more is said of it.
"""

import math
from typing import Final

from rollout.plan import Plan, Stage
from rollout.snapshot import Frozen
from rollout.wording import percent, span

DAY_S: Final = 86_400.0
NO_TRAFFIC: Final = "no recent traffic in scope is known"
UNKNOWN: Final = "not known"


class Traffic(Frozen):
    """What was seen in scope lately, and where."""

    requests_per_s: float
    keyed_percent: float | None = None
    """Of the requests in scope, those with a routing key; None where it was not counted."""
    source: str


class Unmeasured(Frozen):
    """Why no traffic is known."""

    told: str = NO_TRAFFIC


class StageForecast(Frozen):
    """One stage. `days` is None where its rate is not known; the least days are known always."""

    stage: str
    least_days: float
    days: float | None
    bound_by: str
    """What takes longest: its duration, its requests or its pairs; or that it is not known."""


class Forecast(Frozen):
    """A plan's stages, and what is known of the traffic. `told` is a sentence for a person."""

    stages: tuple[StageForecast, ...]
    days: float | None
    traffic: Traffic | None
    told: str


def forecast(plan: Plan, seen: Traffic | Unmeasured) -> Forecast:
    """Forecast the days per stage from what was `seen` lately."""
    traffic = seen if isinstance(seen, Traffic) else None
    rate = _counted_per_s(plan, traffic) if traffic else None
    stages = tuple(_stage(stage, rate) for stage in plan.stages)
    each = [stage.days for stage in stages if stage.days is not None]
    days = sum(each) if len(each) == len(stages) else None
    told = "; ".join([_times(stages, days), _seen(plan, seen), *_overdue(plan, stages)])
    return Forecast(stages=stages, days=days, traffic=traffic, told=told)


def _counted_per_s(plan: Plan, traffic: Traffic) -> float | None:
    """Say how many requests count per second: by key, those that have one. None: not known."""
    if plan.unit == "request":
        return traffic.requests_per_s
    if traffic.keyed_percent is None:
        return None
    return traffic.requests_per_s * traffic.keyed_percent / 100


def _stage(stage: Stage, rate: float | None) -> StageForecast:
    mirrored = stage.weight if stage.mode == "shadow" else stage.shadow_sample
    each = None if rate is None else rate * mirrored / 100
    wishes = {
        "its duration": stage.min_duration_s,
        "its requests": _time(stage.min_requests, rate),
        "its pairs": _time(stage.min_pairs, each),
    }
    known = {name: seconds for name, seconds in wishes.items() if seconds is not None}
    bound_by = max(known, key=lambda name: known[name]) if len(known) == len(wishes) else UNKNOWN
    longest = known.get(bound_by, math.inf)
    return StageForecast(
        stage=stage.name,
        least_days=stage.min_duration_s / DAY_S,
        days=longest / DAY_S if math.isfinite(longest) else None,
        bound_by=bound_by,
    )


def _time(wanted: int, rate: float | None) -> float | None:
    """Give the seconds until `wanted` are seen at `rate` per second; None where that is unknown."""
    if not wanted:
        return 0.0
    if rate is None:
        return None
    return wanted / rate if rate > 0 else math.inf


def _times(stages: tuple[StageForecast, ...], days: float | None) -> str:
    if days is None:
        least = span(sum(stage.least_days for stage in stages) * DAY_S)
        return f"at least {least} by the stages' durations"
    each = ", ".join(f"{stage.stage} {span((stage.days or 0) * DAY_S)}" for stage in stages)
    return f"{span(days * DAY_S)} in all: {each}"


def _seen(plan: Plan, seen: Traffic | Unmeasured) -> str:
    if isinstance(seen, Unmeasured):
        return seen.told
    told = f"{seen.requests_per_s:.3g} requests/s in scope ({seen.source})"
    if seen.keyed_percent is not None:
        told += f", {percent(seen.keyed_percent)} of them with a routing key"
    elif plan.unit == "key":
        told += ", but how many have a routing key was not counted"
    return told + (", and by key those alone count" if plan.unit == "key" else "")


def _overdue(plan: Plan, stages: tuple[StageForecast, ...]) -> list[str]:
    """Name the stages that their deadline would end before their requests have come."""
    late = [
        f"{stage.name} ({span(stage.max_duration_s)})"
        for stage, takes in zip(plan.stages, stages, strict=True)
        if stage.max_duration_s is not None
        and takes.bound_by != UNKNOWN
        and (takes.days is None or takes.days * DAY_S > stage.max_duration_s)
    ]
    return [f"too few for the deadline of {', '.join(late)}"] if late else []
