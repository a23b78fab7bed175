"""What is said when a backend does not answer in time."""

import pytest

from router.exchange import late


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.0004])
def test_no_time_at_all_is_not_told_as_a_wait_of_none(seconds: float) -> None:
    assert late("phase1", seconds) == "no time was left for the phase1 backend to answer"
    assert late("phase1", 0.25) == "the phase1 backend did not answer within 0.250 s"
