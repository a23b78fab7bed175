import json
import sys
from typing import Any

import numpy as np
import pytest
from backend_samples import context, infer_json

from backends.answer import handed_on, head_of_all, read_answer, write_answer
from backends.protocol import (
    HEADER_LENGTH,
    OUTPUTS,
    Floats,
    Message,
    Prediction,
    ProtocolError,
    Request,
    read_infer,
    read_lookup,
    read_predict,
    write_error,
    write_request,
)

MAX = 20
VECTORS = context(3)


def predict_body(**fields: Any) -> bytes:
    return json.dumps({"context": VECTORS.tolist(), **fields}).encode()


def prediction(k: int = 2) -> Prediction:
    return Prediction(
        vector=context(1, seed=5)[0],
        ids=np.arange(k, dtype=np.int64) + 2**40,
        scores=np.linspace(1, 0.5, k, dtype=np.float32),
        length=300,
        window=100,
        checkpoint="c" * 64,
        bank="b" * 64,
    )


def read(message: Message) -> Request:
    return read_infer(message.body, message.headers.get(HEADER_LENGTH), max_length=MAX)


def refusal_of_predict(body: bytes) -> str:
    with pytest.raises(ProtocolError) as error:
        read_predict(body, max_length=MAX)
    return str(error.value)


def refusal_of_infer(body: bytes, header: str | None = None) -> str:
    with pytest.raises(ProtocolError) as error:
        read_infer(body, header, max_length=MAX)
    return str(error.value)


# --- /v1/predict ----------------------------------------------------------------------------------


def test_a_predict_body_is_read_to_the_last_bit() -> None:
    request = read_predict(
        predict_body(id="a", key="k", top_k=3, exclude_context=False), max_length=MAX
    )
    np.testing.assert_array_equal(request.context, VECTORS)
    assert request.context.dtype == np.float32
    assert (request.id, request.key, request.top_k, request.exclude_context) == ("a", "k", 3, False)


def test_a_predict_body_of_the_context_alone_gets_the_defaults() -> None:
    request = read_predict(predict_body(), max_length=MAX)
    assert (request.id, request.key, request.top_k, request.exclude_context) == (
        *(None, None),
        *(10, True),
    )
    assert request.length == 3


def test_whole_numbers_are_numbers() -> None:
    body = json.dumps({"context": [[1] * 767 + [2.5]]}).encode()
    assert read_predict(body, max_length=MAX).context[0, 0] == 1.0


def rows(*changes: tuple[int, int, Any]) -> bytes:
    plain: list[Any] = VECTORS.tolist()
    for row, column, value in changes:
        plain[row][column] = value
    return json.dumps({"context": plain}).encode()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is empty"),
        (b"  ", "the body is empty"),
        (b"[1]", "the body must be a JSON object, not a list"),
        (b"hello", "the body is no JSON"),
        (predict_body()[:-20], "was the body truncated?"),
        (rows((0, 0, float("nan"))), "NaN and Infinity are no JSON numbers"),
        (b'{"context": [[1, Infinity]]}', "NaN and Infinity are no JSON numbers"),
        (rows((1, 2, 1e39)), "context[1][2] is beyond the range of float32"),
        (rows((1, 2, "x")), "context[1][2] must be a number, not a text"),
        (rows((1, 2, None)), "context[1][2] must be a number, not null"),
        (rows((1, 2, True)), "context[1][2] must be a number, not true or false"),
        (rows((1, 2, [1.0])), "context[1][2] must be a number, not a list"),
        (rows((1, 2, {"a": 1})), "context[1][2] must be a number, not an object"),
        (rows((0, 0, 10**30)), "an integer beyond 64 bits"),
        (b"{}", 'the field "context" is missing'),
        (b'{"context": []}', "context is empty"),
        (b'{"context": 3}', "context must be a list of vectors, not a number"),
        (b'{"context": [3]}', "context[0] must be a vector of 768 numbers, not a number"),
        (b'{"context": [[1, 2]]}', "context[0] has 2 numbers: a vector has 768"),
        (b'{"context": [[1]]}', "context[0] has 1 number: a vector has 768"),
        (b'{"context": [[[1, 2]]]}', "context[0] is a list of lists: it must be a vector of 768"),
        (predict_body(colour=1), "the body has the unknown field 'colour'"),
        (predict_body(id=""), "id must be a text of 1 to 256 characters"),
        (predict_body(id="\ud800"), "the body is no JSON"),
        (predict_body(id=7), "id must be a text of 1 to 256 characters, not 7"),
        (predict_body(key="k" * 257), "key must be a text of 1 to 256 characters"),
        (predict_body(top_k=0), "top_k must be a whole number from 1 to 1000, not 0"),
        (predict_body(top_k=1001), "top_k must be a whole number"),
        (predict_body(top_k=True), "top_k must be a whole number"),
        (predict_body(top_k=2.5), "top_k must be a whole number"),
        (predict_body(exclude_context=1), "exclude_context must be true or false, not 1"),
    ],
)
def test_a_wrong_predict_body_gets_the_field_the_finding_and_the_right_way(
    body: bytes, words: str
) -> None:
    assert words in refusal_of_predict(body)


