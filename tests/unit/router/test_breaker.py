"""Whether a replica gets requests, by how its earlier ones ended."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.breaker import TRANSITIONS, Breaker, Circuit, Rules, able

RULES = Rules(in_a_row=3, share=0.5, volume=10, window_s=10, open_s=5, most_s=12)


def tripped(now: float = 0.0) -> Breaker:
    breaker = Breaker(RULES)
    for _ in range(RULES.in_a_row):
        breaker.failed(now)
    return breaker


def test_failures_in_a_row_open_a_circuit_and_a_success_between_them_does_not() -> None:
    breaker = Breaker(RULES)
    for _ in range(2):
        breaker.failed(0)
        breaker.failed(0)
        breaker.succeeded(0)
    assert breaker.state is Circuit.CLOSED
    assert repr(breaker) == "<Breaker closed, 0 failures in a row>"
    assert tripped().state is Circuit.OPEN
    assert repr(tripped()) == "<Breaker open until 5.0, opening 1>"


def test_half_of_enough_requests_failing_opens_a_circuit_and_half_of_too_few_does_not() -> None:
    breaker = Breaker(RULES)
    for turn in range(5):
        assert breaker.state is Circuit.CLOSED, turn
        breaker.succeeded(0)
        breaker.failed(0)
    assert breaker.state is Circuit.OPEN


def test_no_answer_within_less_than_a_fair_time_says_nothing() -> None:
    breaker = Breaker(RULES)
    for _ in range(20):
        breaker.late(0, waited_s=0.9 * RULES.fair_s)
    assert breaker.lets(0)
    for _ in range(RULES.in_a_row):
        breaker.late(0, waited_s=RULES.fair_s)
    assert not breaker.lets(0)


def test_failures_of_an_earlier_window_count_no_more() -> None:
    breaker = Breaker(RULES)
    for second in range(0, 100, 11):
        breaker.succeeded(second)
        breaker.failed(second)
    assert breaker.state is Circuit.CLOSED


def test_an_open_circuit_lets_one_request_through_after_its_time_and_recovers_on_its_success() -> (
    None
):
    breaker = tripped()
    assert not breaker.lets(4.9)
    assert breaker.lets(5)
    breaker.sent()
    assert not breaker.lets(5), "the trial is under way"
    breaker.succeeded(5.1)
    assert breaker.state is Circuit.CLOSED
    assert breaker.lets(5.1)


def test_a_failed_trial_opens_it_for_longer_up_to_a_limit() -> None:
    breaker, now, waits = tripped(), 0.0, []
    for _ in range(4):
        began = now
        while not breaker.lets(now):
            now += 0.5
        waits.append(now - began)
        breaker.sent()
        breaker.failed(now)
    assert waits == [5, 10, 12, 12]


def test_a_trial_whose_client_left_leaves_room_for_another() -> None:
    breaker = tripped()
    assert breaker.lets(5)
    breaker.sent()
    breaker.untold()
    assert breaker.lets(5)


def test_quiet_windows_forgive_earlier_openings() -> None:
    breaker = tripped()
    assert breaker.lets(5)
    breaker.succeeded(5)
    for second in range(5, 60, 5):
        breaker.succeeded(second)
    for _ in range(RULES.in_a_row):
        breaker.failed(61)
    assert repr(breaker) == "<Breaker open until 66.0, opening 1>"


def test_every_state_can_be_left() -> None:
    assert {state for state, _ in TRANSITIONS} == set(Circuit)
    assert set(TRANSITIONS.values()) == set(Circuit)


# --- the replicas of an arm ----------------------------------------------------------------------


def test_an_arm_with_a_fallback_may_have_no_replica_left() -> None:
    assert able({"a": tripped()}, 1, must_answer=False) == ()
    assert able({"a": tripped(), "b": Breaker()}, 1, must_answer=False) == ("b",)


@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_an_arm_that_must_answer_never_loses_its_last_replica(down: list[bool]) -> None:
    breakers = {f"r{at}": tripped() if bad else Breaker() for at, bad in enumerate(down)}
    found = able(breakers, 1, must_answer=True)
    well = [name for name, breaker in breakers.items() if breaker.state is Circuit.CLOSED]
    assert found
    assert list(found) == (well if len(well) >= len(down) / 2 else list(breakers))


@given(
    st.lists(
        st.tuples(st.sampled_from(["ok", "bad", "none", "lets"]), st.floats(0, 30)), max_size=80
    )
)
def test_whatever_happens_a_circuit_is_tried_again_in_the_end(
    steps: list[tuple[str, float]],
) -> None:
    breaker, now = Breaker(RULES), 0.0
    for what, later in steps:
        now += later
        if what == "lets":
            if breaker.lets(now):
                breaker.sent()
        elif what == "none":
            breaker.untold()
        else:
            (breaker.succeeded if what == "ok" else breaker.failed)(now)
    breaker.untold()
    assert breaker.lets(now + RULES.most_s)


def test_sending_to_a_closed_circuit_is_no_trial() -> None:
    breaker = Breaker()
    breaker.sent()
    assert breaker.lets(0)
    with pytest.raises(KeyError):
        TRANSITIONS[Circuit.CLOSED, next(change for _, change in TRANSITIONS if change == "waited")]
