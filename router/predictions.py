"""The hot path: `/v1/predict` and `/infer` as plain ASGI, from the first byte to the last.

A question goes to the gateway as soon as its length is known, while its body may still be arriving
(`router/intake.py`): one task per request reads on, feeds the body, and notices when the client
leaves. That cancels the work, the call to the backend within it included.

Whatever is raised here is answered by the exception handlers of the application around it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

import orjson
from starlette.types import Receive, Scope, Send

from backends import protocol
from backends.protocol import TIMEOUT_HEADER, Prediction, read_timeout
from backends.statistics import Statistics
from router.access import ARM_HEADER
from router.body import Body, Question
from router.errors import ClientLeftError, UnknownModelError
from router.gateway import Gateway, Outcome
from router.ids import admitted_at
from router.intake import Headers, Intake
from router.record import Admission

OK: Final = 200
_TIMEOUT: Final = TIMEOUT_HEADER.encode()
_ARM: Final = ARM_HEADER.encode()
T = TypeVar("T")


class Predictions:
    """The two endpoints that predict."""

    def __init__(
        self,
        gateway: Gateway,
        intake: Intake,
        statistics: Statistics,
        *,
        tokens_per_vector: int,
    ) -> None:
        self._gateway = gateway
        self._intake = intake
        self._statistics = statistics
        self._tokens_per_vector = tokens_per_vector

    async def predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Predict the next vector of a context."""
        question, outcome = await self._ask(scope, receive, self._intake.predict)
        prediction = outcome.answered.prediction
        if prediction is None:
            await _answer_failure(send, outcome)
            return
        text = orjson.dumps(
            self._document(question, outcome, prediction), option=orjson.OPT_SERIALIZE_NUMPY
        )
        headers = {**_routing_headers(outcome), "content-type": "application/json"}
        await _answer(send, OK, headers, text)

    async def infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Predict, in the Open Inference Protocol v2: JSON, or the binary tensor extension."""
        began = time.perf_counter_ns()
        good = False
        try:
            good = await self._infer(scope, receive, send)
        finally:
            count = self._statistics.succeeded if good else self._statistics.failed
            count(time.perf_counter_ns() - began)

    async def _infer(self, scope: Scope, receive: Receive, send: Send) -> bool:
        check_name(scope)
        question, outcome = await self._ask(scope, receive, self._intake.infer)
        prediction = outcome.answered.prediction
        if prediction is None:
            await _answer_failure(send, outcome)
            return False
        _check_version(scope, protocol.version_of(prediction.checkpoint))
        message = protocol.write_answer(prediction, question.terms, extra={"arm": outcome.arm})
        await _answer(send, OK, {**_routing_headers(outcome), **message.headers}, message.body)
        return True

    async def _ask(
        self,
        scope: Scope,
        receive: Receive,
        read: Callable[[Headers, Receive], Awaitable[Question]],
    ) -> tuple[Question, Outcome]:
        admission = _admit(scope)
        headers: Headers = dict(reversed(scope["headers"]))  # of several, the first counts
        timeout_s = read_timeout(_text(headers.get(_TIMEOUT)))
        self._intake.check(headers)
        question = await read(headers, receive)
        limits = [limit for limit in (timeout_s, question.terms.timeout_s) if limit is not None]
        outcome = await while_waiting(
            receive,
            question.body,
            self._gateway.predict(
                question,
                admission,
                timeout_s=min(limits, default=None),
                override=_text(headers.get(_ARM)),
            ),
        )
        return question, outcome

    def _document(
        self, question: Question, outcome: Outcome, prediction: Prediction
    ) -> dict[str, Any]:
        return {
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
            "tokens": question.length * self._tokens_per_vector,
            "truncated": prediction.truncated,
        }


# --- while the client waits -----------------------------------------------------------------------


async def while_waiting(receive: Receive, body: Body, work: Coroutine[Any, Any, T]) -> T:
    """Do `work` as long as the client waits for it, and feed `body` with what it sends meanwhile.

    Raises ClientLeftError, when the work has been cancelled and has ended, and what `work` raises.
    """
    working = asyncio.current_task()
    left = False

    async def watch() -> None:
        nonlocal left
        while (message := await receive())["type"] != "http.disconnect":
            if piece := message.get("body"):
                body.feed(piece)
        left = True
        body.cut()
        if working is not None:
            working.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if not left or working is None or working.uncancel():
            raise
        raise ClientLeftError("the client left before its answer") from None
    finally:
        watching.cancel()


def _admit(scope: Scope) -> Admission:
    name: str = scope["state"]["request_id"]
    at = admitted_at(name)
    if at is None:
        raise ValueError(f"{name!r} was not issued by router.ids")
    return Admission(name, at, time.monotonic())


def check_name(scope: Scope) -> None:
    """Raise UnknownModelError for a path to another model than the one there is."""
    name = scope["path_params"].get("name", protocol.MODEL)
    if name != protocol.MODEL:
        raise UnknownModelError(
            f'no model is called "{name[:40]}": this server has "{protocol.MODEL}"'
        )


def _check_version(scope: Scope, answered: str) -> None:
    """Raise UnknownModelError when a path asks for another version than the one that answered."""
    version = scope["path_params"].get("version", answered)
    if version != answered:
        raise UnknownModelError(
            f'the version "{version[:40]}" does not answer this request, "{answered}" does: the '
            "context's length and the rollout decide here. Leave /versions/... out of the path"
        )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


# --- answers ------------------------------------------------------------------------------------


async def _answer(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    pairs.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


async def _answer_failure(send: Send, outcome: Outcome) -> None:
    headers = {**_routing_headers(outcome), "content-type": "application/json"}
    body = protocol.write_error(str(outcome.answered.error))
    await _answer(send, outcome.status, headers, body)


def _routing_headers(outcome: Outcome) -> dict[str, str]:
    headers = {
        "x-turnout-arm": outcome.arm,
        "x-turnout-assigned": outcome.decision.arm,
        "x-turnout-stage": outcome.stage,
        "x-turnout-version": str(outcome.position),
        "x-turnout-reason": str(outcome.decision.reason),
    }
    if outcome.answered.prediction:
        headers["x-turnout-checkpoint"] = outcome.answered.prediction.checkpoint
        headers["x-turnout-bank"] = outcome.answered.prediction.bank
    return headers
