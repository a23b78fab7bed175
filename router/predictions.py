"""The hot path: `/v1/predict` and `/infer` as plain ASGI, from the first byte to the last.

A question goes to the gateway as soon as its length is known, while its body may still be arriving
(`router/intake.py`): one task per request reads on, feeds the body, and notices when the client
leaves. That cancels the work, the call to the backend within it included. When too many requests
are under way, a request is turned away by its head alone.

Whatever is raised here is answered by the exception handlers of the application around it.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import Any, Final, TypeVar

import orjson
from starlette.types import Receive, Scope, Send

from backends import answer, protocol
from backends.exchange import EXCHANGE, Exchange
from backends.protocol import TIMEOUT_HEADER, Prediction, read_timeout
from backends.statistics import Statistics
from router.access import ARM_HEADER
from router.body import Body, Question
from router.edge import RETRY_AFTER_S
from router.errors import ClientLeftError, UnknownModelError, UpstreamStatusError
from router.gateway import Gateway, Outcome
from router.ids import admitted_at
from router.intake import Headers, Intake
from router.limits import Places
from router.metrics import Metrics
from router.record import Admission

OK: Final = 200
_TIMEOUT: Final = TIMEOUT_HEADER.encode()
_ARM: Final = ARM_HEADER.encode()
_SHED: Final = protocol.write_error("too many requests are under way: try again")
_SHED_HEADERS: Final = (
    (b"content-type", b"application/json"),
    (b"content-length", b"%d" % len(_SHED)),
    (b"retry-after", b"%d" % RETRY_AFTER_S),
)
T = TypeVar("T")


class Predictions:
    """The two endpoints that predict."""

    def __init__(
        self,
        gateway: Gateway,
        intake: Intake,
        statistics: Statistics,
        places: Places,
        metrics: Metrics,
        *,
        tokens_per_vector: int,
    ) -> None:
        self._gateway = gateway
        self._places = places
        self._shed = metrics.shed
        metrics.in_flight.set_function(lambda: places.taken)
        self._intake = intake
        self._statistics = statistics
        self._tokens_per_vector = tokens_per_vector

    async def predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Predict the next vector of a context."""
        if self._places.full:
            await self._turn_away(send)
            return
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
        if self._places.full:
            await self._turn_away(send)
            return False
        check_name(scope)
        question, outcome = await self._ask(scope, receive, self._intake.infer)
        prediction = outcome.answered.prediction
        if prediction is None:
            await _answer_failure(send, outcome)
            return False
        _check_version(scope, protocol.version_of(prediction.checkpoint))
        message = answer.write_answer(prediction, question.terms, extra={"arm": outcome.arm})
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
        with self._place(question.body):
            outcome = await while_waiting(
                scope,
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

    @contextlib.contextmanager
    def _place(self, body: Body) -> Iterator[None]:
        """Hold a place, from when the body is whole: who sends slowly must not fill them all."""
        held = 0

        def hold() -> None:
            nonlocal held
            held = 1
            self._places.take()

        if body.whole:
            hold()
        else:
            body.when_whole(hold)
        try:
            yield
        finally:
            body.forget()
            if held:
                self._places.give()

    async def _turn_away(self, send: Send) -> None:
        """Refuse before anything is read: the server throws away what still comes."""
        self._shed.inc()
        await send({"type": "http.response.start", "status": 503, "headers": _SHED_HEADERS})
        await send({"type": "http.response.body", "body": _SHED})

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


async def while_waiting(
    scope: Scope, receive: Receive, body: Body, work: Coroutine[Any, Any, T]
) -> T:
    """Do `work` as long as the client waits for it, and feed `body` with what it sends meanwhile.

    Raises ClientLeftError, when the work has been cancelled and has ended, and what `work` raises.
    """
    working = asyncio.current_task()
    left = False

    def leave() -> None:
        nonlocal left
        left = True
        body.cut()
        if working is not None:
            working.cancel()

    exchange = scope["state"].get(EXCHANGE) if body.whole else None
    stop = _told(exchange, leave) if exchange else _watched(receive, body, leave)
    try:
        return await work
    except asyncio.CancelledError:
        if not left or working is None or working.uncancel():
            raise
        raise ClientLeftError("the client left before its answer") from None
    finally:
        stop()


def _told(exchange: Exchange, leave: Callable[[], None]) -> Callable[[], None]:
    """Let the connection tell that the client left: all of the body is there."""
    exchange.when_left(leave)
    return lambda: exchange.when_left(None)


def _watched(receive: Receive, body: Body, leave: Callable[[], None]) -> Callable[[], None]:
    """Read on in a task, until the client leaves."""

    async def watch() -> None:
        while (message := await receive())["type"] != "http.disconnect":
            if piece := message.get("body"):
                body.feed(piece)
        leave()

    watching = asyncio.create_task(watch())

    def stop() -> None:
        watching.cancel()

    return stop


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
    error = outcome.answered.error
    if isinstance(error, UpstreamStatusError) and error.busy:
        headers["retry-after"] = str(error.retry_after_s)
    body = protocol.write_error(str(error))
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
