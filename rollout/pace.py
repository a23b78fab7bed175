"""How fast evidence comes in, what still waits to be read, and what has stopped. Pure.

Requests are known by the minute of their admission, for the last two hours: rates are means over
the newest ten of these minutes. Of a truth it is known to which request it belongs, not when it
came; when the last one came is read from the looks that the controller kept (`rollout.trace`),
which lie further apart the older the rollout is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from rollout.judging.readings import Reading, Seen
from rollout.minutes import MINUTE_S, Horizon
from rollout.plan import Plan, Stage
from rollout.tally import Counts, StageCounts, read
from rollout.trace import Point
from rollout.verdict import Per

RECENT_S: Final = 600.0
"""Over how long rates are taken."""
PATIENCE_S: Final = 60.0
"""How long a stage must have counted before its rates, or the lack of traffic, say anything."""
QUIET_S: Final = 120.0
"""How long nothing must have come before that is worth a word."""
EXPECTED: Final = 20.0
"""How many should have come meanwhile: by chance alone none of so many comes once in 10^8 times."""
LONGER: Final = 3.0
"""Truths may come in bursts: a silence is news when it is so many times longer than any before."""


@dataclass(frozen=True, slots=True)
class Lately:
    """One stage as it is now."""

    stage: Stage
    counts: StageCounts
    recent: Mapping[str, int]
    """Raw, the minutes of the last RECENT_S, or of the watermark where that is longer."""
    unclosed: Mapping[str, int]
    """Raw, the labels that a judge must not read yet."""
    horizon: Horizon
    """The judge's."""
    settled_at: float | None
    """Since when the stage counts."""
    trace: tuple[Point, ...] = ()
    """The looks that were kept of this visit, oldest first."""


class Part(NamedTuple):
    """What came in and is not read yet. Times are in Unix seconds."""

    number: int
    first_at: float | None
    """When the first of it is read."""
    last_at: float | None
    """When all of it is."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What comes in, what waits, what has stopped."""

    seconds: float
    """Over how long `per_s` was taken."""
    per_s: Mapping[Per, float | None]
    """None: not known yet."""
    opens_s: Mapping[Per, float]
    """How long it takes until the first of it is read at all; 0 when some was."""
    visible: Mapping[Per, int]
    """What the judge reads of this stage."""
    requests_wait: Part
    labels_wait: Part
    quiet_s: float
    """How long no request has come; 0 while they come."""
    unlabelled_s: float
    """How long no truth has come, likewise."""


def pace(now: float, plan: Plan, lately: Lately) -> Pace:
    """Measure a stage at Unix second `now`. Raises CountsError on counts outside the closed set."""
    everything = Counts({}) + lately.counts.total
    whole = Reading(Seen(lately.stage, everything, everything), plan.unit, plan.stratum_names)
    judged = Reading(
        Seen(lately.stage, lately.counts.counts, lately.counts.labels),
        plan.unit,
        plan.stratum_names,
    )
    fresh = read(lately.recent)
    newest = Reading(Seen(lately.stage, fresh, Counts({})), plan.unit, plan.stratum_names)
    settled = now if lately.settled_at is None else lately.settled_at
    seconds = min(now - settled, RECENT_S)
    quiet = _quiet(now, settled, lately, whole.requests)
    unlabelled = _unlabelled(now, settled, lately)
    known = lately.settled_at is not None and seconds >= PATIENCE_S
    per_s = _rates(lately.stage, whole, judged, newest, seconds) if known else {}
    if unlabelled:
        per_s |= {per: 0.0 for per in per_s if per.startswith("labelled")}
    visible = _sizes(judged)
    return Pace(
        seconds=seconds,
        per_s={per: per_s.get(per) for per in visible},
        opens_s={
            per: 0.0 if visible[per] else _opens(per, now, settled, lately.horizon)
            for per in visible
        },
        visible=visible,
        requests_wait=_requests_wait(lately),
        labels_wait=_labels_wait(lately),
        quiet_s=quiet,
        unlabelled_s=unlabelled,
    )


def _sizes(reading: Reading) -> dict[Per, int]:
    return {
        "requests": reading.requests,
        "candidate requests": reading.assigned("candidate"),
        "pairs": reading.pairs,
        "labelled requests": reading.labels("incumbent") + reading.labels("candidate"),
        "labelled candidate requests": reading.labels("candidate"),
        "labelled pairs": reading.labelled_pairs,
    }


# --- rates ---------------------------------------------------------------------------------------


