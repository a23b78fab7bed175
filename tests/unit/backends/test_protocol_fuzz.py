"""Whatever arrives, the protocol answers with a value or a ProtocolError, never anything else."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.answer import read_answer, write_answer
from backends.protocol import (
    HEADER_LENGTH,
    OUTPUTS,
    Prediction,
    ProtocolError,
    Request,
    read_infer,
    read_lookup,
    read_predict,
    write_request,
)

RELAXED = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
NAMES = (
    *("name", "shape", "datatype", "data", "parameters", "inputs", "outputs"),
    *("context", "vector", "id", "key"),
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["CONTEXT", "FP32", "PREDICTION", "binary_data_size"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(NAMES) | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
# Written out, because a dict has no name twice.
TWICE = st.recursive(
    JSON.map(json.dumps),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{','.join(items)}]")
        | st.lists(st.tuples(st.sampled_from(NAMES), inner), min_size=2, max_size=4).map(
            lambda pairs: "{" + ",".join(f'"{name}":{value}' for name, value in pairs) + "}"
        )
    ),
    max_leaves=6,
)
HEADERS = st.none() | st.integers(-5, 400).map(str) | st.text(max_size=5)
FLOAT = st.floats(-(2.0**49), 2.0**49, width=32)


def vectors(n: int, fill: float, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    made = np.random.default_rng(seed).standard_normal((n, 768), dtype=np.float32)
    made[-1, 0] = fill
    return made


def read_all(body: bytes, header: str | None) -> None:
    """Let every reader read `body`: each may refuse it, none may fail."""
    for read in (
        lambda: read_predict(body, max_length=5),
        lambda: read_infer(body, header, max_length=5),
        lambda: read_answer(body, header),
        lambda: read_lookup(body),
    ):
        with contextlib.suppress(ProtocolError):
            read()


def read_any(read: Callable[..., Any], body: bytes) -> Any:
    """Let one reader read a body in JSON."""
    if read is read_lookup:
        return read(body)
    return read(body, max_length=5) if read is read_predict else read(body, None, max_length=5)


@RELAXED
@given(st.binary(max_size=300), HEADERS)
def test_any_bytes_are_read_or_refused(body: bytes, header: str | None) -> None:
    read_all(body, header)


@RELAXED
@given(JSON, HEADERS)
def test_any_json_is_read_or_refused(value: Any, header: str | None) -> None:
    read_all(json.dumps(value).encode(), header)


def valid_bodies() -> list[tuple[bytes, str | None]]:
    context = vectors(2, 0.5, 1)
    request = Request(context, id="r", binary_outputs=frozenset(OUTPUTS))
    scores = np.array([1, 0.5], np.float32)
    answer = Prediction(context[0], np.array([1, 2]), scores, 2, 2, "c" * 64, "b" * 64)
    plain = {"context": context.tolist(), "id": "r", "key": "k", "top_k": 3}
    tensor = {
        "name": "CONTEXT",
        "shape": [1, 2, 768],
        "datatype": "FP32",
        "data": context.ravel().tolist(),
    }
    messages = [
        write_request(request),
        write_answer(answer, request),
        write_answer(answer, Request(context)),
    ]
    return [
        (json.dumps(plain).encode(), None),
        (json.dumps({"inputs": [tensor]}).encode(), None),
        (json.dumps({"vector": context[0].tolist()}).encode(), None),
        *((message.body, message.headers.get(HEADER_LENGTH)) for message in messages),
    ]


VALID = valid_bodies()
CONTEXT = vectors(2, 0.5, 1)


@RELAXED
@given(
    st.sampled_from(VALID),
    st.lists(
        st.tuples(
            st.floats(0, 1),
            st.integers(0, 12),
            st.binary(max_size=3) | st.sampled_from([b"[", b"]", b"null", b'"', b"{}", b"1e999"]),
        ),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
)
def test_a_valid_body_with_bytes_changed_is_read_or_refused(
    valid: tuple[bytes, str | None], edits: list[tuple[float, int, bytes]], early: bool
) -> None:
    body, header = valid
    for where, cut, put in edits:
        # half of the edits in the first 400 bytes, where a long body has its structure
        at = int(where * (min(400, len(body)) if early else len(body)))
        body = body[:at] + put + body[at + cut :]
    read_all(body, header)


@RELAXED
@given(st.sampled_from(range(2)), st.data())
def test_a_valid_document_with_one_value_replaced_is_read_or_refused(
    index: int, data: st.DataObject
) -> None:
    document = json.loads([VALID[1][0], VALID[-1][0]][index])
    target: Any = document
    while True:
        keys = list(target) if isinstance(target, dict) else range(min(len(target), 3))
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(target[key], dict | list) or not target[key] or data.draw(st.booleans()):
            break
        target = target[key]
    target[key] = data.draw(JSON)
    read_all(json.dumps(document).encode(), None)


@RELAXED
@given(TWICE, HEADERS)
def test_any_json_with_names_twice_is_read_or_refused(text: str, header: str | None) -> None:
    read_all(text.encode(), header)


@RELAXED
@given(st.sampled_from(VALID), st.sampled_from(NAMES), TWICE | st.just("[[[1,2]]]"), st.data())
def test_a_valid_body_with_a_field_put_in_front_of_any_object_is_read_or_refused(
    valid: tuple[bytes, str | None], name: str, value: str, data: st.DataObject
) -> None:
    body, header = valid
    opens = [at for at, byte in enumerate(body[: int(header or len(body))]) if byte == ord("{")]
    at = data.draw(st.sampled_from(opens)) + 1
    put = f'"{name}":{value},'.encode()
    longer = body[:at] + put + body[at:]
    read_all(longer, header and str(int(header) + len(put)))
    document = json.loads(body[: int(header or len(body))])
    if at == 1 and name in document:
        for read in (read_predict, read_lookup, read_infer)[:: 1 if header is None else 9]:
            with pytest.raises(ProtocolError):
                read_any(read, longer)


TEXTS = st.text('[]{}"\\,:a\u00e9', max_size=12)
NESTS = (
    lambda a, b: [[a], b],
    lambda a, b: [a, [[b]]],
    lambda a, b: [[], [a, b]],
    lambda a, b: [[a, b], []],
)


@RELAXED
@given(
    st.sampled_from(["predict", "flat", "nested", "lookup"]),
    st.none() | st.sampled_from(NESTS),
    st.tuples(st.integers(0, 1), st.integers(0, 766)),
    st.tuples(TEXTS, TEXTS, st.booleans()),
    st.lists(st.sampled_from(OUTPUTS), unique=True),
)
def test_a_list_within_a_vector_is_refused_and_a_bracket_in_a_text_is_not(
    form: str,
    nest: Callable[[float, float], list[Any]] | None,
    place: tuple[int, int],
    texts: tuple[str, str, bool],
    outputs: list[str],
) -> None:
    rows: list[list[Any]] = CONTEXT.tolist()
    row, at = place[0] * (form != "lookup"), place[1]
    if nest:
        rows[row][at : at + 2] = nest(*rows[row][at : at + 2])
    names = {"id": f"i{texts[0]}", "key": f"k{texts[1]}"}
    tensor = {"name": "CONTEXT", "shape": [1, 2, 768], "datatype": "FP32"}
    tensor["data"] = rows[0] + rows[1] if form == "flat" else [rows]
    listed = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    parameters = {"key": names["key"], "more": [[names["id"]], {"[": [names["key"]]}]}
    document: dict[str, Any] = {
        "inputs": [tensor],
        "id": names["id"],
        "outputs": listed,
        "parameters": parameters,
    }
    read: Callable[..., Any] = read_infer
    if form == "predict":
        document, read = {"context": rows, **names}, read_predict
    elif form == "lookup":
        document, read = {"vector": rows[0]}, read_lookup
    body = json.dumps(document, ensure_ascii=texts[2]).encode()
    if nest:
        with pytest.raises(ProtocolError, match=r"must be a number, not a list"):
            read_any(read, body)
    else:
        found = read_any(read, body)
        vector = found if form == "lookup" else found.context
        np.testing.assert_array_equal(vector, CONTEXT[0] if form == "lookup" else CONTEXT)


@RELAXED
@given(
    st.integers(1, 5),
    FLOAT,
    st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256),
    st.integers(1, 1000),
    st.booleans(),
)
def test_every_request_survives_the_round_trip(
    n: int, fill: float, id_: str | None, top_k: int, exclude: bool
) -> None:
    request = Request(vectors(n, fill, n), id=id_, top_k=top_k, exclude_context=exclude)
    message = write_request(request)
    found = read_infer(message.body, message.headers[HEADER_LENGTH], max_length=5)
    np.testing.assert_array_equal(found.context, request.context)
    assert (found.id, found.top_k, found.exclude_context) == (id_, top_k, exclude)


@RELAXED
@given(
    FLOAT,
    st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), FLOAT), max_size=10),
    st.frozensets(st.sampled_from(OUTPUTS)),
    st.integers(1, 9),
)
def test_every_answer_survives_the_round_trip_in_every_form(
    fill: float, neighbors: list[tuple[int, float]], binary: frozenset[str], length: int
) -> None:
    answer = Prediction(
        vector=vectors(1, fill, 3)[0],
        ids=np.array([i for i, _ in neighbors], np.int64),
        scores=np.array([score for _, score in neighbors], np.float32),
        length=length,
        window=min(length, 5),
        checkpoint="c" * 64,
        bank="b" * 64,
    )
    message = write_answer(answer, Request(vectors(1, 0, 1), binary_outputs=binary))
    found = read_answer(message.body, message.headers.get(HEADER_LENGTH))
    for name in ("vector", "ids", "scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(answer, name))
    assert (found.length, found.window, found.truncated) == (length, min(length, 5), length > 5)


@pytest.mark.parametrize("depth", [10, 100_000])
def test_deeply_nested_json_is_refused(depth: int) -> None:
    for opening in (b"[", b'{"context":', b'{"context":['):
        with pytest.raises(ProtocolError):
            read_predict(opening * depth, max_length=5)
