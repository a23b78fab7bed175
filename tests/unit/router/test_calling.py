"""How a client calls: what is sent, what is tried again, what an answer means."""

import numpy as np
import orjson
import pytest

from backends.protocol import read_infer
from router.calling import (
    AccessError,
    AnswerError,
    Call,
    ClientError,
    DeadlineError,
    Reply,
    RequestError,
    Send,
    Steps,
    UnavailableError,
    UnreachableError,
    Wait,
    check,
    check_url,
    feedback_call,
    predict_call,
    read_prediction,
    retry_after_s,
    steps,
    wait_before_again,
)

CALL = Call("/v1/feedback", b"{}", {}, 30.0)
OK = Reply(200)
BUSY = Reply(503)
CUT = Reply(failure="connection reset")


class World:
    """A clock that waits move, and no chance: half of everything."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waited: list[float] = []

    def start(self, call: Call = CALL) -> Steps:
        return steps(call, clock=lambda: self.now, chance=lambda: 0.5, now=lambda: 0.0)

    def run(self, *replies: Reply, call: Call = CALL, takes: float = 0.0) -> tuple[Reply, int]:
        """Give one reply after the other, and return the one that is kept and how many were."""
        going, given = self.start(call), 0
        came: Reply | None = None
        while True:
            try:
                step = going.send(came)
            except StopIteration as end:
                return end.value, given
            if isinstance(step, Wait):
                self.waited.append(step.seconds)
                self.now += step.seconds
                came = None
            else:
                self.now += takes
                came, given = replies[given], given + 1


@pytest.mark.parametrize("status", [200, 202, 400, 401, 403, 404, 409, 410, 413, 500, 504])
def test_an_answer_that_would_be_the_same_again_is_kept(status: int) -> None:
    assert World().run(Reply(status)) == (Reply(status), 1)


@pytest.mark.parametrize("first", [Reply(429), Reply(502), BUSY, CUT])
def test_what_fails_in_passing_is_tried_again(first: Reply) -> None:
    assert World().run(first, OK) == (OK, 2)


def test_three_tries_are_all_and_the_waits_between_them_grow() -> None:
    world = World()
    assert world.run(BUSY, CUT, BUSY) == (BUSY, 3)
    assert world.waited == [0.05, 0.1]


def test_retry_after_is_honoured() -> None:
    world = World()
    assert world.run(Reply(503, {"retry-after": "7"}), OK) == (OK, 2)
    assert world.waited == [7]


def test_no_wait_goes_beyond_the_deadline() -> None:
    busy = Reply(503, {"retry-after": "31"})
    assert World().run(busy) == (busy, 1)
    assert World().run(BUSY, call=Call("/", b"", {}, 1.0), takes=0.98) == (BUSY, 1)


def test_a_late_answer_is_not_waited_for_again() -> None:
    late = Reply(failure="timeout", late=True)
    assert World().run(late) == (late, 1)


def test_each_try_tells_what_is_left_of_the_deadline() -> None:
    world = World()
    going = world.start()
    first = next(going)
    world.now = 12.5
    assert isinstance(going.send(BUSY), Wait)
    second = going.send(None)
    assert isinstance(first, Send)
    assert isinstance(second, Send)
    assert [one.headers["x-request-timeout-ms"] for one in (first, second)] == ["30000", "17500"]
    assert second.within_s == 17.5


def test_a_deadline_that_passes_between_tries_is_an_error() -> None:
    world = World()
    going = world.start()
    next(going)
    going.send(BUSY)
    world.now = 31
    with pytest.raises(DeadlineError, match="no answer within 30 s"):
        going.send(None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        ("9" * 30, 999999999.0),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("-1", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str | None, expected: float | None) -> None:
    assert retry_after_s(text, 100.0) == expected


def test_an_unreadable_retry_after_leaves_the_usual_wait() -> None:
    reply = Reply(503, {"retry-after": "soon"})
    assert wait_before_again(reply, 1, left=9, chance=1.0, now=0) == 0.1


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(400), RequestError),
        (Reply(401), AccessError),
        (Reply(403), AccessError),
        (Reply(404), RequestError),
        (Reply(429), UnavailableError),
        (Reply(500), UnavailableError),
        (Reply(503), UnavailableError),
        (Reply(504), DeadlineError),
        (Reply(301), RequestError),
        (CUT, UnreachableError),
        (Reply(failure="timeout", late=True), DeadlineError),
    ],
)
def test_every_failure_has_its_type(reply: Reply, kind: type[ClientError]) -> None:
    with pytest.raises(ClientError) as caught:
        check(CALL, reply, 0.0)
    assert type(caught.value) is kind


def test_an_error_carries_the_gateways_words() -> None:
    headers = {"x-request-id": "a-name", "retry-after": "2"}
    reply = Reply(503, headers, b'{"error": "not now"}')
    with pytest.raises(UnavailableError, match=r"^not now$") as caught:
        check(CALL, reply, 0.0)
    error = caught.value
    assert (error.status, error.request_id, error.retry_after_s) == (503, "a-name", 2.0)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"error": 3}', b"{}"])
def test_an_error_without_words_names_its_status(body: bytes) -> None:
    with pytest.raises(UnavailableError, match="the answer has the status 502"):
        check(CALL, Reply(502, {}, body), 0.0)


def test_what_is_no_answer_of_a_gateway_is_said_to_be_none() -> None:
    with pytest.raises(AnswerError, match="this is no gateway's answer"):
        read_prediction(Reply(200, {}, b"<html>welcome</html>"))


# --- what is sent -------------------------------------------------------------------------------


def test_a_prediction_is_written_in_the_binary_form_with_all_that_was_asked() -> None:
    vectors = np.random.default_rng(1).standard_normal((3, 768))
    call = predict_call(vectors, top_k=4, key="user-7", exclude_context=False, arm="phase2")
    read = read_infer(call.body, call.headers["inference-header-content-length"], max_length=9)
    assert np.array_equal(read.context, vectors.astype(np.float32))
    assert (read.top_k, read.key, read.exclude_context) == (4, "user-7", False)
    assert call.headers["x-turnout-arm"] == "phase2"


def test_one_vector_alone_is_a_context() -> None:
    call = predict_call(np.ones(768))
    length = call.headers["inference-header-content-length"]
    assert read_infer(call.body, length, max_length=9).length == 1


@pytest.mark.parametrize("shape", [(0, 768), (3, 767), (1, 3, 768), (0,)])
def test_a_wrong_shape_is_told_before_anything_is_sent(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="vectors of 768 numbers are wanted"):
        predict_call(np.zeros(shape))


def test_numbers_that_are_not_finite_and_deadlines_that_are_none_are_told() -> None:
    with pytest.raises(ValueError, match="not finite"):
        predict_call(np.full(768, np.nan))
    with pytest.raises(ValueError, match="above 0, not 0"):
        predict_call(np.ones(768), timeout_s=0)


def test_what_no_request_can_carry_is_told_before_anything_is_sent() -> None:
    with pytest.raises(ValueError, match="not finite in float32"):
        predict_call(np.full(768, 1e300))
    for fields in ({"arm": "\u00fc"}, {"arm": "a\r\nb: c"}, {"key": "\udcff"}):
        with pytest.raises(ValueError, match=r"no header carries|no text in UTF-8"):
            predict_call(np.ones(768), **fields)  # type: ignore[arg-type] # names of texts
    for target in (2**63, -(2**63) - 1):
        with pytest.raises(ValueError, match="ids are whole numbers of 64 bits"):
            feedback_call("a", target_id=target)
    assert b"-9223372036854775808" in feedback_call("a", target_id=-(2**63)).body


@pytest.mark.parametrize(
    "url", ["localhost:1", "ftp://a", "http://", "http://a:x", "http://:1", ""]
)
def test_an_address_that_is_none_is_told_with_what_is_missing(url: str) -> None:
    with pytest.raises(ValueError, match="is no address of a gateway"):
        check_url(url)
    assert check_url("https://a.b/prefix") == "https://a.b/prefix"


def test_feedback_names_one_truth() -> None:
    assert orjson.loads(feedback_call("a", target_id=3).body) == {"id": "a", "target_id": 3}
    assert len(orjson.loads(feedback_call("a", target=np.ones(768)).body)["target"]) == 768
    for truth in ({}, {"target_id": 3, "target": np.ones(768)}):
        with pytest.raises(ValueError, match="one of target_id and target"):
            feedback_call("a", **truth)  # type: ignore[arg-type]
