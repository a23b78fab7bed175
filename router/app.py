"""The gateway's HTTP edge: parse, call the gateway, write the answer, map errors. Admin-free.

Every answer, errors and unknown paths included, carries the `x-request-id` that this server issued
and is JSON unless binary outputs were asked for. A body is read within a bound; a long or
compressed one is parsed in one thread beside the loop, in short steps: see `backends/jsonrows.py`.

The app's life is the gateway's: its background tasks start with it, and when it ends the mirrors
are drained and the last batch is sent.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import orjson
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from backends import content, metadata, protocol, telemetry
from backends.content import KIB, MIB
from backends.keyfile import KeyFile
from backends.protocol import TIMEOUT_HEADER, ProtocolError, Request, read_timeout
from backends.statistics import Statistics, Tally, totals
from backends.viewer import add_docs
from router import openapi
from router.access import ARM_HEADER
from router.edge import read_body, reading_out, while_waiting, write_refusal
from router.errors import RouterError, UnknownModelError, UpstreamError
from router.feedback import Feedback
from router.gate import Gate
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
MODEL_PATHS: Final = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")


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
        keys: KeyFile | None,
        open_metrics: bool,
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
        self._metrics = metrics
        self._statistics = Statistics()
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader")
        self.app = FastAPI(
            title="turnout",
            version=version,
            description=openapi.DESCRIPTION,
            lifespan=self._lifespan,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,  # a Location would repeat whatever Host the client sent
        )
        add_docs(self.app)
        self.app.add_middleware(Gate, keys=keys, open_metrics=open_metrics, metrics=metrics)
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
        routes: list[tuple[str, str, Callable[..., Awaitable[Response]], dict[str, Any]]] = [
            ("POST", "/v1/predict", self.predict, openapi.PREDICT),
            ("POST", "/v1/feedback", self.feedback, openapi.FEEDBACK),
            ("GET", "/v2", self.server, {}),
            ("GET", "/v2/health/live", self.live, {}),
            ("GET", "/v2/health/ready", self.ready, {}),
            ("GET", "/v2/models", self.models, {}),
            ("GET", "/v2/models/stats", self.stats, {}),
            ("POST", "/v2/repository/index", self.index, {}),
        ]
        for path in MODEL_PATHS:
            parameters = openapi.path_parameters(path)
            routes += [
                ("GET", path, self.model, parameters),
                ("GET", f"{path}/ready", self.model_ready, parameters),
                ("GET", f"{path}/config", self.config, parameters),
                ("GET", f"{path}/stats", self.stats, parameters),
                ("POST", f"{path}/infer", self.infer, {**openapi.INFER, **parameters}),
            ]
        for method, path, endpoint, extra in routes:
            self.app.add_api_route(
                path, endpoint, methods=[method], response_model=None, openapi_extra=extra
            )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        async with self._life():
            yield
        self._reader.shutdown(wait=False)

    # --- predictions ----------------------------------------------------------------------------

    async def predict(self, request: HttpRequest) -> Response:
        """Predict the next vector of a context."""
        admission = _admit(request)
        async with reading_out(request, self._max_body):
            timeout_s = read_timeout(request.headers.get(TIMEOUT_HEADER))
        question = await self._question(
            request, lambda body: protocol.read_predict(body, max_length=self._max_context)
        )
        outcome = await while_waiting(
            request,
            self._gateway.predict(
                question,
                admission,
                timeout_s=timeout_s,
                override=request.headers.get(ARM_HEADER),
            ),
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

    async def infer(self, request: HttpRequest) -> Response:
        """Predict, in the Open Inference Protocol v2: JSON, or the binary tensor extension."""
        began = time.perf_counter_ns()
        try:
            response = await self._infer(request)
        except Exception:
            self._statistics.failed(time.perf_counter_ns() - began)
            raise
        good = response.status_code < 400  # noqa: PLR2004 - HTTP's classes
        count = self._statistics.succeeded if good else self._statistics.failed
        count(time.perf_counter_ns() - began)
        return response

    async def _infer(self, request: HttpRequest) -> Response:
        admission = _admit(request)
        async with reading_out(request, self._max_body):
            _check_name(request)
            timeout_s = read_timeout(request.headers.get(TIMEOUT_HEADER))
        header_length = request.headers.get(protocol.HEADER_LENGTH)
        question = await self._question(
            request,
            lambda body: protocol.read_infer(body, header_length, max_length=self._max_context),
        )
        limits = [limit for limit in (timeout_s, question.timeout_s) if limit is not None]
        outcome = await while_waiting(
            request,
            self._gateway.predict(
                question,
                admission,
                timeout_s=min(limits, default=None),
                override=request.headers.get(ARM_HEADER),
            ),
        )
        prediction = outcome.answered.prediction
        if prediction is None:
            return _write_failure(outcome)
        _check_version(request, protocol.version_of(prediction.checkpoint))
        message = protocol.write_answer(prediction, question, extra={"arm": outcome.arm})
        return Response(message.body, 200, {**_routing_headers(outcome), **message.headers})

    async def _question(self, request: HttpRequest, read: Callable[[bytes], Request]) -> Request:
        """Read and parse a body, which nobody keeps: a JSON body is three times its floats."""
        encoding = request.headers.get("content-encoding")
        async with reading_out(request, self._max_body):
            content.check_encoding(encoding)
        chunks = await read_body(request, self._max_body)
        short = sum(map(len, chunks)) <= LONG_BODY and content.is_plain(encoding)

        def question() -> tuple[Request, int]:
            began = time.perf_counter_ns()
            body = b"".join(chunks)
            chunks.clear()
            read_question = read(content.inflate(body, encoding, self._max_body))
            return read_question, time.perf_counter_ns() - began

        if short:
            found, ns = question()
        else:
            found, ns = await asyncio.get_running_loop().run_in_executor(self._reader, question)
        self._statistics.reading.add(ns)
        return found

    async def feedback(self, request: HttpRequest) -> Response:
        """Take in the truth of an earlier prediction, by the x-request-id of its answer."""
        encoding = request.headers.get("content-encoding")
        async with reading_out(request, FEEDBACK_BODY):
            content.check_encoding(encoding)
        body = b"".join(await read_body(request, FEEDBACK_BODY))
        await self._feedback.accept(content.inflate(body, encoding, FEEDBACK_BODY))
        return _json({"queued": True}, 202)

    # --- what it is -----------------------------------------------------------------------------

    async def server(self) -> Response:
        """Describe the server."""
        return _json(metadata.server_metadata(self._version))

    async def live(self) -> Response:
        """Say that the event loop turns."""
        return _json({"live": True})

    async def ready(self) -> Response:
        """Say whether every active tier's backend can answer. The store has no say in it."""
        waiting = await self._waiting()
        return _json({"ready": not waiting, "live": True, **waiting}, 503 if waiting else 200)

    async def model_ready(self, request: HttpRequest) -> Response:
        """Say whether the model can answer."""
        await self._check_path(request)
        waiting = await self._waiting()
        ready = {"name": protocol.MODEL, "ready": not waiting, **waiting}
        return _json(ready, 503 if waiting else 200)

    async def _waiting(self) -> dict[str, str]:
        arms = self._active_arms()
        ready = await asyncio.gather(*(self._upstream.ready(arm) for arm in arms))
        missing = [arm for arm, is_ready in zip(arms, ready, strict=True) if not is_ready]
        return {"error": f"not ready: {', '.join(missing)}"} if missing else {}

    async def models(self) -> Response:
        """List the models: there is one."""
        return _json(metadata.model_list())

    async def index(self) -> Response:
        """List the versions, one for each active arm, as Triton's model repository does."""
        waiting = await self._waiting()
        versions = [_version(facts) for facts in (await self._identities()).values()]
        return _json(metadata.repository_index(versions or [""], waiting.get("error", "")))

    async def model(self, request: HttpRequest) -> Response:
        """Describe the model: its tensors, its versions (one for each active arm), its tiers."""
        await self._check_path(request)
        identities = await self._identities()
        facts = {
            "max_context": self._max_context,
            "tokens_per_vector": self._tokens_per_vector,
            "tiers": [tier.model_dump() for tier in self._snapshots.current.tiers],
            "identities": identities,
        }
        return _json(metadata.model_metadata(map(_version, identities.values()), facts))

    async def config(self, request: HttpRequest) -> Response:
        """Describe the model's tensors as Triton's model configuration does."""
        await self._check_path(request)
        return _json(metadata.model_config())

    async def stats(self, request: HttpRequest) -> Response:
        """Count the protocol's requests and their times; the model's are the backends' answers."""
        await self._check_path(request)
        compute = totals(self._metrics.upstream_seconds)
        return _json(
            self._statistics.document(
                request.path_params.get("version", ""),
                queue=Tally(),
                compute=compute,
                batches={1: compute},
            )
        )

    async def _identities(self) -> dict[str, dict[str, str]]:
        """Ask the active arms for the sha256 of their checkpoint and bank; leave out who fails."""
        arms = self._active_arms()
        found = await asyncio.gather(*map(self._upstream.identity, arms), return_exceptions=True)
        identities: dict[str, dict[str, str]] = {}
        for arm, answer in zip(arms, found, strict=True):
            if isinstance(answer, dict):
                identities[arm] = answer
            elif not isinstance(answer, UpstreamError):
                raise answer
        return identities

    async def _check_path(self, request: HttpRequest) -> None:
        """Raise UnknownModelError for a path to another model, or to a version not in service."""
        _check_name(request)
        if "version" not in request.path_params:
            return
        versions = [_version(facts) for facts in (await self._identities()).values()]
        if request.path_params["version"] not in versions:
            raise UnknownModelError(
                f'"{protocol.MODEL}" has no version "{request.path_params["version"][:40]}" in '
                f"service: the versions are {', '.join(versions) or 'not known now'}"
            )

    def _active_arms(self) -> list[str]:
        return [tier.arm for tier in self._snapshots.current.tiers if tier.active]


def _admit(request: HttpRequest) -> Admission:
    name: str = request.state.request_id
    at = admitted_at(name)
    if at is None:
        raise ValueError(f"{name!r} was not issued by router.ids")
    return Admission(name, at, time.monotonic())


def _check_name(request: HttpRequest) -> None:
    name = request.path_params.get("name", protocol.MODEL)
    if name != protocol.MODEL:
        raise UnknownModelError(
            f'no model is called "{name[:40]}": this server has "{protocol.MODEL}"'
        )


def _check_version(request: HttpRequest, answered: str) -> None:
    """Raise UnknownModelError when a path asks for another version than the one that answered."""
    version = request.path_params.get("version", answered)
    if version != answered:
        raise UnknownModelError(
            f'the version "{version[:40]}" does not answer this request, "{answered}" does: the '
            "context's length and the rollout decide here. Leave /versions/... out of the path"
        )


def _version(identity: dict[str, str]) -> str:
    return protocol.version_of(identity["checkpoint"])


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
