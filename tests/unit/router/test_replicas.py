"""Which replica of an arm takes a request."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.replicas import BOUND, choose

REPLICAS = ("http://a", "http://b", "http://c", "http://d")
IDLE = dict.fromkeys(REPLICAS, 0)
KEYS = [f"user-{n}" for n in range(4000)]

loads_of = st.fixed_dictionaries({replica: st.integers(0, 50) for replica in REPLICAS})


@given(loads_of, st.sets(st.sampled_from(REPLICAS)))
def test_without_a_key_the_least_loaded_available_one_takes_it(
    loads: dict[str, int], available: set[str]
) -> None:
    found = choose(REPLICAS, None, loads, available)
    able = available or set(REPLICAS)
    assert found in able
    assert loads[found] == min(loads[one] for one in able)


@given(st.text(), loads_of, st.sets(st.sampled_from(REPLICAS)))
def test_a_keyed_request_never_goes_to_one_that_is_loaded_beyond_the_bound(
    key: str, loads: dict[str, int], available: set[str]
) -> None:
    found = choose(REPLICAS, key, loads, available)
    able = available or set(REPLICAS)
    assert found in able
    mean = (sum(loads[one] for one in able) + 1) / len(able)
    assert loads[found] < BOUND * mean


def test_a_key_keeps_its_replica_and_the_keys_spread_evenly() -> None:
    homes = [choose(REPLICAS, key, IDLE, REPLICAS) for key in KEYS]
    assert homes == [choose(REPLICAS[::-1], key, IDLE, REPLICAS) for key in KEYS]
    shares = [count / len(KEYS) for count in Counter(homes).values()]
    assert all(0.22 < share < 0.28 for share in shares)


def test_a_replica_that_leaves_moves_its_own_keys_alone() -> None:
    left = REPLICAS[:-1]
    moved = 0
    for key in KEYS:
        before = choose(REPLICAS, key, IDLE, REPLICAS)
        after = choose(REPLICAS, key, IDLE, left)
        assert after == before or before == REPLICAS[-1]
        moved += after != before
    assert 0.22 < moved / len(KEYS) < 0.28


def test_no_replicas_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        choose((), "key", {}, ())
