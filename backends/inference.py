"""The hot path of a model server: `.../infer` as plain ASGI, from the first byte to the last.

Whatever is raised here is answered by the exception handlers of the application around it.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from starlette.types import Receive, Scope, Send

from backends import answer, content, protocol
from backends.bodies import Bodies, Headers, headers_of, text_of
from backends.errors import BackendError, ClientLeftError
from backends.metrics import Metrics
from backends.protocol import ProtocolError, Request
from backends.statistics import Statistics
from backends.worker import Worker

OK: Final = 200
_TIMEOUT: Final = protocol.TIMEOUT_HEADER.encode()
_SHADOW: Final = protocol.SHADOW_HEADER.encode()
_HEADER_LENGTH: Final = protocol.HEADER_LENGTH.encode()
_ENCODING: Final = b"content-encoding"
T = TypeVar("T")


class Inference:
    """Answers infer requests from a worker. `check` raises when a scope's path names no model."""

    def __init__(
        self,
        worker: Worker,
        bodies: Bodies,
        *,
        check: Callable[[Scope], None],
        statistics: Statistics,
        metrics: Metrics,
        max_context: int,
    ) -> None:
        self._worker = worker
        self._bodies = bodies
        self._check = check
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
        limits = [limit for limit in (timeout_s, question.timeout_s) if limit is not None]
        passed = (time.perf_counter_ns() - began) / 1e9
        prediction = await while_there(
            receive,
            self._worker.predict(
                question,
                timeout_s=min(limits) - passed if limits else None,
                mirrored=_SHADOW in headers,
            ),
        )
        written = time.perf_counter_ns()
        message = answer.write_answer(prediction, question)
        self._statistics.writing.add(time.perf_counter_ns() - written)
        return message

    async def _read(self, scope: Scope, receive: Receive, headers: Headers) -> Request:
        def parse(body: bytes) -> Request:
            return protocol.read_infer(
                body, text_of(headers, _HEADER_LENGTH), max_length=self._max_context
            )

        return await self._bodies.read(scope, receive, headers, parse)


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
