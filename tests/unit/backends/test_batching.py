from hypothesis import given
from hypothesis import strategies as st

from backends.batching import PADDING, Waiting, choose, company_until, joins, padding_of

PACE = 0.0001

waiting = st.builds(
    Waiting,
    length=st.integers(1, 500),
    admitted_at=st.floats(0, 10),
    deadline=st.none() | st.floats(0, 20),
    mirrored=st.booleans(),
)
queues = st.lists(waiting, max_size=40)


def batch(*queue: Waiting, now: float = 0.0, largest: int = 16) -> tuple[int, ...]:
    return choose(queue, now, largest=largest, pace=PACE).batch


def test_a_lone_request_does_not_wait_for_company() -> None:
    assert batch(Waiting(300, 0.0)) == (0,)


def test_an_empty_queue_makes_an_empty_batch() -> None:
    assert batch() == ()


def test_like_lengths_go_together_and_unlike_ones_do_not() -> None:
    queue = [Waiting(100, 0.0), Waiting(500, 0.0), Waiting(95, 0.0), Waiting(20, 0.0)]
    assert batch(*queue) == (3,)
    assert batch(*queue[:3]) == (2, 0)


def test_a_short_request_overtakes_a_long_one_of_the_same_moment() -> None:
    assert batch(Waiting(500, 0.0), Waiting(5, 0.001)) == (1,)


def test_a_long_request_that_has_waited_its_share_is_not_overtaken() -> None:
    assert batch(Waiting(500, 0.0), Waiting(5, 0.2)) == (0,)


def test_mirrored_requests_wait_behind_served_ones() -> None:
    assert batch(Waiting(5, 0.0, mirrored=True), Waiting(500, 9.0)) == (1,)
    assert batch(Waiting(5, 0.0, mirrored=True)) == (0,)


def test_what_no_longer_wants_an_answer_is_told_apart() -> None:
    queue = [Waiting(5, 0.0, deadline=1.0), Waiting(5, 0.0, deadline=3.0)]
    choice = choose(queue, 2.0, largest=16, pace=PACE)
    assert (choice.batch, choice.expired) == ((1,), (0,))


def test_padding_is_the_share_of_the_longest() -> None:
    assert padding_of([10, 10]) == 0
    assert padding_of([10, 5]) == 0.25


@given(queues, st.floats(0, 20), st.integers(1, 16))
def test_a_batch_holds_living_requests_of_like_length_once_each(
    queue: list[Waiting], now: float, largest: int
) -> None:
    choice = choose(queue, now, largest=largest, pace=PACE)
    chosen = [queue[i] for i in choice.batch]
    assert len(set(choice.batch)) == len(choice.batch) <= largest
    assert not set(choice.batch) & set(choice.expired)
    assert all(w.deadline is None or w.deadline > now for w in chosen)
    assert len({w.mirrored for w in chosen}) <= 1
    if chosen:
        assert padding_of([w.length for w in chosen]) <= PADDING


@given(queues, st.floats(0, 20))
def test_whoever_is_chosen_first_has_the_earliest_turn_and_somebody_always_is(
    queue: list[Waiting], now: float
) -> None:
    choice = choose(queue, now, largest=16, pace=PACE)
    alive = [w for w in queue if w.deadline is None or w.deadline > now]
    assert bool(choice.batch) == bool(alive)
    served = [w for w in alive if not w.mirrored] or alive
    if choice.batch:
        turns = [w.admitted_at + 2 * PACE * w.length for w in served]
        first = queue[choice.batch[0]]
        assert first.admitted_at + 2 * PACE * first.length == min(turns)


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0, 1)), min_size=1, max_size=30))
def test_taking_batches_until_none_is_left_reads_everybody_once(
    drawn: list[tuple[int, float]],
) -> None:
    left = {i: Waiting(length, at) for i, (length, at) in enumerate(drawn)}
    seen: list[int] = []
    while left:
        places = list(left)
        choice = choose(list(left.values()), 5.0, largest=4, pace=PACE)
        seen.extend(places[place] for place in choice.batch)
        for i in seen:
            left.pop(i, None)
    assert sorted(seen) == list(range(len(drawn)))


# --- company --------------------------------------------------------------------------------------

LONG = Waiting(400, 10.0)
"""Takes 40 ms alone, of which a quarter may be waited."""


def until(*queue: Waiting, arriving: tuple[float, ...] = (10.001,), largest: int = 16) -> float:
    return company_until(queue, arriving, largest=largest, pace=PACE)


def test_a_request_waits_for_bodies_that_are_on_their_way_and_for_nothing_else() -> None:
    assert until(LONG) == 10.0 + 0.25 * 0.04
    assert until(LONG, arriving=()) == 0.0
    assert until(arriving=(10.0,)) == 0.0
    assert until(LONG, LONG, largest=2) == 0.0


def test_a_body_that_takes_long_already_holds_nobody_up() -> None:
    assert until(LONG, arriving=(3.0,)) == 3.0 + 0.25 * 0.04 < LONG.admitted_at


def test_a_batch_that_has_gathered_waits_for_a_share_of_its_own_time() -> None:
    assert until(*[LONG] * 8) == 10.0 + 0.25 * 0.5 * 8 * 0.04
    assert until(LONG, Waiting(400, 10.0, mirrored=True)) == until(LONG)


def test_a_lone_run_is_begun_again_with_one_of_like_length_that_came_at_once() -> None:
    def joined(
        newcomer: Waiting, *running: Waiting, now: float = 10.005, largest: int = 16
    ) -> bool:
        return joins(newcomer, running or (LONG,), now, 10.0, largest=largest, pace=PACE)

    assert joined(Waiting(400, 10.005))
    assert joined(Waiting(330, 10.005))
    assert not joined(Waiting(100, 10.005))
    assert not joined(Waiting(400, 10.02), now=10.02)
    assert not joined(LONG, LONG, LONG)
    assert not joined(LONG, largest=1)
    assert not joined(Waiting(400, 10.005, mirrored=True))
    assert not joined(LONG, Waiting(400, 10.0, mirrored=True))
