"""Documents become chunks of about 20 tokens that end where a reader pauses."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from backends.training.chunking import cut_into_chunks


def count_letters(words: Sequence[str]) -> list[int]:
    """A token for each five letters of a word."""
    return [1 + len(word) // 5 for word in words]


def size(chunk: str) -> int:
    return sum(count_letters(chunk.split()))


words = st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=12)
marks = st.sampled_from(["", "", "", ",", ".", "?", ":"])
paragraphs = st.lists(
    st.lists(st.builds(str.__add__, words, marks), max_size=60).map(" ".join), max_size=6
)


@given(paragraphs)
def test_every_word_is_kept_in_order(texts: list[str]) -> None:
    chunks = cut_into_chunks(texts, count_letters)
    assert " ".join(chunks).split() == " ".join(texts).split()
    assert all(chunks)


@given(st.lists(words, min_size=60, max_size=200))
def test_chunks_of_a_long_text_stay_near_twenty_tokens(text: list[str]) -> None:
    sizes = [size(chunk) for chunk in cut_into_chunks([" ".join(text)], count_letters)]
    assert max(sizes) <= 32
    # A cut inside a sentence costs 6, so three chunks are cheaper than four up to 77 tokens (25.7
    # each); words of up to three tokens move a border by one or two.
    assert 16 <= sum(sizes) / len(sizes) <= 27


def test_a_chunk_ends_at_a_sentence_rather_than_at_exactly_twenty_tokens() -> None:
    first = " ".join(["one"] * 17) + " end."
    second = " ".join(["two"] * 20) + " end."
    assert cut_into_chunks([f"{first} {second}"], count_letters) == [first, second]


def test_an_abbreviation_ends_no_sentence() -> None:
    text = " ".join(["one"] * 17) + " e.g. " + " ".join(["two"] * 20) + " end."
    assert not any(chunk.endswith("e.g.") for chunk in cut_into_chunks([text], count_letters))


def test_a_word_longer_than_any_chunk_is_a_chunk_of_its_own() -> None:
    assert "x" * 500 in cut_into_chunks([f"a b {'x' * 500} c d"], count_letters)


def test_no_text_makes_no_chunk() -> None:
    assert cut_into_chunks([], count_letters) == []
    assert cut_into_chunks(["", " "], count_letters) == []
