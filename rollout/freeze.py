"""Freeze windows: times in which no traffic moves towards a candidate. Pure.

A window is written in the words of a wall clock, because that is what people agree on: every day
(`18:00` to `08:00`), every week (`fri 16:00` to `mon 08:00`) or once (`2026-12-20 00:00` to
`2027-01-04 08:00`), in a time zone of its own. The time is compared on that clock too, so a window
keeps its hours when the clocks change: where they are put back, the hour that comes twice is inside
twice, and where they are put forward, the hour that is left out is in no window.

Freezing is about going on. A rollback or an abort is never frozen.
"""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated, Final, Literal, NamedTuple, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, model_validator

from rollout.snapshot import Frozen

Form = Literal["every day", "every week", "once"]
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MINUTES: Final = 24 * 60
_PERIODS: Final[dict[Form, int]] = {"every day": _MINUTES, "every week": 7 * _MINUTES}
_TIME: Final = r"([01]\d|2[0-3]):([0-5]\d)"
_FORMS: Final[dict[Form, re.Pattern[str]]] = {
    "every day": re.compile(_TIME),
    "every week": re.compile(rf"({'|'.join(DAYS)}) {_TIME}"),
    "once": re.compile(rf"\d{{4}}-\d\d-\d\d {_TIME}"),
}
_WORDS: Final = "write 18:00 (every day), fri 16:00 (every week) or 2026-12-20 16:00 (once)"


def _moment(text: str) -> str:
    form = _form(text)
    if form is None:
        raise ValueError(f"{_WORDS}, not {text!r}")
    if form == "once":
        _date(text)
    return text


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # no such zone; no name of a zone; a folder of zones
        raise ValueError(
            f"{name!r} is no time zone: write one such as Europe/Berlin or UTC"
        ) from None
    return name


Moment = Annotated[str, AfterValidator(_moment)]


class Freeze(Frozen):
    """One window, from `begins` until just before `ends`, on the clock of `timezone`."""

    begins: Moment = Field(description=f"A time on a wall clock: {_WORDS.removeprefix('write ')}.")
    ends: Moment = Field(description="Likewise, in the same form; it may lie across midnight.")
    timezone: Annotated[str, AfterValidator(_zone)] = Field(
        default="UTC", description="Whose wall clock, such as Europe/Berlin."
    )
    why: str = Field(default="", max_length=200, description="Said to whoever is held by it.")

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        begins, ends = _form(self.begins), _form(self.ends)
        if begins != ends:
            raise ValueError(f"begins {begins} and ends {ends}: write both in the same form")
        if self.begins == self.ends or (begins == "once" and self.ends < self.begins):
            raise ValueError(f"ends at {self.ends}, which is not after it begins")
        return self


class Frost(NamedTuple):
    """A window that holds now. `until` is in Unix seconds."""

    until: float
    told: str


def frozen(windows: Iterable[Freeze], now: float) -> Frost | None:
    """Find the window that holds at Unix second `now`, and of several the one that ends last."""
    found = [frost for window in windows if (frost := _frost(window, now))]
    return max(found, default=None)


def _frost(window: Freeze, now: float) -> Frost | None:
    zone = ZoneInfo(window.timezone)
    form = _form(window.begins)
    if form == "once":
        begins, ends = (_date(text).replace(tzinfo=zone) for text in (window.begins, window.ends))
        if not begins.timestamp() <= now < ends.timestamp():
            return None
    else:
        assert form is not None  # noqa: S101 - checked at birth
        period = _PERIODS[form]
        wall = datetime.fromtimestamp(now, zone)
        minute = (wall.weekday() * _MINUTES + wall.hour * 60 + wall.minute) % period
        begin, end = _minute(window.begins), _minute(window.ends)
        if (minute - begin) % period >= (end - begin) % period:
            return None
        ahead = timedelta(minutes=(end - minute) % period)
        ends = wall.replace(second=0, microsecond=0, tzinfo=None) + ahead
        ends = ends.replace(tzinfo=zone)
    why = f" ({window.why})" if window.why else ""
    return Frost(ends.timestamp(), f"frozen until {ends:%Y-%m-%d %H:%M} {window.timezone}{why}")


def _form(text: str) -> Form | None:
    return next((form for form, words in _FORMS.items() if words.fullmatch(text)), None)


def _minute(text: str) -> int:
    """Count the minutes of a recurring moment from the beginning of its day or week."""
    day, _, time = text.rpartition(" ")
    hours, minutes = time.split(":")
    return (DAYS.index(day) if day else 0) * _MINUTES + int(hours) * 60 + int(minutes)


def _date(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d %H:%M")  # noqa: DTZ007 - its zone stands beside it