def test_a_context_that_is_too_long_is_413() -> None:
    with pytest.raises(ProtocolError, match="accepts at most 2") as error:
        read_predict(predict_body(), max_length=2)
    assert error.value.status == 413


def test_a_list_in_a_text_does_not_confuse_the_reading() -> None:
    assert read_predict(predict_body(id="[["), max_length=MAX).id == "[["


ROW = b"[" + b",".join([b"0.5"] * 768) + b"]"
NESTED_ROW = b"[[1,2]" + b",1" * 767 + b"]"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        # readers differ in which of two equal names they take: none of the two is taken here
        (b'{"context":[%b],"context":[%b]}' % (NESTED_ROW, ROW), "'context' more than once"),
        (b'{"context":[%b],"context":5}' % NESTED_ROW, "'context' more than once"),
        (b'{"context":[%b],"id":"a","id":"b"}' % ROW, "the body has the field 'id' more than once"),
        (b'{"context":[%b]}' % NESTED_ROW, "context[0][0] must be a number, not a list"),
        (b'{"context":[%b],"id":"[["}' % NESTED_ROW, "context[0][0] must be a number, not a list"),
        (b'{"context":[[[],[1,2]%b]]}' % (b",1" * 766), "context[0][0] must be a number"),
    ],
)
def test_what_two_readers_would_read_differently_is_refused(body: bytes, words: str) -> None:
    assert words in refusal_of_predict(body)


def test_a_field_that_is_there_twice_in_any_object_of_an_infer_body_is_refused() -> None:
    body = infer_document(
        top_parameters={"top_k": 3}, top_outputs=[{"name": "PREDICTION", "parameters": {}}]
    )
    for field, where in (
        (b'"shape": [1, 1, 768]', "inputs[0]"),
        (b'"data": 5', "inputs[0]"),
        (b'"top_k": 3', "parameters"),
        (b'"name": "PREDICTION"', "outputs[0]"),
        (b'"inputs": []', "the request"),
    ):
        name = field.split(b":")[0]
        assert body.count(name + b": ") >= 1
        at = body.rindex(name)
        twice = body[:at] + field + b", " + body[at:]
        assert refusal_of_infer(twice).startswith(f"{where} has the field {name.decode()[1:-1]!r}")


def steps(body: bytes, *, infer: bool) -> int:
    """Count the calls that reading a good body takes."""
    count = 0

    def on_event(*_: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(on_event)
    try:
        read_infer(body, None, max_length=50) if infer else read_predict(body, max_length=50)
    finally:
        sys.setprofile(None)
    return count


def test_no_ordinary_request_is_read_element_by_element() -> None:
    vectors = context(50)
    rows = vectors.tolist()
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in OUTPUTS]
    for nested in (False, True):
        document = json.loads(infer_json(vectors, nested=nested))
        for more in ({}, {"outputs": outputs}, {"outputs": outputs, "id": 'a["[\\[\\"['}):
            body = json.dumps({**document, **more}).encode()
            assert steps(body, infer=True) < vectors.size / 10, more
    for text in ("[", 'a["[\\[\\"[', "]" * 200):
        body = json.dumps({"context": rows, "id": text, "key": text}).encode()
        assert steps(body, infer=False) < vectors.size / 10, text


def test_data_that_is_nested_one_level_short_is_told_which_nesting_is_read() -> None:
    body = infer_document(shape=[1, 2, 768], data=VECTORS[:2].tolist())
    assert refusal_of_infer(body) == (
        "inputs[0].data[0] must be a number, not a list: send the numbers flat, or nested as "
        "[1][n][768]"
    )