def _rates(
    stage: Stage, whole: Reading, judged: Reading, newest: Reading, seconds: float
) -> dict[Per, float | None]:
    requests = newest.requests
    came, all_of, shares = _sizes(newest), _sizes(whole), _intended(stage)
    found: dict[Per, float | None] = {"requests": requests / seconds}
    for per, intended in shares.items():
        share = all_of[per] / whole.requests if all_of[per] else intended
        # none of the few that should have come says nothing yet
        rare = not came[per] and share * requests < EXPECTED
        found[per] = (share * requests if rare else came[per]) / seconds
    for per in _LABELLED:
        part = _labelled(per, whole, judged)
        found[per] = None if part is None else part * requests / seconds
    return found


_LABELLED: Final[tuple[Per, ...]] = (
    "labelled requests", "labelled candidate requests", "labelled pairs",
)  # fmt: skip


def _intended(stage: Stage) -> dict[Per, float]:
    """Give the share of the requests that the plan intends."""
    return {
        "candidate requests": (stage.weight if stage.mode == "ab" else 0.0) / 100,
        "pairs": (stage.weight if stage.mode == "shadow" else stage.shadow_sample) / 100,
    }


def _labelled(per: Per, whole: Reading, judged: Reading) -> float | None:
    """Give the labels of one kind for each request; None while no truth has come.

    Of the awaited truths, the part that came is known where windows have closed; until then it is
    what has come so far.
    """
    due, came = _due(judged)[per], _sizes(judged)[per]
    if not due:
        due, came = _due(whole)[per], _sizes(whole)[per]
    if not came or not whole.requests:
        return 0.0 if _due(judged)[per] else None
    return came / due * _due(whole)[per] / whole.requests if due else came / whole.requests


def _due(reading: Reading) -> dict[Per, int]:
    return {
        "labelled requests": reading.due("incumbent") + reading.due("candidate"),
        "labelled candidate requests": reading.due("candidate"),
        "labelled pairs": reading.pairs_due,
    }


def _opens(per: Per, now: float, settled: float, horizon: Horizon) -> float:
    minute = math.floor(settled / MINUTE_S)
    opens_at = horizon.closes_at(minute) if per in _LABELLED else horizon.reads_at(minute)
    return max(0.0, opens_at - now)


# --- what is not read yet ------------------------------------------------------------------------


def _requests_wait(lately: Lately) -> Part:
    horizon = lately.horizon
    found: dict[float, int] = {}
    for field, number in lately.recent.items():
        minute, _, counter = _split(field)
        if minute in horizon.recent and counter.startswith("assigned."):
            at = horizon.reads_at(minute)
            found[at] = found.get(at, 0) + number
    return _part(found)


def _labels_wait(lately: Lately) -> Part:
    found: dict[float, int] = {}
    for field, number in lately.unclosed.items():
        minute, _, counter = _split(field)
        if counter.startswith("labels."):
            at = lately.horizon.closes_at(minute)
            found[at] = found.get(at, 0) + number
    return _part(found)


def _part(found: Mapping[float, int]) -> Part:
    if not found:
        return Part(0, None, None)
    return Part(sum(found.values()), min(found), max(found))


def _split(field: str) -> tuple[int, str, str]:
    minute, stratum, counter = field.split("|")
    return int(minute), stratum, counter


# --- what has stopped ----------------------------------------------------------------------------


def _quiet(now: float, settled: float, lately: Lately, requests: int) -> float:
    """Say for how long no request has come, where that is no chance."""
    minutes = [
        _split(field)[0]
        for field, number in lately.recent.items()
        if number and _split(field)[2].startswith("assigned.")
    ]
    oldest = now - max(RECENT_S, lately.horizon.watermark_s)
    last = min(now, (max(minutes) + 1) * MINUTE_S) if minutes else max(settled, oldest)
    return _silence(now, settled, last, requests)


def _unlabelled(now: float, settled: float, lately: Lately) -> float:
    """Say for how long no truth has come, where that is no chance and was never so before."""
    total = lately.counts.total.total
    labels = total.get("labels.incumbent", 0) + total.get("labels.candidate", 0)
    looks = [(one.at, one.labels) for one in lately.trace if one.labels is not None]
    same = [at for at, seen in looks if seen == labels]
    if not labels or not same:
        return 0.0
    silent = _silence(now, settled, min(same), labels)
    return silent if silent > LONGER * _longest(looks, settled) else 0.0


def _longest(looks: Sequence[tuple[float, int]], settled: float) -> float:
    """Give the longest time without new truths so far, that before the first one included."""
    first, seen = looks[0]
    grew = [first if seen else settled]
    for at, labels in looks:
        if labels > seen:
            grew.append(at)
            seen = labels
    return max((after - at for at, after in pairwise(grew)), default=0.0)


def _silence(now: float, settled: float, last: float, number: int) -> float:
    quiet, active = now - last, last - settled
    if not number or quiet < QUIET_S:
        return 0.0
    expected = number * quiet / active if active > 0 else math.inf
    return quiet if expected >= EXPECTED else 0.0
