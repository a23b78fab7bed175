import numpy as np
from backend_samples import context
from hypothesis import given
from hypothesis import strategies as st

from backends.fingerprint import Prints, prints_of
from backends.prefix import NOTHING, OVERHEAD, Known, Link, PrefixStates, endings_of, links_of

STATE = np.zeros((4, 512), np.float32)
COST = STATE.nbytes + OVERHEAD


def prints(length: int, seed: int = 0) -> Prints:
    return prints_of(context(length, seed))


def linked(states: PrefixStates, known: Prints) -> tuple[Link, ...]:
    return links_of(known, states.lengths(known))


def test_a_link_stands_for_all_vectors_up_to_its_own_and_their_order() -> None:
    vectors = prints(5)
    whole = links_of(vectors, range(1, 6))
    assert whole[:3] == links_of(vectors[:3], range(1, 4))
    assert whole[1::3] == links_of(vectors, (2, 5))
    assert links_of(vectors[[1, 0]], [2])[0].digest != whole[1].digest
    assert links_of(vectors[1:], [1])[0].digest != whole[1].digest
    assert len(set(whole)) == 5


def test_a_single_bit_of_the_first_vector_changes_every_link() -> None:
    vectors = context(4)
    other = vectors.copy()
    other[0, 0] = np.nextafter(other[0, 0], np.float32(2))
    links = (set(links_of(prints_of(one), range(1, 5))) for one in (vectors, other))
    assert not set.intersection(*links)


def test_the_longest_known_prefix_may_be_the_whole_context() -> None:
    vectors = prints(6)
    states = PrefixStates(10 * COST)
    assert states.longest(linked(states, vectors)) == NOTHING
    for link in links_of(vectors, (2, 4, 6)):
        states.keep(link, STATE)
    assert states.longest(linked(states, vectors)).length == 6
    assert states.longest(linked(states, vectors[:5])).length == 4
    assert states.longest(linked(states, vectors[:3])).length == 2
    assert states.longest(linked(states, vectors[:1])) == NOTHING


def test_a_prefix_that_ends_as_a_known_one_does_is_looked_at_and_not_taken() -> None:
    vectors, other = prints(6, 1), prints(6, 2).copy()
    other[3] = vectors[3]
    states = PrefixStates(10 * COST)
    states.keep(links_of(vectors, [4])[0], STATE)
    assert endings_of(vectors)[3] == endings_of(other)[3]
    assert states.lengths(other) == [4, 6]
    assert states.longest(linked(states, other)) == NOTHING


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 8)), max_size=12),
    st.integers(0, 2),
    st.integers(1, 8),
    st.integers(1, 6),
)
def test_what_is_found_is_the_longest_of_all_that_is_kept(
    kept: list[tuple[int, int]], which: int, length: int, room: int
) -> None:
    # Contexts that begin alike and part after three vectors.
    contexts = [np.concatenate([prints(3, 9), prints(5, seed)]) for seed in range(3)]
    states = PrefixStates(room * COST)
    order: list[bytes] = []
    for one, size in kept:
        (link,) = links_of(contexts[one], [size])
        states.keep(link, STATE)
        order = [digest for digest in order if digest != link.digest] + [link.digest]
    here = set(order[-room:])
    asked = contexts[which][:length]
    every = links_of(asked, range(1, length + 1))
    longest = max((link.length for link in every if link.digest in here), default=0)
    found = states.longest(linked(states, asked))
    assert found == (Known(longest, STATE) if longest else NOTHING)


def test_the_least_recently_used_state_goes_first() -> None:
    contexts = [prints(3, seed) for seed in (1, 2, 3)]
    one, two, three = (links_of(vectors, [1])[0] for vectors in contexts)
    states = PrefixStates(2 * COST)
    states.keep(one, STATE)
    states.keep(two, STATE)
    assert states.longest(linked(states, contexts[0])).length == 1
    states.keep(three, STATE)
    assert [states.longest(linked(states, it)).length for it in contexts] == [1, 0, 1]


def test_without_room_nothing_is_kept() -> None:
    states = PrefixStates(0)
    states.keep(Link(b"digest", 1, 1), STATE)
    assert (states.enabled, len(states), states.bytes_held) == (False, 0, 0)
    assert repr(states) == "<PrefixStates 0 in 0 of 0 bytes>"


@given(st.lists(st.integers(0, 20), max_size=60), st.integers(1, 5))
def test_the_bound_in_bytes_holds_whatever_is_kept(keys: list[int], room: int) -> None:
    states = PrefixStates(room * COST)
    for key in keys:
        states.keep(Link(bytes([key]), key % 3, 1), STATE)
        assert states.bytes_held == len(states) * COST <= room * COST
    assert len(states) == min(room, len(set(keys)))
