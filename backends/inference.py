"""The hot path of a model server: `.../infer`, from the first byte to the last.

A request that is plain enough goes the short way (`take`); the others, those that are refused among
them, come as plain ASGI (`infer`), and what is raised there is answered by the exception handlers
of the application around it.
"""

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

from starlette.types import Receive, Scope, Send

from backends import answer, protocol
from backends.bodies import Bodies, Headers, headers_of, is_quick, text_of
from backends.errors import BackendError, ClientLeftError
from backends.metrics import Metrics
from backends.protocol import PREFIX_OUTCOMES, Prediction, PrefixOutcome, ProtocolError, Request
from backends.refusal import JSON, Refusal, refusal_of
from backends.serving import content
from backends.serving.direct import Answer, Call, Work
from backends.statistics import SECOND_NS, Statistics
from backends.worker import Worker

OK: Final = 200
_TIMEOUT: Final = protocol.TIMEOUT_HEADER.encode()
_SHADOW: Final = protocol.SHADOW_HEADER.encode()
_HEADER_LENGTH: Final = protocol.HEADER_LENGTH.encode()
_ENCODING: Final = b"content-encoding"
_TOLD: Final[dict[PrefixOutcome | None, dict[str, str] | None]] = {
    None: None, **{word: {"prefix": word} for word in PREFIX_OUTCOMES.values()}
}  # fmt: skip
"""What an answer's parameters say of known prefixes."""
T = TypeVar("T")


class Inference:
    """Answers infer requests from a worker.

    `check` raises when a scope's path names no model; `tell` is told of what is refused the short
    way, and the request's id.
    """

    def __init__(
        self,
        worker: Worker,
        bodies: Bodies,
        *,
        check: Callable[[Scope], None],
        tell: Callable[[Exception, Refusal, str], None],
        statistics: Statistics,
        metrics: Metrics,
        max_context: int,
    ) -> None:
        self._worker = worker
        self._bodies = bodies
        self._check = check
        self._tell = tell
        self._statistics = statistics
        self._metrics = metrics
        self._max_context = max_context

    async def infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Predict: an Open Inference Protocol v2 infer request, JSON or binary."""
        began = time.perf_counter_ns()
        try:
            message = await self._infer(scope, receive, began)
        except Exception:
            self._statistics.failed(time.perf_counter_ns() - began)
            raise
        self._statistics.succeeded(time.perf_counter_ns() - began)
        self._metrics.predictions.inc()
        headers = [(name.encode(), value.encode()) for name, value in message.headers.items()]
        headers.append((b"content-length", b"%d" % len(message.body)))
        await send({"type": "http.response.start", "status": OK, "headers": headers})
        await send({"type": "http.response.body", "body": message.body})

    async def _infer(self, scope: Scope, receive: Receive, began: int) -> protocol.Message:
        headers = headers_of(scope)
        try:
            timeout_s = protocol.read_timeout(text_of(headers, _TIMEOUT))
            self._check(scope)
            self._worker.loaded()
            content.check_encoding(text_of(headers, _ENCODING))
        except (BackendError, ProtocolError):
            await self._bodies.throw_away(receive)
            raise
        with self._worker.expecting():
            question = await self._read(scope, receive, headers)
        passed = (time.perf_counter_ns() - began) / SECOND_NS
        prediction = await while_there(
            receive,
            self._worker.predict(
                question,
                timeout_s=_least(timeout_s, question.timeout_s, passed),
                mirrored=_SHADOW in headers,
            ),
        )
        return self._written(prediction, question)

    def _written(self, prediction: Prediction, request: Request) -> protocol.Message:
        began = time.perf_counter_ns()
        message = answer.write_answer(prediction, request, extra=_TOLD[prediction.prefix])
        self._statistics.writing.add(time.perf_counter_ns() - began)
        return message

    # --- the short way: `backends/serving/direct.py` ----------------------------------------------

    def take(self, call: Call) -> Work | None:
        """Take a request that is sound and read at once; the long way says what is wrong."""
        headers: Headers = dict(reversed(call.headers))
        if self._worker.predictor is None or _ENCODING in headers:
            return None
        body, header_length = call.view(), text_of(headers, _HEADER_LENGTH)
        if not is_quick(len(body), header_length):
            return None
        began = time.perf_counter_ns()
        try:
            timeout_s = protocol.read_timeout(text_of(headers, _TIMEOUT))
            request = protocol.read_infer(body, header_length, max_length=self._max_context)
        except ProtocolError:
            return None
        self._statistics.reading.add(time.perf_counter_ns() - began)
        timeout_s = _least(timeout_s, request.timeout_s, time.monotonic() - call.arrived)
        return self._work(call, request, timeout_s, mirrored=_SHADOW in headers)

    async def _work(
        self, call: Call, request: Request, timeout_s: float | None, *, mirrored: bool
    ) -> Answer:
        good = False
        try:
            prediction = await self._worker.predict(request, timeout_s=timeout_s, mirrored=mirrored)
            message = self._written(prediction, request)
            good = True
        except (BackendError, ProtocolError) as error:
            return self._refused(call, error)
        except asyncio.CancelledError:
            if not call.disconnected:
                raise
            return self._refused(call, ClientLeftError("the client left before its turn"))
        finally:
            stay = int((time.monotonic() - call.arrived) * SECOND_NS)
            (self._statistics.succeeded if good else self._statistics.failed)(stay)
        self._metrics.predictions.inc()
        return Answer(OK, lines_of(message.headers), message.body)

    def _refused(self, call: Call, error: BackendError | ProtocolError) -> Answer:
        refusal = refusal_of(error)
        self._tell(error, refusal, call.request_id)
        head = lines_of({"content-type": JSON, **refusal.headers})
        return Answer(refusal.status, head, refusal.body)

    # --- the long way ---------------------------------------------------------------------------

    async def _read(self, scope: Scope, receive: Receive, headers: Headers) -> Request:
        def parse(body: bytes) -> Request:
            return protocol.read_infer(
                body, text_of(headers, _HEADER_LENGTH), max_length=self._max_context
            )

        return await self._bodies.read(scope, receive, headers, parse)


def _least(one: float | None, other: float | None, passed: float) -> float | None:
    """Return what is left of the nearer of two deadlines; None where there is none."""
    if one is None or other is None:
        one = other if one is None else one
        return None if one is None else one - passed
    return min(one, other) - passed


def lines_of(headers: Mapping[str, str]) -> bytes:
    """Write headers as lines, each with its end."""
    return _lines_of(tuple(headers.items()))


@functools.lru_cache(maxsize=256)
def _lines_of(headers: tuple[tuple[str, str], ...]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers).encode("latin-1")


async def while_there(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do `work` as long as the client is there. Call it once the body has been read.

    Raises ClientLeftError, when the work has been cancelled and has ended, and what `work` raises.
    """
    working = asyncio.current_task()
    left = False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        if working is not None:
            working.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if not left or working is None or working.uncancel():
            raise
        raise ClientLeftError("the client left before its turn") from None
    finally:
        watching.cancel()
