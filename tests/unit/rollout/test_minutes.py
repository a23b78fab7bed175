"""Which minutes a judge must not read yet."""

import math

from hypothesis import given
from hypothesis import strategies as st

from rollout.minutes import (
    MINUTE_S,
    MINUTE_TTL_S,
    SKEW_MINUTES,
    SLOTS,
    WATERMARK_MOST_S,
    Horizon,
    label_slot,
    slot_width,
)

windows = st.floats(1, 30 * 86_400)
minutes = st.integers(0, 60_000_000)
DAY_S = 86_400.0


@given(minutes, windows)
def test_a_slot_holds_its_minute_and_has_a_fixed_place(minute: int, window: float) -> None:
    slot, width = label_slot(minute, window), slot_width(window)
    assert slot <= minute < slot + width
    assert slot % width == 0


@given(windows)
def test_a_window_has_few_slots_however_long_it_is(window: float) -> None:
    horizon = Horizon(now=1.8e9, watermark_s=60, label_window_s=window)
    assert len(horizon.unclosed) <= SLOTS + 2 + SKEW_MINUTES


@given(st.floats(0, 2e9), st.floats(1, 7200), minutes)
def test_a_minute_is_recent_until_it_ended_a_watermark_ago(
    now: float, watermark: float, minute: int
) -> None:
    horizon = Horizon(now, watermark, DAY_S)
    inside = minute <= now // MINUTE_S + SKEW_MINUTES
    ended = (minute + 1) * MINUTE_S <= now - watermark
    assert (minute in horizon.recent) == (inside and not ended)


@given(st.floats(0, 2e9), st.floats(0.001, WATERMARK_MOST_S))
def test_every_minute_that_is_too_new_for_a_judge_is_still_kept(
    now: float, watermark: float
) -> None:
    """Also one whose only count came early, from a gateway whose clock is ahead."""
    oldest = Horizon(now, watermark, DAY_S).recent[0]
    assert (oldest - SKEW_MINUTES) * MINUTE_S + MINUTE_TTL_S >= now


@given(st.floats(0, 2e9), windows, st.integers(-40_000, 40_000))
def test_a_slot_is_unclosed_until_the_window_of_its_last_minute_has_closed(
    now: float, window: float, offset: int
) -> None:
    width = slot_width(window)
    minute = max(0, math.floor((now - window) / MINUTE_S) + offset)
    horizon = Horizon(now, 60, window)
    slot = label_slot(minute, window)
    closed = (slot + width) * MINUTE_S <= now - window
    if slot < now // MINUTE_S:
        assert (slot in horizon.unclosed) == (not closed)


def test_without_a_watermark_and_without_waiting_for_labels_everything_is_read() -> None:
    horizon = Horizon(1e9, 0, DAY_S, wait_for_labels=False)
    assert (list(horizon.recent), list(horizon.unclosed)) == ([], [])
