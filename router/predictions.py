"""The hot path: `/v1/predict` and `/infer` as plain ASGI, from the first byte to the last.

A question goes to the gateway as soon as its length is known, while its body may still be arriving
(`router/intake.py`): one task per request reads on, feeds the body, and notices when the client
leaves. That cancels the work, the call to the backend within it included. When too many requests
are under way, a request is turned away by its head alone.

A request that is short and whole goes the short way (`take_predict`, `take_infer`), without ASGI.
The two ways differ in how a request comes and an answer goes; what happens in between is the
gateway's.

Whatever is raised here is answered by the exception handlers of the application around it.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Final, NamedTuple, TypeVar

from starlette.types import Receive, Scope, Send

from backends import protocol
from backends.protocol import TIMEOUT_HEADER, ProtocolError, read_timeout
from backends.serving.direct import Answer, Call, Work
from backends.serving.exchange import EXCHANGE, Exchange
from backends.serving.sparing import Sparing
from backends.statistics import Statistics
from router import answers
from router.access import ARM_HEADER
from router.answers import OK, RETRY_AFTER_S
from router.body import Body, Question
from router.errors import BusyError, ClientLeftError, RouterError, UnknownModelError
from router.gateway import Gateway, Outcome
from router.ids import admitted
from router.intake import Headers, Intake
from router.limits import Places
from router.metrics import Metrics
from router.record import Admission

_TIMEOUT: Final = TIMEOUT_HEADER.encode()
_ARM: Final = ARM_HEADER.encode()
_SHED: Final = protocol.write_error("too many requests are under way: try again")
_SHED_HEADERS: Final = (
    (b"content-type", b"application/json"),
    (b"content-length", b"%d" % len(_SHED)),
    (b"retry-after", b"%d" % RETRY_AFTER_S),
)
T = TypeVar("T")
ReadAtOnce = Callable[[Headers, bytes], Question | None]
Write = Callable[[Question, Outcome], Answer]


class _Asked(NamedTuple):
    """A request on the short way: all that the gateway is told of it."""

    question: Question
    admission: Admission
    timeout_s: float | None
    override: str | None


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
        self._lines = Sparing("router")
        metrics.in_flight.set_function(lambda: places.taken)
        self._intake = intake
        self._statistics = statistics
        self._tokens_per_vector = tokens_per_vector

    async def predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Predict the next vector of a context."""
        if self._places.full:
            await self._turn_away(scope, send)
            return
        question, outcome = await self._ask(scope, receive, self._intake.predict)
        await _send(send, self._predicted(question, outcome))

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
            await self._turn_away(scope, send)
            return False
        check_name(scope)
        question, outcome = await self._ask(scope, receive, self._intake.infer)
        if (prediction := outcome.answered.prediction) is not None:
            _check_version(scope, protocol.version_of(prediction.checkpoint))
        answer = self._inferred(question, outcome)
        await _send(send, answer)
        return answer.status == OK

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
        with self._place(question.body):
            outcome = await while_waiting(
                scope,
                receive,
                question.body,
                self._gateway.predict(
                    question,
                    admission,
                    timeout_s=_least(timeout_s, question),
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

    async def _turn_away(self, scope: Scope, send: Send) -> None:
        """Refuse before anything is read: the server throws away what still comes."""
        self._shed.inc()
        self._lines.warning(
            "not answered",
            request_id=scope["state"]["request_id"],
            status=BusyError.status,
            error="too many requests are under way",
        )
        await send({"type": "http.response.start", "status": 503, "headers": _SHED_HEADERS})
        await send({"type": "http.response.body", "body": _SHED})

    def _predicted(self, question: Question, outcome: Outcome) -> Answer:
        prediction = outcome.answered.prediction
        if prediction is None:
            return answers.of_failure(outcome)
        return answers.of_predict(question, outcome, prediction, self._tokens_per_vector)

    def _inferred(self, question: Question, outcome: Outcome) -> Answer:
        prediction = outcome.answered.prediction
        if prediction is None:
            return answers.of_failure(outcome)
        return answers.of_infer(outcome, prediction, question.terms)

    # --- the short way: `backends/serving/direct.py` ----------------------------------------------

    def take_predict(self, call: Call) -> Work | None:
        """Predict the next vector of a context, the short way."""
        return self._take(call, self._intake.predict_at_once, self._predicted)

    def take_infer(self, call: Call) -> Work | None:
        """Infer the short way."""
        return self._take(call, self._intake.infer_at_once, self._inferred, self._statistics)

    def _take(
        self, call: Call, read: ReadAtOnce, write: Write, statistics: Statistics | None = None
    ) -> Work | None:
        """Take a request that is sound, when there is a place for it; the long way says why not."""
        if self._places.full:
            return None
        headers: Headers = dict(reversed(call.headers))
        try:
            timeout_s = read_timeout(_text(headers.get(_TIMEOUT)))
            self._intake.check(headers)
            question = read(headers, call.body())
        except (RouterError, ProtocolError):
            return None
        if question is None:
            return None
        admission = Admission(call.request_id, admitted(call.request_id), call.arrived)
        asked = _Asked(question, admission, _least(timeout_s, question), _text(headers.get(_ARM)))
        return self._work(call, asked, write, statistics)

    async def _work(
        self, call: Call, asked: _Asked, write: Write, statistics: Statistics | None
    ) -> Answer:
        """Answer it; `statistics`, where there are any, are told how that went."""
        began = time.perf_counter_ns()
        question, admission, timeout_s, override = asked
        status = 0
        self._places.take()
        try:
            outcome = await self._gateway.predict(
                question, admission, timeout_s=timeout_s, override=override
            )
            answer = write(question, outcome)
            status = answer.status
        except (RouterError, ProtocolError) as error:
            return answers.of_refusal(error)
        except asyncio.CancelledError:
            if not call.disconnected:
                raise
            return answers.of_refusal(ClientLeftError("the client left before its answer"))
        finally:
            self._places.give()
            if statistics is not None:
                count = statistics.succeeded if status == OK else statistics.failed
                count(time.perf_counter_ns() - began)
        return answer


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
    return Admission(name, admitted(name), time.monotonic())


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


def _least(timeout_s: float | None, question: Question) -> float | None:
    """Choose the earlier of the deadlines that the headers and the body name."""
    own = question.terms.timeout_s
    if timeout_s is None or own is None:
        return own if timeout_s is None else timeout_s
    return min(timeout_s, own)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


# --- answers ------------------------------------------------------------------------------------


async def _send(send: Send, answer: Answer) -> None:
    """Write an answer as ASGI's messages."""
    lines = answer.head.split(b"\r\n")[:-1]
    pairs = [tuple(line.split(b": ", 1)) for line in lines]
    pairs.append((b"content-length", b"%d" % len(answer.body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": pairs})
    await send({"type": "http.response.body", "body": answer.body})
