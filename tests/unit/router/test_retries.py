"""What is tried again, and when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import (
    UpstreamConnectionError,
    UpstreamError,
    UpstreamInvalidError,
    UpstreamStatusError,
    UpstreamTimeoutError,
)
from router.retries import Policy, is_safe, pause


@pytest.mark.parametrize(
    ("error", "safe"),
    [
        (UpstreamConnectionError("reset"), True),
        (UpstreamStatusError("gone for a moment", 502), True),
        (UpstreamStatusError("loading", 503), True),
        (UpstreamStatusError("too much to do", 503, 1), True),
        (UpstreamStatusError("somebody between gave up", 504), True),
        (UpstreamStatusError("broken", 500), False),
        (UpstreamStatusError("not here", 404), False),
        (UpstreamInvalidError("no answer"), False),
        (UpstreamTimeoutError("late"), False),
    ],
)
def test_what_was_not_answered_may_be_tried_again(error: UpstreamError, safe: bool) -> None:
    assert is_safe(error) is safe


def test_only_a_503_that_says_when_to_come_again_is_passed_on_as_one() -> None:
    assert UpstreamStatusError("too much to do", 503, 1).status == 503
    assert UpstreamStatusError("loading", 503).status == 502
    assert UpstreamStatusError("odd", 500, 1).status == 502


@given(retry=st.integers(1, 40), chance=st.floats(0, 1))
def test_a_pause_is_a_random_part_of_a_bound_that_doubles_up_to_a_limit(
    retry: int, chance: float
) -> None:
    policy = Policy(base_s=0.025, most_s=0.25)
    found = pause(policy, retry, chance)
    assert 0 <= found <= min(0.25, 0.025 * (2**retry - 1))
    assert pause(policy, retry, 1) == min(0.25, 0.025 * (2**retry - 1))
    assert pause(policy, retry, 0) == 0
