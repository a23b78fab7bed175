"""How long a body is, wherever it is cut while it arrives, and whatever it claims."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message, Receive

from backends.protocol import (
    DIMENSION,
    HEADER_LENGTH,
    Floats,
    ProtocolError,
    Request,
    Terms,
    read_infer,
    write_request,
)
from router import length
from router.body import Question
from router.errors import BodyTooLongError, ClientLeftError
from router.intake import Bounds, Intake

MANY = settings(max_examples=60, deadline=None, derandomize=True)
BOUNDS = Bounds(body=1 << 20, context=40)


def context(vectors: int) -> Floats:
    floats: Floats = np.random.default_rng(vectors).random((vectors, DIMENSION), np.float32)
    return floats


def sent_in(pieces: list[bytes]) -> Receive:
    """Play a server that receives these pieces, then nothing."""
    coming = iter(pieces)
    left = len(pieces)

    async def receive() -> Message:
        nonlocal left
        left -= 1
        piece = next(coming, None)
        if piece is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": left > 0}

    return receive


def asked(body: bytes, headers: dict[str, str], cuts: list[int], path: str = "infer") -> Question:
    """Read a body that arrives cut at these places; all of it, in the end."""
    borders = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    pieces = [body[a:b] for a, b in itertools.pairwise(borders)]

    async def read() -> Question:
        intake = Intake(BOUNDS, lambda _: None)
        receive = sent_in(pieces)
        named = {name.encode(): value.encode() for name, value in headers.items()}
        intake.check(named)
        read_it = intake.infer if path == "infer" else intake.predict
        question = await read_it(named, receive)
        while not question.body.whole:
            question.body.feed((await receive())["body"])
        intake.close()
        return question

    return asyncio.run(read())


def floats_of(question: Question) -> bytes:
    return b"".join(question.body.pieces())


CUTS = st.lists(st.integers(0, 200_000), max_size=6)


@MANY
@given(vectors=st.integers(1, 20), cuts=CUTS)
def test_every_split_of_a_binary_body_gives_the_same_decision(
    vectors: int, cuts: list[int]
) -> None:
    message = write_request(Request(context(vectors), id="a", key="k", top_k=3))
    headers = {**message.headers, "content-length": str(len(message.body))}
    question = asked(message.body, headers, cuts)
    read = read_infer(message.body, message.headers[HEADER_LENGTH], max_length=40)
    assert question.terms == Terms(
        vectors, id="a", key="k", top_k=3, binary_outputs=read.binary_outputs
    )
    assert floats_of(question) == context(vectors).tobytes()


@MANY
@given(vectors=st.integers(1, 20), cuts=CUTS, shape=st.sampled_from(["flat", "nested", "predict"]))
def test_every_split_of_a_json_body_gives_the_same_decision(
    vectors: int, cuts: list[int], shape: str
) -> None:
    rows = context(vectors)
    tensor = {"name": "CONTEXT", "shape": [1, vectors, DIMENSION], "datatype": "FP32"}
    data = rows.reshape(1, *rows.shape) if shape == "nested" else rows.ravel()
    document: dict[str, Any] = {"inputs": [{**tensor, "data": data}], "parameters": {"key": "k"}}
    if shape == "predict":
        document = {"context": rows, "key": "k"}
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    path = "predict" if shape == "predict" else "infer"
    question = asked(body, {"content-length": str(len(body))}, cuts, path)
    assert (question.length, question.terms.key) == (vectors, "k")
    assert floats_of(question) == rows.tobytes()


@MANY
@given(vectors=st.integers(1, 8), cuts=CUTS)
def test_a_body_that_is_only_a_tensor_says_its_length_by_its_size(
    vectors: int, cuts: list[int]
) -> None:
    body = context(vectors).tobytes()
    question = asked(body, {HEADER_LENGTH: "0", "content-length": str(len(body))}, cuts)
    assert question.length == vectors
    assert floats_of(question) == body


@MANY
@given(data=st.data())
def test_a_length_that_lies_is_refused_before_any_float_has_arrived(data: st.DataObject) -> None:
    vectors = data.draw(st.integers(1, 6))
    lie = data.draw(st.integers(-2, 8).filter(lambda n: n != vectors))
    size = vectors * DIMENSION * 4
    where = data.draw(st.sampled_from(["shape", "size", "body"]))
    head = orjson.dumps(
        {
            "inputs": [
                {
                    "name": "CONTEXT",
                    "shape": [1, lie if where == "shape" else vectors, DIMENSION],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": lie * 3072 if where == "size" else size},
                }
            ]
        }
    )
    total = len(head) + (max(lie, 0) * 3072 if where == "body" else size)
    headers = {HEADER_LENGTH: str(len(head)), "content-length": str(total)}
    with pytest.raises(ProtocolError):
        asked(head, headers, [])


@pytest.mark.parametrize("claimed", ["4", "-3", "3.0", "three", "", " 3", "9" * 30])
@pytest.mark.parametrize("form", ["binary", "json", "predict"])
def test_a_claimed_length_is_checked_and_both_are_named(claimed: str, form: str) -> None:
    body, headers, path = written(form)
    right = asked(body, {**headers, length.LENGTH_HEADER: "3"}, [], path)
    assert right.length == 3
    with pytest.raises(ProtocolError) as caught:
        asked(body, {**headers, length.LENGTH_HEADER: claimed}, [], path)
    assert repr(claimed[:20]) in str(caught.value)
    assert "has 3 vectors" in str(caught.value)


def written(form: str) -> tuple[bytes, dict[str, str], str]:
    if form == "binary":
        message = write_request(Request(context(3)))
        sizes = {"content-length": str(len(message.body))}
        return message.body, {**message.headers, **sizes}, "infer"
    rows = context(3)
    tensor = {
        "name": "CONTEXT",
        "shape": [1, 3, DIMENSION],
        "datatype": "FP32",
        "data": rows.ravel(),
    }
    document: dict[str, Any] = {"inputs": [tensor]} if form == "json" else {"context": rows}
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return body, {}, "infer" if form == "json" else "predict"


@pytest.mark.parametrize("form", ["binary", "json", "predict"])
def test_more_vectors_than_are_accepted_are_refused_by_their_number(form: str) -> None:
    tight = Intake(Bounds(body=1 << 20, context=2), lambda _: None)
    body, headers, path = written(form)
    named = {name.encode(): value.encode() for name, value in headers.items()}
    with pytest.raises(ProtocolError, match="3 vectors") as caught:
        asyncio.run(getattr(tight, path)(named, sent_in([body])))
    assert caught.value.status == 413


def test_the_rows_of_a_scanned_body_are_counted_without_reading_them() -> None:
    rows = context(30).tolist()
    text = orjson.dumps({"context": rows, "key": "k"})
    scanned = length.of_predict(text, max_length=40)
    assert scanned.length == 30
    halved = text.replace(b"0.", b"x.")  # no numbers at all: found when they are read
    assert length.of_predict(halved, max_length=40).length == 30
    with pytest.raises(ProtocolError):
        list(length.of_predict(halved, max_length=40).steps())


def test_a_body_beyond_the_limit_is_refused_by_its_announcement_or_its_bytes() -> None:
    intake = Intake(Bounds(body=10, context=1), lambda _: None)
    with pytest.raises(BodyTooLongError):
        intake.check({b"content-length": b"11"})
    with pytest.raises(BodyTooLongError):
        asyncio.run(intake.predict({}, sent_in([b"12345", b"678901", b""])))


@pytest.mark.parametrize("form", ["binary", "predict"])
def test_a_client_that_leaves_before_its_body_has_decided_is_known_to_have_left(form: str) -> None:
    body, headers, path = written(form)
    named = {name.encode(): value.encode() for name, value in headers.items()}
    read: Callable[..., Any] = getattr(Intake(BOUNDS, lambda _: None), path)

    async def receive_half() -> Message:
        return next(messages)

    messages: Any = iter(
        [
            {"type": "http.request", "body": body[:20], "more_body": True},
            {"type": "http.disconnect"},
        ]
    )
    with pytest.raises(ClientLeftError):
        asyncio.run(read(named, receive_half))
