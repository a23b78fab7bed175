"""The HTTP edge of a model server: parse, hand to the worker, write the answer, map errors.

The server answers `live` from its first moment and `ready` once the model is loaded and warm; a
request before that gets 503 with Retry-After. Every error is `{"error": "<sentence>"}`. A body is
read within a bound, and a long one is parsed in a thread. That helps in part: the steps of a parse
are C calls that hold the interpreter's lock, so beside 30 MB of JSON (2,000 vectors) everything
else, health included, stands still for about 0.1 s at a time. The binary form, which gateways
send, has no floats to parse.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import structlog
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from backends import protocol, telemetry
from backends.errors import (
    BackendError,
    BodyTooLargeError,
    ClientLeftError,
    LoadError,
    NotReadyError,
    UnknownModelError,
)
from backends.metrics import Metrics
from backends.predictor import Predictor
from backends.protocol import Prediction, ProtocolError, Request
from backends.worker import BATCH, Worker

LONG_BODY: Final = 256 * 1024
"""Bytes; more than this is parsed in a thread, which the loop runs beside between two C calls."""
MIB: Final = 1024 * 1024
HTTP_KINDS: Final = {400: "bad_request", 404: "not_found", 413: "body_too_large"}

log = structlog.stdlib.get_logger("backends")


class ModelServer:
    """One model server. `app` is the ASGI application; `failed` says that loading went wrong."""

    def __init__(
        self,
        load: Callable[[], Predictor],
        *,
        arm: str,
        version: str,
        queue_limit: int,
        max_context: int,
        max_body_mb: int,
        batch_limit: int = BATCH,
        give_up: Callable[[], None] = telemetry.stop,
    ) -> None:
        registry: CollectorRegistry = telemetry.new_registry()
        self.failed = False
        self._load = load
        self._give_up = give_up
        self._arm = arm
        self._version = version
        self._max_context = max_context
        self._max_body = max_body_mb * MIB
        self._metrics = Metrics(registry)
        self._worker = Worker(
            queue_limit=queue_limit, batch_limit=batch_limit, metrics=self._metrics
        )
        self.app = FastAPI(title="turnout model server", openapi_url=None, lifespan=self._lifespan)
        self.app.add_middleware(telemetry.RequestTelemetry, registry=registry)
        self.app.add_route("/metrics", telemetry.metrics_endpoint(registry))
        routes: tuple[tuple[str, str, Callable[..., Awaitable[Response]]], ...] = (
            ("GET", "/v2", self.server),
            ("GET", "/v2/health/live", self.live),
            ("GET", "/v2/health/ready", self.ready),
            ("GET", "/v2/models/{name}", self.model),
            ("GET", "/v2/models/{name}/ready", self.model_ready),
            ("POST", "/v2/models/{name}/infer", self.infer),
            ("POST", "/v2/models/{name}/lookup", self.lookup),
        )
        for method, path, endpoint in routes:
            self.app.add_api_route(path, endpoint, methods=[method], response_model=None)
        for error in (BackendError, ProtocolError, HTTPException):
            self.app.add_exception_handler(error, self._refuse)

    # --- life -----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(self._start())
        yield
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        await self._worker.stop()

    async def _start(self) -> None:
        """Load the model while the server answers; a server that cannot load ends itself."""
        try:
            await self._worker.start(self._load)
        except LoadError as error:
            log.critical("cannot load", arm=self._arm, reason=str(error))
        except Exception:
            log.exception("cannot load", arm=self._arm)
        else:
            log.info("ready", arm=self._arm, **self._predictor().facts)
            return
        self.failed = True
        self._give_up()

    def _predictor(self) -> Predictor:
        if self._worker.predictor is None:
            raise NotReadyError("the model is still being loaded: try again in a second")
        return self._worker.predictor

    # --- predictions ----------------------------------------------------------------------------

    async def infer(self, name: str, request: HttpRequest) -> Response:
        """Predict: an Open Inference Protocol v2 infer request, JSON or binary."""
        began = asyncio.get_running_loop().time()
        timeout_s = protocol.read_timeout(request.headers.get(protocol.TIMEOUT_HEADER))
        _check_name(name)
        self._predictor()  # not ready: say so before reading megabytes
        header_length = request.headers.get(protocol.HEADER_LENGTH)
        # No name for the body: it is gone once it is parsed, however long the request waits.
        question = await self._parse(await self._read_body(request), header_length)
        if timeout_s is not None:
            timeout_s -= asyncio.get_running_loop().time() - began
        prediction = await self._predict(question, timeout_s, request)
        self._metrics.predictions.inc()
        message = protocol.write_answer(prediction, question)
        return Response(message.body, headers=dict(message.headers))

    async def _parse(self, body: bytes, header_length: str | None) -> Request:
        if len(body) <= LONG_BODY:
            return protocol.read_infer(body, header_length, max_length=self._max_context)
        return await asyncio.to_thread(
            protocol.read_infer, body, header_length, max_length=self._max_context
        )

    async def _predict(
        self, question: Request, timeout_s: float | None, request: HttpRequest
    ) -> Prediction:
        """Wait for the worker, or for the client to leave: then the question is withdrawn."""
        answer = asyncio.create_task(self._worker.predict(question, timeout_s=timeout_s))
        leaving = asyncio.create_task(_disconnected(request))
        try:
            await asyncio.wait((answer, leaving), return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            raise ClientLeftError("the client left before its turn")
        finally:
            answer.cancel()
            leaving.cancel()

    async def lookup(self, name: str, request: HttpRequest) -> Response:
        """Find the id of the bank's vector that equals the given one exactly, or null."""
        _check_name(name)
        predictor = self._predictor()
        vector = protocol.read_lookup(await self._read_body(request))
        return JSONResponse({"id": predictor.bank.find(vector)})

    async def _read_body(self, request: HttpRequest) -> bytes:
        """Read a body of at most `max_body_mb`, and no more than twice that of a longer one.

        A client that is cut off while it sends loses the answer, so what is too long by a bounded
        amount is read out first. Raises BodyTooLargeError, and ClientLeftError when the body ends
        before its end.
        """
        chunks: list[bytes] = []
        total = 0
        try:
            async for chunk in request.stream():
                total += len(chunk)
                if total <= self._max_body:
                    chunks.append(chunk)
                else:
                    chunks.clear()
                if total > 2 * self._max_body:
                    break
        except ClientDisconnect:
            raise ClientLeftError("the client left before its request was whole") from None
        if total > self._max_body:
            raise BodyTooLargeError(
                f"the body is longer than {self._max_body // MIB} MiB: this server reads no more"
            )
        return b"".join(chunks)

    # --- what it is -----------------------------------------------------------------------------

    async def server(self) -> Response:
        """Describe the server."""
        return JSONResponse(protocol.server_metadata(self._version))

    async def live(self) -> Response:
        """Say that the event loop turns."""
        return JSONResponse({"live": True})

    async def ready(self) -> Response:
        """Say whether a prediction would be answered."""
        ready = self._worker.predictor is not None
        return JSONResponse({"ready": ready, "live": True}, 200 if ready else 503)

    async def model_ready(self, name: str) -> Response:
        """Say whether the model is loaded and warm."""
        _check_name(name)
        ready = self._worker.predictor is not None
        return JSONResponse({"name": name, "ready": ready}, 200 if ready else 503)

    async def model(self, name: str) -> Response:
        """Describe the model, its identity, and whether anyone trained it."""
        _check_name(name)
        predictor = self._predictor()
        facts = {"arm": self._arm, **predictor.facts}
        return JSONResponse(protocol.model_metadata([predictor.checkpoint[:12]], facts))

    # --- errors ---------------------------------------------------------------------------------

    async def _refuse(self, request: HttpRequest, error: Exception) -> Response:
        """Write any error of the three trees as the protocol's error body."""
        headers: dict[str, str] = {}
        match error:
            case BackendError():
                status, kind, text = error.status, error.kind, str(error)
                if error.retry_after_s is not None:
                    headers["retry-after"] = str(error.retry_after_s)
                if status == BodyTooLargeError.status:
                    headers["connection"] = "close"
            case ProtocolError():
                status, text = error.status, str(error)
                kind = HTTP_KINDS.get(status, "bad_request")
            case HTTPException():
                status = error.status_code
                text = f"{error.detail}: {request.method} {request.url.path[:80]}"
                kind = HTTP_KINDS.get(status, "bad_request")
            case _:
                raise error
        self._metrics.errors.labels(kind).inc()
        return Response(protocol.write_error(text), status, headers, "application/json")


def _check_name(name: str) -> None:
    if name != protocol.MODEL:
        raise UnknownModelError(
            f'no model is called "{name[:40]}": this server has "{protocol.MODEL}"'
        )


async def _disconnected(request: HttpRequest) -> None:
    """Return when the client has closed its connection. Call it once the body has been read."""
    message: dict[str, Any] = {}
    while message.get("type") != "http.disconnect":
        message = dict(await request.receive())
