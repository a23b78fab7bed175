import numpy as np
from backend_samples import context
from hypothesis import given
from hypothesis import strategies as st

from backends.prefix import NOTHING, OVERHEAD, PrefixStates, links_of

STATE = np.zeros((4, 512), np.float32)
COST = STATE.nbytes + OVERHEAD


def test_a_link_stands_for_all_vectors_up_to_its_own_and_their_order() -> None:
    vectors = context(5)
    whole = links_of(vectors)
    assert whole[:3] == links_of(vectors[:3])
    assert links_of(vectors[[1, 0]])[1] != whole[1]
    assert links_of(vectors[1:])[0] != whole[1]
    assert len(set(whole)) == 5


def test_a_single_bit_of_the_first_vector_changes_every_link() -> None:
    vectors = context(4)
    other = vectors.copy()
    other[0, 0] = np.nextafter(other[0, 0], np.float32(2))
    assert not set(links_of(vectors)) & set(links_of(other))


def test_the_longest_known_prefix_leaves_a_vector_to_read() -> None:
    links = links_of(context(6))
    states = PrefixStates(10 * COST)
    assert states.longest(links) == NOTHING
    for length in (2, 4, 6):
        states.keep(links[length - 1], STATE)
    assert states.longest(links).length == 4  # 6 would leave none
    assert states.longest(links[:4]).length == 2
    assert states.longest(links[:1]) == NOTHING


def test_the_least_recently_used_state_goes_first() -> None:
    one, two, three = (links_of(context(3, seed)) for seed in (1, 2, 3))
    states = PrefixStates(2 * COST)
    states.keep(one[0], STATE)
    states.keep(two[0], STATE)
    assert states.longest(one).length == 1
    states.keep(three[0], STATE)
    assert [states.longest(links).length for links in (one, two, three)] == [1, 0, 1]


def test_without_room_nothing_is_kept() -> None:
    states = PrefixStates(0)
    states.keep(b"link", STATE)
    assert (states.enabled, len(states), states.bytes_held) == (False, 0, 0)
    assert repr(states) == "<PrefixStates 0 in 0 of 0 bytes>"


@given(st.lists(st.integers(0, 20), max_size=60), st.integers(1, 5))
def test_the_bound_in_bytes_holds_whatever_is_kept(keys: list[int], room: int) -> None:
    states = PrefixStates(room * COST)
    for key in keys:
        states.keep(bytes([key]), STATE)
        assert states.bytes_held == len(states) * COST <= room * COST
    assert len(states) == min(room, len(set(keys)))
