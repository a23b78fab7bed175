"""The gateway's HTTP edge: parse, call the gateway, write the answer, map errors. Admin-free.

Every answer, errors and unknown paths included, carries the `x-request-id` that this server issued
and is JSON unless binary outputs were asked for. A body is read within a bound; a long one is
parsed in a thread, so that the loop stays prompt for the others.

The app's life is the gateway's: its background tasks start with it, and when it ends the mirrors
are drained and the last batch is sent.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

import orjson
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from backends import protocol, telemetry
from backends.protocol import TIMEOUT_HEADER, ProtocolError, Request, read_timeout
from router import openapi
from router.edge import KIB, MIB, read_body, while_waiting, write_refusal
from router.errors import RouterError, UnknownModelError, UpstreamError
from router.feedback import Feedback
from router.gateway import Gateway, Outcome
from router.ids import admitted_at
from router.metrics import Metrics
from router.record import Admission
from router.snapshots import Snapshots
from router.upstream import Upstream

LONG_BODY: Final = 256 * KIB
"""Bytes; parsing more than this takes longer than the loop should stand still."""
FEEDBACK_BODY: Final = 64 * KIB
"""Bytes; the longest feedback, a target of 768 written-out numbers, takes a third of it."""


class App:
    """The gateway over HTTP. `app` is the ASGI application.

    `life` are context managers that are entered when it starts and left, in reverse, when it ends.
    """

    def __init__(
        self,
        gateway: Gateway,
        feedback: Feedback,
        snapshots: Snapshots,
        upstream: Upstream,
        metrics: Metrics,
        *,
        new_request_id: Callable[[], str],
        version: str,
        max_context: int,
        max_body_mb: int,
        tokens_per_vector: int,
        life: Callable[[], contextlib.AbstractAsyncContextManager[None]],
    ) -> None:
        self._gateway = gateway
        self._feedback = feedback
        self._snapshots = snapshots
        self._upstream = upstream
        self._version = version
        self._max_context = max_context
        self._max_body = max_body_mb * MIB
        self._tokens_per_vector = tokens_per_vector
        self._life = life
        self.app = FastAPI(
            title="turnout",
            version=version,
            description=openapi.DESCRIPTION,
            lifespan=self._lifespan,
            redoc_url=None,
        )
        self.app.add_middleware(
            telemetry.RequestTelemetry,
            registry=metrics.registry,
            trust_request_id=False,
            new_request_id=new_request_id,
        )
        self.app.add_route("/metrics", telemetry.metrics_endpoint(metrics.registry))
        self._add_routes()
        for error in (RouterError, ProtocolError, HTTPException, ClientDisconnect):
            self.app.add_exception_handler(error, write_refusal)

    def _add_routes(self) -> None:
        routes: Sequence[tuple[str, str, Callable[..., Awaitable[Response]], dict[str, Any]]] = (
            ("POST", "/v1/predict", self.predict, openapi.PREDICT),
            ("POST", "/v1/feedback", self.feedback, openapi.FEEDBACK),
            ("GET", "/v2", self.server, {}),
            ("GET", "/v2/health/live", self.live, {}),
            ("GET", "/v2/health/ready", self.ready, {}),
            ("GET", "/v2/models/{name}", self.model, {}),
            ("GET", "/v2/models/{name}/ready", self.model_ready, {}),
            ("POST", "/v2/models/{name}/infer", self.infer, openapi.INFER),
        )
        for method, path, endpoint, extra in routes:
            self.app.add_api_route(
                path, endpoint, methods=[method], response_model=None, openapi_extra=extra
            )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        async with self._life():
            yield

    # --- predictions ----------------------------------------------------------------------------

    async def predict(self, request: HttpRequest) -> Response:
        """Predict the next vector of a context."""
        admission = _admit(request)
        timeout_s = read_timeout(request.headers.get(TIMEOUT_HEADER))
        question = await self._question(
            request, lambda body: protocol.read_predict(body, max_length=self._max_context)
        )
        outcome = await while_waiting(
            request, self._gateway.predict(question, admission, timeout_s=timeout_s)
        )
        prediction = outcome.answered.prediction
        if prediction is None:
            return _write_failure(outcome)
        document = {
            "id": question.id or admission.request_id,
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
        text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(text, 200, _routing_headers(outcome), "application/json")

    async def infer(self, name: str, request: HttpRequest) -> Response:
        """Predict, in the Open Inference Protocol v2: JSON, or the binary tensor extension."""
        admission = _admit(request)
        _check_name(name)
        timeout_s = read_timeout(request.headers.get(TIMEOUT_HEADER))
        header_length = request.headers.get(protocol.HEADER_LENGTH)
        question = await self._question(
            request,
            lambda body: protocol.read_infer(body, header_length, max_length=self._max_context),
        )
        outcome = await while_waiting(
            request, self._gateway.predict(question, admission, timeout_s=timeout_s)
        )
        if outcome.answered.prediction is None:
            return _write_failure(outcome)
        message = protocol.write_answer(
            outcome.answered.prediction, question, extra={"arm": outcome.arm}
        )
        return Response(message.body, 200, {**_routing_headers(outcome), **message.headers})

    async def _question(self, request: HttpRequest, read: Callable[[bytes], Request]) -> Request:
        """Read and parse a body, which nobody keeps: a JSON body is three times its floats."""
        body = await read_body(request, self._max_body)
        return read(body) if len(body) <= LONG_BODY else await asyncio.to_thread(read, body)

    async def feedback(self, request: HttpRequest) -> Response:
        """Take in the truth of an earlier prediction, by the x-request-id of its answer."""
        await self._feedback.accept(await read_body(request, FEEDBACK_BODY))
        return _json({"queued": True}, 202)

    # --- what it is -----------------------------------------------------------------------------

    async def server(self) -> Response:
        """Describe the server."""
        return _json(protocol.server_metadata(self._version))

    async def live(self) -> Response:
        """Say that the event loop turns."""
        return _json({"live": True})

    async def ready(self) -> Response:
        """Say whether every active tier's backend can answer. The store has no say in it."""
        waiting = await self._waiting()
        return _json({"ready": not waiting, "live": True, **waiting}, 503 if waiting else 200)

    async def model_ready(self, name: str) -> Response:
        """Say whether the model can answer."""
        _check_name(name)
        waiting = await self._waiting()
        return _json({"name": name, "ready": not waiting, **waiting}, 503 if waiting else 200)

    async def _waiting(self) -> dict[str, str]:
        arms = self._active_arms()
        ready = await asyncio.gather(*(self._upstream.ready(arm) for arm in arms))
        missing = [arm for arm, is_ready in zip(arms, ready, strict=True) if not is_ready]
        return {"error": f"not ready: {', '.join(missing)}"} if missing else {}

    async def model(self, name: str) -> Response:
        """Describe the model: its tensors, its versions (one for each active arm), its tiers."""
        _check_name(name)
        tiers = self._snapshots.current.tiers
        arms = self._active_arms()
        found = await asyncio.gather(*map(self._upstream.metadata, arms), return_exceptions=True)
        versions: list[str] = []
        for answer in found:
            if isinstance(answer, dict):
                versions.extend(str(one) for one in answer.get("versions", ()))
            elif not isinstance(answer, UpstreamError):
                raise answer
        facts = {
            "max_context": self._max_context,
            "tokens_per_vector": self._tokens_per_vector,
            "tiers": [tier.model_dump() for tier in tiers],
        }
        return _json(protocol.model_metadata(versions, facts))

    def _active_arms(self) -> list[str]:
        return [tier.arm for tier in self._snapshots.current.tiers if tier.active]


def _admit(request: HttpRequest) -> Admission:
    name: str = request.state.request_id
    at = admitted_at(name)
    if at is None:
        raise ValueError(f"{name!r} was not issued by router.ids")
    return Admission(name, at, time.monotonic())


def _check_name(name: str) -> None:
    if name != protocol.MODEL:
        raise UnknownModelError(
            f'no model is called "{name[:40]}": this server has "{protocol.MODEL}"'
        )


def _json(document: object, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status, media_type="application/json")


def _write_failure(outcome: Outcome) -> Response:
    return Response(
        protocol.write_error(str(outcome.answered.error)),
        outcome.status,
        _routing_headers(outcome),
        "application/json",
    )


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
