"""What a feedback body must hold."""

import numpy as np
import orjson
import pytest

from router.errors import BadRequestError
from router.feedback import read_feedback


def test_a_truth_is_an_id() -> None:
    assert read_feedback(b'{"id": "a", "target_id": -9223372036854775808}') == ("a", -(1 << 63))


def test_a_truth_is_a_vector() -> None:
    name, target = read_feedback(orjson.dumps({"id": "a", "target": [0.5] * 768}))
    assert name == "a"
    np.testing.assert_array_equal(target, np.full(768, 0.5, np.float32))


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "no JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"id": "a", "target_id": 1, "extra": 1}', "unknown field 'extra'"),
        (b'{"target_id": 1}', "id must be a text"),
        (b'{"id": 7, "target_id": 1}', "id must be a text"),
        (b'{"id": "a"}', "one of target_id and target"),
        (b'{"id": "a", "target_id": 1, "target": []}', "one of target_id and target"),
        (b'{"id": "a", "target_id": "1"}', "whole number"),
        (b'{"id": "a", "target_id": true}', "whole number"),
        (b'{"id": "a", "target_id": 9223372036854775808}', "64 bits"),
        (b'{"id": "a", "target": [1, 2]}', "768 numbers"),
        (b'{"id": "a", "target": "x"}', "list of numbers, not a text"),
        (orjson.dumps({"id": "a", "target": [1e39] * 768}), "finite"),
    ],
)
def test_a_wrong_body_gets_a_sentence_that_says_what_is_wrong(body: bytes, complaint: str) -> None:
    with pytest.raises(BadRequestError, match=complaint):
        read_feedback(body)