# --- /v2/models/lvm/infer -------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [False, True])
def test_an_infer_body_in_json_is_read_flat_and_nested(nested: bool) -> None:
    request = read_infer(infer_json(VECTORS, nested=nested, top_k=4), None, max_length=MAX)
    np.testing.assert_array_equal(request.context, VECTORS)
    assert (request.top_k, request.outputs, request.binary_outputs) == (4, OUTPUTS, frozenset())


def test_a_raw_body_is_one_tensor_and_wants_binary_outputs() -> None:
    request = read_infer(VECTORS.tobytes(), "0", max_length=MAX)
    np.testing.assert_array_equal(request.context, VECTORS)
    assert request.binary_outputs == frozenset(OUTPUTS)


def test_a_request_that_is_written_reads_back() -> None:
    request = Request(VECTORS, id="x", key="said", top_k=7, exclude_context=False)
    found = read(write_request(request))
    np.testing.assert_array_equal(found.context, VECTORS)
    assert (found.id, found.key) == ("x", "said")
    assert (found.top_k, found.exclude_context) == (7, False)
    assert found.binary_outputs == frozenset(OUTPUTS)


def infer_document(**changes: Any) -> bytes:
    tensor = {"name": "CONTEXT", "shape": [1, 1, 768], "datatype": "FP32", "data": [0.5] * 768}
    document: dict[str, Any] = {"inputs": [tensor]}
    for name, value in changes.items():
        target, name_ = (document, name[4:]) if name.startswith("top_") else (tensor, name)
        target[name_] = value
    return json.dumps(document).encode()


def test_tritons_own_parameters_are_taken_as_its_clients_mean_them() -> None:
    reserved = {"sequence_id": 7, "sequence_start": True, "priority": 1, "triton_x": [1]}
    body = infer_document(top_parameters={**reserved, "timeout": 1_500_000})
    assert read_infer(body, None, max_length=MAX).timeout_s == 1.5
    no_limit = infer_document(top_parameters={"timeout": 0})
    assert read_infer(no_limit, None, max_length=MAX).timeout_s is None


def test_a_request_and_a_prediction_are_told_in_a_line_without_their_numbers() -> None:
    assert repr(Request(VECTORS, id="me")) == "<Request of 3 vectors, id 'me', top 10>"
    assert repr(prediction()) == (
        "<Prediction from 100 of 300 vectors, 2 neighbours, by cccccccccccc>"
    )


def test_the_models_name_may_stand_in_the_body_too() -> None:
    body = infer_document(top_model_name="lvm", top_model_version="1")
    assert read_infer(body, None, max_length=MAX).length == 1


def test_a_tensor_at_any_place_of_a_body_is_read() -> None:
    message = write_request(Request(VECTORS))
    length = int(message.headers[HEADER_LENGTH])
    for pad in range(5):
        body = message.body[:length] + b" " * pad + message.body[length:]
        request = read_infer(body, str(length + pad), max_length=MAX)
        np.testing.assert_array_equal(request.context, VECTORS)
        assert request.context.flags.aligned


