"""Freeze windows: wall clocks, their time zones, and the two days a year on which they jump."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.freeze import Freeze, frozen

BERLIN = ZoneInfo("Europe/Berlin")
WEEKEND = Freeze(begins="fri 16:00", ends="mon 08:00", timezone="Europe/Berlin", why="weekend")
NIGHT = Freeze(begins="22:00", ends="06:00", timezone="Europe/Berlin")


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


@pytest.mark.parametrize(
    ("window", "moment", "held"),
    [
        (WEEKEND, "2026-11-20 15:59", False),
        (WEEKEND, "2026-11-20 16:00", True),
        (WEEKEND, "2026-11-22 03:00", True),
        (WEEKEND, "2026-11-23 07:59", True),
        (WEEKEND, "2026-11-23 08:00", False),
        (NIGHT, "2026-11-23 21:59", False),
        (NIGHT, "2026-11-23 23:00", True),
        (NIGHT, "2026-11-24 05:59", True),
        (NIGHT, "2026-11-24 06:00", False),
    ],
)
def test_a_window_holds_from_its_beginning_until_just_before_its_end(
    window: Freeze, moment: str, held: bool
) -> None:
    assert (frozen([window], at(moment)) is not None) is held


def test_a_frost_says_until_when_and_why() -> None:
    frost = frozen([NIGHT, WEEKEND], at("2026-11-20 23:00"))
    assert frost is not None
    assert frost.told == "frozen until 2026-11-23 08:00 Europe/Berlin (weekend)"
    assert frost.until == at("2026-11-23 08:00")


def test_the_hours_are_those_of_the_wall_clock_on_both_sides_of_a_change() -> None:
    winter, summer = (
        datetime(2026, 1, 15, 21, 30, tzinfo=UTC),
        datetime(2026, 7, 15, 21, 30, tzinfo=UTC),
    )
    assert frozen([NIGHT], winter.timestamp()) is not None  # 22:30 in Berlin
    assert frozen([NIGHT], summer.timestamp()) is not None  # 23:30 in Berlin
    assert frozen([NIGHT], summer.timestamp() - 3600) is not None  # 22:30
    assert frozen([NIGHT], winter.timestamp() - 3600) is None  # 21:30


def test_the_hour_that_comes_twice_is_inside_twice() -> None:
    window = Freeze(begins="02:00", ends="03:00", timezone="Europe/Berlin")
    assert all(frozen([window], at("2026-10-25 02:30", fold=fold)) for fold in (0, 1))


def test_a_window_that_comes_once_is_over_afterwards() -> None:
    window = Freeze(begins="2026-12-20 00:00", ends="2027-01-04 08:00", timezone="UTC")
    utc = ZoneInfo("UTC")
    assert frozen([window], at("2026-12-19 23:59", utc)) is None
    assert frozen([window], at("2027-01-01 00:00", utc)) is not None
    assert frozen([window], at("2027-01-04 08:00", utc)) is None


@given(st.floats(1.7e9, 1.9e9), st.sampled_from([WEEKEND, NIGHT]))
def test_a_frost_ends_when_it_says(now: float, window: Freeze) -> None:
    frost = frozen([window], now)
    if frost is not None:
        assert now < frost.until
        assert frozen([window], frost.until) is None
        assert frozen([window], frost.until - 1) is not None
