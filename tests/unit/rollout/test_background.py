"""Traffic outside any rollout: which of it a rollout would split, and how much there was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.background import (
    HOUR,
    KEPT_HOURS,
    Background,
    background,
    field_of,
    hours,
    serving,
    tiers_in_scope,
    waited,
)
from rollout.snapshot import Scope, Tier, latency_bin

NOW = 29_000_000 * 60.0
tables = st.lists(st.tuples(st.integers(1, 2000), st.booleans()), min_size=2, max_size=5).map(
    lambda rows: tuple(
        Tier(arm=f"a{place}", max_length=length, active=active)
        for place, (length, active) in enumerate(sorted(dict(rows).items()))
    )
)


@given(tables, st.data(), st.integers(1, 4000))
def test_a_requests_tier_in_the_whole_table_says_whether_a_rollout_would_have_it_in_scope(
    tiers: tuple[Tier, ...], data: st.DataObject, length: int
) -> None:
    candidate = data.draw(st.sampled_from([tier.arm for tier in tiers]))
    trial = [tier for tier in tiers if tier.active or tier.arm == candidate]
    in_scope = serving(length, trial) == candidate
    assert (serving(length, tiers) in tiers_in_scope(tiers, candidate, "long")) == in_scope


def test_everything_is_in_the_scope_all() -> None:
    tiers = (Tier(arm="a", max_length=1), Tier(arm="b", max_length=2, active=False))
    wanted: dict[Scope, tuple[str, ...]] = {"long": ("b",), "all": ("a", "b")}
    assert {scope: tiers_in_scope(tiers, "b", scope) for scope in wanted} == wanted


def test_the_rate_is_over_the_time_since_the_first_request_that_counts() -> None:
    minute = 29_000_000
    one = {
        field_of(minute - 10, "requests"): 60,
        field_of(minute - 10, "keyed"): 6,
        field_of(minute - 4, "requests"): 60,
        field_of(minute - 10, waited(0.02)): 120,
    }
    other = {field_of(minute - 5, "requests"): 30, "nonsense": 9, "x|requests": 9}
    seen = background({"b/a": one, "b/b": other}, NOW, since=0)
    assert seen == Background(150, 6, 600.0, {latency_bin(0.02): 120})
    assert seen.per_s == 0.25
    assert background({"b/a": one, "b/b": other}, NOW, since=NOW - 301).requests == 90


@pytest.mark.parametrize("hashes", [{}, {"b/a": {field_of(29_000_000, "requests"): 9}}])
def test_less_than_a_minute_says_nothing_about_the_rate(
    hashes: dict[str, dict[str, int]],
) -> None:
    assert background(hashes, NOW + 30, since=0).per_s == 0


@given(st.floats(0, 4e9))
def test_a_day_is_read_by_the_hour(now: float) -> None:
    read = hours(now)
    minute = int(now // 60)
    for ago in (0, 59, KEPT_HOURS * HOUR):
        assert (minute - ago) // HOUR * HOUR in read
    assert len(read) == KEPT_HOURS + 2
