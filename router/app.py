"""The gateway's HTTP edge: parse, call the gateway, write the answer, map errors. Admin-free.

Every answer, errors and unknown paths included, carries the `x-request-id` that this server issued
and is JSON unless binary outputs were asked for. Predictions do not pass FastAPI's handlers: see
`router/predictions.py`.

The app's life is the gateway's: its background tasks start with it, and when it ends the mirrors
are drained and the last batch is sent.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import orjson
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp

from backends import metadata, protocol
from backends.protocol import ProtocolError
from backends.serving import content, telemetry
from backends.serving.content import KIB, MIB
from backends.serving.direct import Routes
from backends.serving.gate import Gate
from backends.serving.hotpath import HotPath
from backends.serving.keyfile import KeyFile
from backends.serving.rawroute import RawRoute
from backends.serving.viewer import add_docs
from backends.statistics import Statistics, Tally, totals
from router import openapi
from router.access import ARM_HEADER, rights_for
from router.edge import read_body, reading_out, write_refusal
from router.errors import RouterError, UnknownModelError, UpstreamError
from router.feedback import Feedback
from router.gateway import Gateway
from router.intake import Bounds, Intake
from router.limits import Places
from router.metrics import Metrics
from router.predictions import Predictions, check_name
from router.snapshots import Snapshots
from router.upstream import Upstream

ACCEPTED: Final = 202
FEEDBACK_BODY: Final = 64 * KIB
"""Bytes; the longest feedback, a target of 768 written-out numbers, takes a third of it."""
REFUSED: Final = (RouterError, ProtocolError, HTTPException, ClientDisconnect)
"""What handlers raise and `write_refusal` answers."""
MODEL_PATHS: Final = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")


class _Api(FastAPI):
    """FastAPI without its own last resort, a plain text: `RequestTelemetry` around it has one."""

    def build_middleware_stack(self) -> ASGIApp:
        stack = super().build_middleware_stack()
        return stack.app if isinstance(stack, ServerErrorMiddleware) else stack


class App:
    """The gateway over HTTP. `app` is the ASGI application, `api` the documented part of it.

    `direct` are the handlers of the short way past it (`backends/serving/direct.py`).

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
        max_in_flight: int,
        tokens_per_vector: int,
        keys: KeyFile | None,
        open_metrics: bool,
        life: Callable[[], contextlib.AbstractAsyncContextManager[None]],
    ) -> None:
        self._feedback = feedback
        self._snapshots = snapshots
        self._upstream = upstream
        self._version = version
        self._max_context = max_context
        self._leaving = False
        self._tokens_per_vector = tokens_per_vector
        self._life = life
        self._metrics = metrics
        self._statistics = Statistics()
        self._intake = Intake(
            Bounds(body=max_body_mb * MIB, context=max_context), self._statistics.reading.add
        )
        self._predictions = Predictions(
            gateway,
            self._intake,
            self._statistics,
            Places(max_in_flight),
            metrics,
            tokens_per_vector=tokens_per_vector,
        )
        self.api = _Api(
            title="turnout",
            version=version,
            description=openapi.DESCRIPTION,
            lifespan=self._lifespan,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,  # a Location would repeat whatever Host the client sent
        )
        add_docs(self.api)
        hot = self._add_predictions()
        self.api.add_route("/metrics", telemetry.metrics_endpoint(metrics.registry))
        self._add_routes()
        for error in REFUSED:
            self.api.add_exception_handler(error, write_refusal)
        gate = Gate(
            HotPath(self.api, hot, errors=REFUSED, refuse=write_refusal),
            keys=keys,
            needed=lambda scope, headers: rights_for(
                scope["path"], override=ARM_HEADER in headers, open_metrics=open_metrics
            ),
            refused=metrics.access_refused,
            logger="router.access",
        )
        measured = telemetry.RequestTelemetry(
            gate,
            registry=metrics.registry,
            trust_request_id=False,
            new_request_id=new_request_id,
        )
        self.app: ASGIApp = measured
        takes = (self._predictions.take_predict, self._predictions.take_infer)
        self.direct: Routes = {
            path.encode(): measured.direct(route.path, gate.direct(path, take))
            for (path, (route, _)), take in zip(hot.items(), takes, strict=True)
        }

    def leave(self) -> None:
        """Be ready no more: the process ends soon."""
        self._leaving = True

    def _add_predictions(self) -> dict[str, tuple[RawRoute, dict[str, str]]]:
        """Add the routes that nearly all requests take, first of all: routes are tried in turn.

        Return those that need no search, by their path, with what their templates stand for.
        """
        predict = RawRoute(
            "/v1/predict",
            self._predictions.predict,
            methods=["POST"],
            openapi_extra=openapi.operation("/v1/predict", openapi.PREDICT),
        )
        infer, versioned = (
            RawRoute(
                f"{path}/infer",
                self._predictions.infer,
                methods=["POST"],
                openapi_extra=openapi.operation(
                    f"{path}/infer", {**openapi.INFER, **openapi.path_parameters(path)}
                ),
            )
            for path in MODEL_PATHS
        )
        self.api.router.routes += [predict, infer, versioned]
        name = {"name": protocol.MODEL}
        return {predict.path: (predict, {}), infer.path.format(**name): (infer, name)}

    def _add_routes(self) -> None:
        routes: list[tuple[str, str, Callable[..., Awaitable[Response]], dict[str, Any]]] = [
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
            ]
        for method, path, endpoint, extra in routes:
            self.api.add_api_route(
                path,
                endpoint,
                methods=[method],
                status_code=ACCEPTED if extra is openapi.FEEDBACK else None,
                response_model=None,
                openapi_extra=openapi.operation(path, extra),
            )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        async with self._life():
            yield
        self._intake.close()

    # --- feedback -------------------------------------------------------------------------------

    async def feedback(self, request: HttpRequest) -> Response:
        """Take in the truth of an earlier prediction, by the x-request-id of its answer."""
        encoding = request.headers.get("content-encoding")
        async with reading_out(request, FEEDBACK_BODY):
            content.check_encoding(encoding)
        body = b"".join(await read_body(request, FEEDBACK_BODY))
        await self._feedback.accept(content.inflate(body, encoding, FEEDBACK_BODY))
        return _json({"queued": True}, ACCEPTED)

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
        if self._leaving:
            return {"error": "not ready: this gateway is about to end"}
        arms = self._snapshots.active_arms
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
        arms = self._snapshots.active_arms
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
        check_name(request.scope)
        if "version" not in request.path_params:
            return
        versions = [_version(facts) for facts in (await self._identities()).values()]
        if request.path_params["version"] not in versions:
            raise UnknownModelError(
                f'"{protocol.MODEL}" has no version "{request.path_params["version"][:40]}" in '
                f"service: the versions are {', '.join(versions) or 'not known now'}"
            )


def _version(identity: dict[str, str]) -> str:
    return protocol.version_of(identity["checkpoint"])


def _json(document: object, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status, media_type="application/json")
