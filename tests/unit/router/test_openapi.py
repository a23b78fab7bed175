"""What `/docs` says about the gateway."""

import orjson

from backends.protocol import read_infer, read_predict
from router.feedback import read_feedback
from router.openapi import FEEDBACK, INFER, PREDICT


def example(operation: dict[str, object]) -> bytes:
    body = operation["requestBody"]
    assert isinstance(body, dict)
    return orjson.dumps(body["content"]["application/json"]["example"])


def test_the_example_of_predict_is_a_request_as_it_stands() -> None:
    request = read_predict(example(PREDICT), max_length=100)
    assert (request.length, request.id, request.top_k) == (1, "my-first", 3)


def test_the_example_of_infer_is_a_request_as_it_stands() -> None:
    assert read_infer(example(INFER), None, max_length=100).length == 1


def test_the_example_of_feedback_has_its_form_and_says_what_to_put_in() -> None:
    assert read_feedback(example(FEEDBACK))[1] == 17
    assert "x-request-id of an answer of yours" in FEEDBACK["requestBody"]["description"]