def test_an_outputs_own_word_wins_over_the_requests() -> None:
    body = infer_document(
        top_parameters={"binary_data_output": True},
        top_outputs=[
            {"name": "NEIGHBOR_IDS"},
            {"name": "PREDICTION", "parameters": {"binary_data": False}},
        ],
    )
    request = read_infer(body, None, max_length=MAX)
    assert request.outputs == ("NEIGHBOR_IDS", "PREDICTION")
    assert request.binary_outputs == {"NEIGHBOR_IDS"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"inputs": []}', '"inputs" must list exactly one tensor, CONTEXT; found 0'),
        (b"{}", '"inputs" must list exactly one tensor, CONTEXT; found null'),
        (b'{"inputs": [7]}', "inputs[0] must be an object, not a number"),
        (infer_document(name="X"), "inputs[0].name is 'X'"),
        (infer_document(datatype="FP64"), "inputs[0].datatype is 'FP64'"),
        (infer_document(shape=[1, 768]), "inputs[0].shape is [1, 768]"),
        (infer_document(shape=[2, 1, 768]), "CONTEXT has the shape [1, n, 768], n >= 1"),
        (infer_document(shape=[1, True, 768]), "CONTEXT has the shape"),
        (infer_document(shape=[1, 0, 768]), "CONTEXT has the shape"),
        (infer_document(shape=None), "CONTEXT has the shape"),
        (infer_document(shape=[1, 2, 768]), "holds 768 numbers, but the shape [1, 2, 768] needs"),
        (infer_document(data=[[[0.5] * 768] * 2]), "holds 2 vectors, but the shape says 1"),
        (infer_document(data="x"), "inputs[0].data must be a list of numbers, not a text"),
        (infer_document(data=[0.5] * 767 + [[1]]), "inputs[0].data[767] must be a number"),
        (infer_document(data=["x"] * 768), "inputs[0].data[0] must be a number, not a text"),
        (infer_document(data=[]), "holds 0 numbers"),
        (infer_document(parameters=3), "inputs[0].parameters must be an object"),
        (infer_document(parameters={"binary_data_size": 4}), "both data and binary_data_size"),
        (infer_document(colour=1), "inputs[0] has the unknown field 'colour'"),
        (infer_document(top_colour=1), "the request has the unknown field 'colour'"),
        (infer_document(top_outputs=3), '"outputs" must be a list, not a number'),
        (infer_document(top_outputs=[{"name": "X"}]), "outputs[0] names 'X': the outputs are"),
        (infer_document(top_outputs=[{"name": "PREDICTION"}] * 2), "a second time"),
        (infer_document(top_outputs=[{"name": ["PREDICTION"]}]), "outputs[0] names"),
        (infer_document(top_parameters={"binary_data_output": 1}), "must be true or false"),
        (infer_document(top_parameters={"top_k": "3"}), "parameters.top_k must be"),
        (infer_document(top_parameters={"timeout": -1}), "must be a whole number of microseconds"),
        (infer_document(top_parameters={"timeout": True}), "parameters.timeout must be"),
        (infer_document(parameters={"shared_memory_region": "x"}), "has no such extension"),
        (
            infer_document(
                top_outputs=[{"name": "PREDICTION", "parameters": {"classification": 3}}]
            ),
            "outputs[0].parameters.classification is set",
        ),
    ],
)
def test_a_wrong_infer_body_gets_the_field_the_finding_and_the_right_way(
    body: bytes, words: str
) -> None:
    assert words in refusal_of_infer(body)


@pytest.mark.parametrize("header", ["-1", "1e3", "+3", "٣", "", "99999999", "9" * 5000])
def test_a_header_length_that_is_none_is_refused(header: str) -> None:
    assert "Inference-Header-Content-Length" in refusal_of_infer(b'{"inputs": []}', header)


def test_binary_sizes_that_disagree_are_refused() -> None:
    message = write_request(Request(VECTORS))
    header = message.headers[HEADER_LENGTH]
    assert "binary_data_size is 9216" in refusal_of_infer(message.body[:-1], header)
    assert "binary_data_size is 9216" in refusal_of_infer(message.body + b"x", header)
    no_size = infer_document() + b"\0" * 4
    assert "no binary_data_size" in refusal_of_infer(no_size, str(len(no_size) - 4))
    assert "positive multiple of 3072" in refusal_of_infer(b"\0" * 3071, "0")
    assert "positive multiple of 3072" in refusal_of_infer(b"", "0")


@pytest.mark.parametrize(
    "long", ["x" * 10**6, [0.5] * 10**5, [[[[[[["y"]]]]]]], {"z": "z" * 10**6}]
)
def test_no_error_repeats_more_than_a_line_of_what_was_sent(long: Any) -> None:
    bodies = [
        *(infer_document(**{name: long}) for name in ("name", "datatype", "shape", "data")),
        infer_document(parameters={"binary_data_size": long}, data=[]),
        infer_document(data=[], **{"x" * 10**6: 1}),
        infer_document(top_id=long),
        infer_document(top_outputs=[{"name": long}]),
        infer_document(top_parameters={"top_k": long}),
    ]
    for body in bodies:
        assert len(refusal_of_infer(body)) < 300
    no_data = infer_document(parameters={"binary_data_size": long}).replace(b'"data"', b'"name_"')
    assert len(refusal_of_infer(no_data)) < 300
    size = json.loads(infer_document(parameters={"binary_data_size": long}))
    del size["inputs"][0]["data"]
    assert "binary_data_size is " in refusal_of_infer(json.dumps(size).encode())
    assert len(refusal_of_infer(json.dumps(size).encode())) < 300


def test_binary_floats_that_are_not_finite_are_refused_by_place() -> None:
    vectors = VECTORS.copy()
    vectors[2, 5] = np.inf
    assert "[2][5] is beyond the range" in refusal_of_infer(vectors.tobytes(), "0")


