"""A body read in pieces reads as a body read at once does, wherever it is cut."""

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from backends import jsonrows
from backends.jsonbody import ProtocolError
from backends.jsonrows import is_batched, parse_body, read_numbers, read_rows

WIDTH = 2
MANY = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NUMBERS = st.integers(-(10**15), 10**15) | st.floats(-1e15, 1e15)
ODD = st.none() | st.booleans() | st.text('[]{}",\\:', max_size=3) | st.just({"context": [1]})
ROWS = st.lists(st.lists(NUMBERS, min_size=WIDTH, max_size=WIDTH), max_size=8)
CROOKED = st.recursive(NUMBERS | ODD, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
SPACES = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r\n ")])


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every list be long, a vector short, and a cut come after every few bytes."""
    monkeypatch.setattr(jsonrows, "SHORTEST", 1)
    monkeypatch.setattr(jsonrows, "PIECE", 9)
    monkeypatch.setattr(jsonrows, "DIMENSION", WIDTH)


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def are_rows(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, list) and len(row) == WIDTH and all(map(is_number, row)) for row in value
    )


def rows_of(text: bytes, max_length: int = 100) -> Any:
    """Read the rows at "context": a list, or the refusal's status."""
    try:
        return read_rows(parse_body(text, ("context",)), max_length).tolist()
    except ProtocolError as error:
        return error.status


def as_float32(value: list[Any]) -> Any:
    return np.array(value, np.float64).astype(np.float32).tolist()


@MANY
@given(ROWS | CROOKED, st.dictionaries(st.text(max_size=3), CROOKED, max_size=3), SPACES, st.data())
def test_rows_are_read_as_a_parser_of_the_whole_reads_them(
    value: Any, beside: dict[str, Any], spaces: tuple[str, str], data: st.DataObject
) -> None:
    fields = data.draw(st.permutations([*beside.items(), ("context", value)]))
    text = json.dumps(dict(fields), separators=spaces).encode()
    whole = orjson.loads(text)
    value = whole["context"]
    if are_rows(value) and value:
        assert rows_of(text) == as_float32(value)
    else:
        assert rows_of(text) == 400


@MANY
@given(ROWS, st.integers(0, 200), st.binary(max_size=2) | st.sampled_from([b"[", b"]", b",", b"}"]))
def test_a_changed_byte_is_noticed_wherever_the_text_is_cut(
    value: list[Any], place: int, put: bytes
) -> None:
    text = orjson.dumps({"id": "a[", "context": value, "more": [1, "]"]})
    at = place % len(text)
    text = text[:at] + put + text[at + 1 :]
    try:
        whole = orjson.loads(text)
    except orjson.JSONDecodeError:
        assert rows_of(text) == 400
        return
    assume(isinstance(whole, dict) and "context" in whole)
    expected = whole["context"]
    if are_rows(expected) and expected:
        assert rows_of(text) in (as_float32(expected), 400)  # 400: beyond float32, or 64 bits
    else:
        assert rows_of(text) == 400


@MANY
@given(st.lists(NUMBERS, max_size=30) | CROOKED, SPACES)
def test_numbers_are_read_as_a_parser_of_the_whole_reads_them(
    value: Any, spaces: tuple[str, str]
) -> None:
    text = json.dumps({"data": value, "shape": [1, 2, 3]}, separators=spaces).encode()
    value = orjson.loads(text)["data"]
    body = parse_body(text, ("data",))
    if isinstance(value, list) and all(map(is_number, value)):
        assert read_numbers(body).tolist() == as_float32(value)
    else:
        with pytest.raises(ProtocolError):
            read_numbers(body)


@MANY
@given(st.lists(ROWS | CROOKED, max_size=2), SPACES)
def test_a_list_within_a_list_of_one_is_read_and_nothing_beside_it(
    value: list[Any], spaces: tuple[str, str]
) -> None:
    text = json.dumps({"data": value}, separators=spaces).encode()
    value = orjson.loads(text)["data"]
    body = parse_body(text, ("data",))
    if not is_batched(body):
        return
    if len(value) == 1 and value[0] and are_rows(value[0]):
        assert read_rows(body, 100, batched=True).tolist() == as_float32(value[0])
    else:
        with pytest.raises(ProtocolError):
            read_rows(body, 100, batched=True)


@pytest.mark.parametrize(
    "text",
    [
        b'{"context":[[1,2],]}',
        b'{"context":[,[1,2]]}',
        b'{"context":[[1,2],,[3,4]]}',
        b'{"context":[[1,2][3,4],[5,6]]}',
        b'{"context":[[1,2],[3,4]}',
        b'{"context":[[1,2],[3,4]]],"x":1}',
        b'{"context":[[1,2]],"context":[[3,4],[5,6]]]}',
        b'{"context":[[01,2],[3,4],[5,6]]}',
        b'{"context":[[1,2],[3,NaN],[5,6]]}',
    ],
)
def test_what_no_parser_reads_is_refused(text: bytes) -> None:
    assert rows_of(text) == 400


def test_a_field_that_only_looks_like_the_list_is_not_taken_for_it() -> None:
    long = [[1, 2]] * 20
    for text in (
        orjson.dumps({"context": None, "x": {"context": long}}),
        orjson.dumps({"context": [], "x": long}),
        orjson.dumps({"x": '"context":[[1,2],[3,4],[5,6]]', "context": 5}),
    ):
        assert rows_of(text) == 400
    beside = orjson.dumps({"context": [[1, 2]], "x": long})
    assert rows_of(beside) == [[1, 2]]
    escaped = b'{"cont\\u0065xt":[[1,2],[3,4]],"x":"[[[[[[[[[[[[[[[[[[[[[[[["}'
    assert rows_of(escaped) == [[1, 2], [3, 4]]


def test_more_rows_than_are_accepted_are_counted_and_refused_before_they_are_all_read() -> None:
    text = orjson.dumps({"context": [[1, 2]] * 50})
    with pytest.raises(ProtocolError, match="50 vectors: this server accepts at most 7") as error:
        read_rows(parse_body(text, ("context",)), 7)
    assert error.value.status == 413


def test_a_body_of_thousands_of_lists_is_still_read() -> None:
    lists = [["a"]] * 2 * jsonrows.MOST_LISTS
    assert rows_of(orjson.dumps({"x": lists, "context": [[1, 2]]})) == [[1, 2]]
