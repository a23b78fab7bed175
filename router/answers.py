"""What the endpoints that predict answer: headers and bodies of what became of a request. Pure."""

import functools
from collections.abc import Mapping
from typing import Final

import orjson

from backends import answer, protocol
from backends.protocol import Prediction, ProtocolError, Terms
from backends.serving.direct import Answer
from router.body import Question
from router.errors import BodyTooLongError, BusyError, RouterError, UpstreamStatusError
from router.gateway import Outcome

OK: Final = 200
RETRY_AFTER_S: Final = 1
_JSON: Final = b"content-type: application/json\r\n"


def of_infer(outcome: Outcome, prediction: Prediction, terms: Terms) -> Answer:
    """Answer in the Open Inference Protocol v2, in the form that `terms` ask for."""
    tensors = answer.handed_on(prediction, terms)
    if tensors is not None:
        decision = outcome.decision
        facts = prediction.length, prediction.window, prediction.checkpoint, prediction.bank
        lines, head = _known_infer(
            outcome.arm,
            decision.arm,
            outcome.stage,
            outcome.position,
            decision.reason,
            prediction.ids.size,
            facts,
        )
        return Answer(OK, lines, b"".join((head, tensors)))
    message = answer.write_answer(prediction, terms, extra={"arm": outcome.arm})
    return Answer(OK, routing(outcome) + _known_lines(tuple(message.headers.items())), message.body)


def of_predict(
    question: Question, outcome: Outcome, prediction: Prediction, tokens_per_vector: int
) -> Answer:
    """Answer `/v1/predict`."""
    document = {
        "id": question.terms.id or outcome.admission.request_id,
        "prediction": prediction.vector,
        "neighbors": [
            {"id": neighbor, "score": score}
            for neighbor, score in zip(
                prediction.ids.tolist(), prediction.scores.tolist(), strict=True
            )
        ],
        "arm": outcome.arm,
        "length": question.length,
        "tokens": question.length * tokens_per_vector,
        "truncated": prediction.truncated,
    }
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return Answer(OK, routing(outcome) + _JSON, body)


def of_failure(outcome: Outcome) -> Answer:
    """Say why nobody answered."""
    head = routing(outcome) + _JSON
    error = outcome.answered.error
    if isinstance(error, UpstreamStatusError) and error.busy:
        head += b"retry-after: %d\r\n" % (error.retry_after_s or RETRY_AFTER_S)
    return Answer(outcome.status, head, protocol.write_error(str(error)))


def of_refusal(error: RouterError | ProtocolError) -> Answer:
    """Say why a request was not even tried: `{"error": "<sentence>"}`."""
    head = _JSON
    if isinstance(error, BusyError):
        head += b"retry-after: %d\r\n" % RETRY_AFTER_S
    if isinstance(error, BodyTooLongError):
        head += b"connection: close\r\n"
    return Answer(error.status, head, protocol.write_error(str(error)))


def routing(outcome: Outcome) -> bytes:
    """Write the header lines that say who answered, and why."""
    prediction = outcome.answered.prediction
    return _routing(
        outcome.arm,
        outcome.decision.arm,
        outcome.stage,
        outcome.position,
        outcome.decision.reason,
        prediction.checkpoint if prediction else None,
        prediction.bank if prediction else None,
    )


@functools.lru_cache(maxsize=1024)
def _routing(
    arm: str,
    assigned: str,
    stage: str,
    position: tuple[int, int],
    reason: str,
    checkpoint: str | None,
    bank: str | None,
) -> bytes:
    """Write them. Nearly all requests between two changes have one of a few."""
    headers = {
        "x-turnout-arm": arm,
        "x-turnout-assigned": assigned,
        "x-turnout-stage": stage,
        "x-turnout-version": str(position),
        "x-turnout-reason": str(reason),
    }
    if checkpoint is not None and bank is not None:
        headers["x-turnout-checkpoint"] = checkpoint
        headers["x-turnout-bank"] = bank
    return _lines(headers)


@functools.lru_cache(maxsize=1024)
def _known_infer(
    arm: str,
    assigned: str,
    stage: str,
    position: tuple[int, int],
    reason: str,
    neighbors: int,
    facts: tuple[int, int, str, str],
) -> tuple[bytes, bytes]:
    """Write all but the tensors of an answer that is handed on: header lines, and the JSON."""
    head = answer.head_of_all(neighbors, facts, {"arm": arm})
    _, _, checkpoint, bank = facts
    routed = _routing(arm, assigned, stage, position, reason, checkpoint, bank)
    return routed + _lines(protocol.framed(head, (b"",)).headers), head


@functools.lru_cache(maxsize=1024)
def _known_lines(headers: tuple[tuple[str, str], ...]) -> bytes:
    return _lines(dict(headers))


def _lines(headers: Mapping[str, str]) -> bytes:
    """Write header lines. Raises ValueError for a value that would be more than one."""
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    text = "".join(lines)
    if text.count("\r") != len(lines) or text.count("\n") != len(lines):
        raise ValueError(f"a header of {', '.join(headers)} holds a line break")
    return text.encode("latin-1")