# --- answers --------------------------------------------------------------------------------------


def same(found: Prediction, expected: Prediction) -> None:
    for name in ("vector", "ids", "scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name in ("length", "window", "checkpoint", "bank", "truncated", "prefix"):
        assert getattr(found, name) == getattr(expected, name)


@pytest.mark.parametrize("binary", [frozenset(OUTPUTS), frozenset[str](), {"NEIGHBOR_IDS"}])
@pytest.mark.parametrize("k", [0, 1, 10])
def test_what_a_backend_writes_a_gateway_reads(binary: frozenset[str], k: int) -> None:
    expected = prediction(k)
    message = write_answer(expected, Request(VECTORS, binary_outputs=frozenset(binary)))
    same(read_answer(message.body, message.headers.get(HEADER_LENGTH)), expected)


@pytest.mark.parametrize("order", [OUTPUTS, OUTPUTS[::-1]])
@pytest.mark.parametrize("wanted", [OUTPUTS, OUTPUTS[::-1], OUTPUTS[1:2]])
@pytest.mark.parametrize("id_", [None, "me"])
def test_an_answer_that_is_handed_on_is_written_as_if_it_were_new(
    order: tuple[str, ...], wanted: tuple[str, ...], id_: str | None
) -> None:
    binary = frozenset(OUTPUTS)
    came = write_answer(prediction(), Request(VECTORS, outputs=order, binary_outputs=binary))
    found = read_answer(came.body, came.headers.get(HEADER_LENGTH))
    asked = Request(VECTORS, outputs=wanted, binary_outputs=binary, id=id_)
    tensors = handed_on(found, asked)
    assert (tensors is not None) == (order == wanted == OUTPUTS and id_ is None)
    if tensors is not None:
        facts = (found.length, found.window, found.checkpoint, found.bank)
        whole = head_of_all(found.ids.size, facts, {"arm": "phase1"}) + tensors
        assert whole == write_answer(prediction(), asked, extra={"arm": "phase1"}).body


def test_an_answer_in_json_has_no_header_length_and_one_in_binary_has_no_floats_in_its_json() -> (
    None
):
    plain = write_answer(prediction(), Request(VECTORS, id="me"), extra={"arm": "phase1"})
    assert plain.headers == {"content-type": "application/json"}
    document = json.loads(plain.body)
    assert document["id"] == "me"
    assert document["model_name"] == "lvm"
    assert document["parameters"]["arm"] == "phase1"
    assert document["parameters"]["truncated"] is True
    assert [len(output["data"]) for output in document["outputs"]] == [768, 2, 2]
    binary = write_answer(prediction(), Request(VECTORS, binary_outputs=frozenset(OUTPUTS)))
    assert len(binary.body) == int(binary.headers[HEADER_LENGTH]) + 768 * 4 + 2 * 8 + 2 * 4


@pytest.mark.parametrize("binary", [frozenset(OUTPUTS), frozenset[str]()])
def test_what_known_prefixes_did_is_told_beside_what_computed_it(binary: frozenset[str]) -> None:
    asked = Request(VECTORS, binary_outputs=binary)
    for word in ("hit", "miss", "slid", "off", "hit"):
        message = write_answer(prediction(), asked, extra={"prefix": word})
        assert read_answer(message.body, message.headers.get(HEADER_LENGTH)).prefix == word


@pytest.mark.parametrize("told", [None, "", "a word of a later version", 7, ["hit"], {"hit": 1}])
def test_a_word_about_prefixes_that_is_not_known_spoils_no_answer(told: object) -> None:
    extra = {} if told is None else {"prefix": told}
    message = write_answer(prediction(), Request(VECTORS, id="me"), extra=extra)
    found = read_answer(message.body, message.headers.get(HEADER_LENGTH))
    assert found.prefix is None
    same(found, prediction())


def test_only_the_wanted_outputs_are_written_in_the_wanted_order() -> None:
    wanted = Request(VECTORS, outputs=("NEIGHBOR_IDS", "PREDICTION"))
    document = json.loads(write_answer(prediction(), wanted).body)
    assert [output["name"] for output in document["outputs"]] == ["NEIGHBOR_IDS", "PREDICTION"]


def broken_answer(**changes: Any) -> bytes:
    document = json.loads(write_answer(prediction(), Request(VECTORS)).body)
    for name, value in changes.items():
        if name == "parameters":
            document["parameters"] = value
        elif value is None:
            document["outputs"] = [o for o in document["outputs"] if o["name"] != name]
        else:
            next(o for o in document["outputs"] if o["name"] == name).update(value)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>", "the body is no JSON"),
        (b'{"error": "x"}', "the answer lacks PREDICTION, NEIGHBOR_IDS, NEIGHBOR_SCORES"),
        (broken_answer(PREDICTION={"data": [1.0]}), "PREDICTION is not 768 finite numbers"),
        (broken_answer(PREDICTION={"data": [1e39] * 768}), "PREDICTION is not 768 finite"),
        (broken_answer(PREDICTION={"data": ["x"] * 768}), "PREDICTION"),
        (broken_answer(PREDICTION={"data": [[1.0], 2]}), "PREDICTION"),
        (broken_answer(PREDICTION={"data": None}), "PREDICTION"),
        (broken_answer(PREDICTION={"datatype": "FP64"}), "'PREDICTION' of type 'FP64'"),
        (broken_answer(PREDICTION={"name": ["x"]}), "the answer holds an output"),
        (
            broken_answer(PREDICTION={"parameters": {"binary_data_size": 9}}),
            "announces 9 bytes, which do not follow",
        ),
        (broken_answer(NEIGHBOR_IDS={"data": [1]}), "names 1 neighbours but scores 2"),
        (broken_answer(NEIGHBOR_IDS={"data": [1.5, 2.5]}), "NEIGHBOR_IDS"),
        (broken_answer(NEIGHBOR_SCORES={"data": [1e39, 1]}), "NEIGHBOR_SCORES"),
        (broken_answer(NEIGHBOR_SCORES=None), "the answer lacks NEIGHBOR_SCORES"),
        (broken_answer(parameters={"length": "many"}), "length"),
        (broken_answer(parameters={"window": [3]}), "window"),
        (broken_answer(parameters=3), "parameters must be an object"),
        (broken_answer(parameters={"checkpoint": "a\r\nx-evil: 1"}), "the answer's checkpoint is"),
        (broken_answer(parameters={"checkpoint": "\u20ac"}), "printable ASCII"),
        (broken_answer(parameters={"bank": "b" * 129}), "at most 128 printable ASCII"),
        (broken_answer(parameters={"bank": 7}), "the answer's bank is 7"),
        (broken_answer(parameters={"bank": None}), "the answer's bank is None"),
        (b'{"outputs": [], "outputs": []}', "the answer has the field 'outputs' more than once"),
    ],
)
def test_a_broken_answer_is_refused_in_words(body: bytes, words: str) -> None:
    with pytest.raises(ProtocolError) as error:
        read_answer(body, None)
    assert words in str(error.value)


