"""How long a plan will take with the traffic that there was. Pure.

A stage lasts as long as its longest wish: its minimum duration, or its requests and its pairs at
the rate of the recent traffic in scope. It is a forecast of the gate's *minima*: how many requests
the evidence itself needs depends on what is measured, and the judge says so as it goes.
"""

import math
from typing import Final

from rollout.plan import Plan, Stage
from rollout.snapshot import Frozen

DAY_S: Final = 86_400.0
NO_TRAFFIC: Final = "no recent traffic in scope is known: how long the stages take is not"


class Traffic(Frozen):
    """What was seen in scope lately, and where."""

    requests_per_s: float
    keyed_percent: float | None = None
    """Of the requests in scope, those with a routing key; None where it was not counted."""
    source: str


class StageForecast(Frozen):
    """One stage. `days` is None where no traffic is known; the least days are known always."""

    stage: str
    least_days: float
    days: float | None
    bound_by: str
    """What takes longest: its duration, its requests or its pairs."""


class Forecast(Frozen):
    """A plan's stages, and what is known of the traffic. `told` is a sentence for a person."""

    stages: tuple[StageForecast, ...]
    days: float | None
    traffic: Traffic | None
    told: str


def forecast(plan: Plan, traffic: Traffic | None) -> Forecast:
    """Forecast the days per stage from recent `traffic`; None where there is none."""
    if traffic is not None and traffic.requests_per_s <= 0:
        traffic = None
    rate = traffic.requests_per_s * _counted(plan, traffic) if traffic else None
    stages = tuple(_stage(stage, rate) for stage in plan.stages)
    days = None if rate is None else sum(stage.days or 0 for stage in stages)
    return Forecast(stages=stages, days=days, traffic=traffic, told=_told(stages, days, traffic))


def _counted(plan: Plan, traffic: Traffic) -> float:
    """Say which share of the requests in scope counts: by key, those that have one."""
    if plan.unit == "request" or traffic.keyed_percent is None:
        return 1.0
    return traffic.keyed_percent / 100


def _stage(stage: Stage, rate: float | None) -> StageForecast:
    least = stage.min_duration_s
    wishes = [("its duration", least)]
    if rate is not None:
        mirrored = stage.weight if stage.mode == "shadow" else stage.shadow_sample
        wishes.append(("its requests", _time(stage.min_requests, rate)))
        wishes.append(("its pairs", _time(stage.min_pairs, rate * mirrored / 100)))
    bound_by, longest = max(wishes, key=lambda wish: wish[1])
    known = rate is not None and math.isfinite(longest)
    return StageForecast(
        stage=stage.name,
        least_days=least / DAY_S,
        days=longest / DAY_S if known else None,
        bound_by=bound_by,
    )


def _time(wanted: int, rate: float) -> float:
    """Give the seconds until `wanted` are seen at `rate` per second."""
    if not wanted:
        return 0.0
    return wanted / rate if rate > 0 else math.inf


def _told(stages: tuple[StageForecast, ...], days: float | None, traffic: Traffic | None) -> str:
    least = sum(stage.least_days for stage in stages)
    if days is None or traffic is None:
        return f"{NO_TRAFFIC}; at least {least:.3g} days by their durations"
    each = ", ".join(f"{stage.stage} {_days(stage.days)}" for stage in stages)
    keyed = traffic.keyed_percent
    keys = "" if keyed is None else f", {keyed:.1f} % of it with a key"
    return (
        f"days per stage: {each}; {traffic.requests_per_s:.3g} requests/s in scope "
        f"({traffic.source}){keys}"
    )


def _days(days: float | None) -> str:
    return "never" if days is None else f"{days:.3g}"