def test_a_binary_answer_of_crooked_size_is_refused() -> None:
    message = write_answer(prediction(), Request(VECTORS, binary_outputs=frozenset(OUTPUTS)))
    crooked = message.body.replace(b'"binary_data_size":3072', b'"binary_data_size":3071')
    with pytest.raises(ProtocolError):
        read_answer(crooked, message.headers[HEADER_LENGTH])


# --- the rest -------------------------------------------------------------------------------------


def lookup_body(vector: Floats) -> bytes:
    return json.dumps({"vector": vector.tolist()}).encode()


def test_a_lookup_is_read_to_the_last_bit() -> None:
    np.testing.assert_array_equal(read_lookup(lookup_body(VECTORS[0])), VECTORS[0])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{}", 'the field "vector" is missing'),
        (b'{"vector": 3}', "vector must be a list of numbers, not a number"),
        (lookup_body(VECTORS[0][:7]), "vector must be a list of 768 numbers, not of 7"),
        (b'{"vector": [' + b"[1]," * 767 + b"1]}", "vector[0] must be a number, not a list"),
        (b'{"vector": [' + b"1e39," * 767 + b"1]}", "beyond the range of float32"),
        (b'{"vector": [], "x": 1}', "unknown field 'x'"),
    ],
)
def test_a_wrong_lookup_is_refused_in_words(body: bytes, words: str) -> None:
    with pytest.raises(ProtocolError) as error:
        read_lookup(body)
    assert words in str(error.value)


def test_an_error_is_one_string_in_one_field() -> None:
    assert json.loads(write_error('a "quoted" word')) == {"error": 'a "quoted" word'}
