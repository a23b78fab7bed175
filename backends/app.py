"""The HTTP edge of a model server: parse, hand to the worker, write the answer, map errors.

The server answers `live` from its first moment and `ready` once the model is loaded and warm; a
request before that gets 503 with Retry-After. Every error is `{"error": "<sentence>"}`, and it is
sent when the request's body has been read out, within a bound: a client that is cut off while it
sends loses it. What predicts is in `backends/inference.py`, what reads bodies in
`backends/bodies.py`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import structlog
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp, Scope

from backends import idruns, metadata, protocol
from backends.bodies import Bodies, headers_of
from backends.errors import (
    BackendError,
    LoadError,
    NotReadyError,
    ScatteredIdsError,
    UnknownModelError,
)
from backends.idruns import MAX_RUNS
from backends.inference import Inference
from backends.metrics import Metrics
from backends.predictor import Predictor
from backends.protocol import ProtocolError
from backends.refusal import JSON, Refusal, kind_of, refusal_of
from backends.serving import content, process, telemetry
from backends.serving.content import MIB
from backends.serving.direct import Routes
from backends.serving.hotpath import HotPath
from backends.serving.rawroute import RawRoute
from backends.serving.sparing import Sparing
from backends.statistics import Statistics, Tally, totals
from backends.worker import BATCH, Worker

SERVER_ERROR: Final = 500
REFUSED: Final = (BackendError, ProtocolError, HTTPException)
"""What handlers raise and `ModelServer` answers."""
MODEL_PATHS: Final = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")

log = structlog.stdlib.get_logger("backends")


class ModelServer:
    """One model server. `app` is the ASGI application; `failed` says that loading went wrong.

    `direct` are the handlers of the short way past it (`backends/serving/direct.py`), `expect` says
    that somebody sends for one of them, and returns how to say that no longer.
    """

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
        give_up: Callable[[], None] = process.give_up,
    ) -> None:
        registry: CollectorRegistry = telemetry.new_registry()
        self.failed = False
        self._load = load
        self._give_up = give_up
        self._arm = arm
        self._version = version
        self._metrics = Metrics(registry)
        self._worker = Worker(
            queue_limit=queue_limit, batch_limit=batch_limit, metrics=self._metrics
        )
        self._lines = Sparing("backends")
        self._statistics = Statistics()
        self._bodies = Bodies(max_body_mb * MIB, self._statistics.reading)
        self._inference = Inference(
            self._worker,
            self._bodies,
            check=self._check_scope,
            tell=self._tell,
            statistics=self._statistics,
            metrics=self._metrics,
            max_context=max_context,
        )
        self.api = FastAPI(title="turnout model server", openapi_url=None, lifespan=self._lifespan)
        hot = self._add_infer()
        self.api.add_route("/metrics", telemetry.metrics_endpoint(registry))
        self._add_routes()
        for error in REFUSED:
            self.api.add_exception_handler(error, self._refuse)
        measured = telemetry.RequestTelemetry(
            HotPath(self.api, hot, errors=REFUSED, refuse=self._refuse), registry=registry
        )
        self.app: ASGIApp = measured
        self.direct: Routes = {
            path.encode(): measured.direct(route.path, self._inference.take)
            for path, (route, _) in hot.items()
        }
        self.expect = self._worker.expect

    def _add_infer(self) -> dict[str, tuple[RawRoute, dict[str, str]]]:
        """Add what nearly all requests ask for; return the path that needs no search."""
        infer, versioned = (
            RawRoute(f"{path}/infer", self._inference.infer, methods=["POST"])
            for path in MODEL_PATHS
        )
        self.api.router.routes += [infer, versioned]
        name = {"name": protocol.MODEL}
        return {infer.path.format(**name): (infer, name)}

    def _add_routes(self) -> None:
        routes: list[tuple[str, str, Callable[..., Awaitable[Response]]]] = [
            ("GET", "/v2", self.server),
            ("GET", "/v2/health/live", self.live),
            ("GET", "/v2/health/ready", self.ready),
            ("GET", "/v2/models", self.models),
            ("GET", "/v2/models/stats", self.stats),
            ("POST", "/v2/repository/index", self.index),
        ]
        for path in MODEL_PATHS:
            routes += [
                ("GET", path, self.model),
                ("GET", f"{path}/ready", self.model_ready),
                ("GET", f"{path}/config", self.config),
                ("GET", f"{path}/stats", self.stats),
                ("POST", f"{path}/lookup", self.lookup),
                ("GET", f"{path}/ids", self.ids),
                ("GET", f"{path}/vectors/{{id}}", self.vector),
            ]
        for method, path, endpoint in routes:
            self.api.add_api_route(path, endpoint, methods=[method], response_model=None)

    # --- life -----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(self._start())
        yield
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        await self._worker.stop()
        self._bodies.reader.shutdown(wait=False)

    async def _start(self) -> None:
        """Load the model while the server answers; a server that cannot load ends itself."""
        try:
            await self._worker.start(self._load)
        except LoadError as error:
            log.critical("cannot load", arm=self._arm, reason=str(error))
        except Exception:
            log.exception("cannot load", arm=self._arm)
        else:
            log.info("ready", arm=self._arm, **self._worker.loaded().facts)
            return
        self.failed = True
        self._give_up()

    # --- the bank -------------------------------------------------------------------------------

    async def lookup(self, request: HttpRequest) -> Response:
        """Find the id of the bank's vector that equals the given one exactly, or null."""
        headers = headers_of(request.scope)
        try:
            self._check_path(request)
            predictor = self._worker.loaded()
            content.check_encoding(request.headers.get("content-encoding"))
        except (BackendError, ProtocolError):
            await self._bodies.throw_away(request.receive)
            raise
        vector = await self._bodies.read(
            request.scope, request.receive, headers, protocol.read_lookup
        )
        identity = {"checkpoint": predictor.checkpoint, "bank": predictor.bank.identity}
        return JSONResponse({"id": predictor.bank.find(vector), **identity})

    async def vector(self, request: HttpRequest) -> Response:
        """Give the bank's vector of an id, `{"vector": [768]}`, or null: the converse of lookup."""
        self._check_path(request)
        bank = self._worker.loaded().bank
        try:
            id_ = int(request.path_params["id"])
        except ValueError:
            raise ProtocolError("the id of a vector is a whole number") from None
        found = bank.vector(id_)
        return JSONResponse({"vector": None if found is None else found.tolist()})

    async def ids(self, request: HttpRequest) -> Response:
        """List the bank's ids, as `backends/idruns.py` writes them; 404 where they are too many."""
        self._check_path(request)
        bank = self._worker.loaded().bank
        loop = asyncio.get_running_loop()
        runs = await loop.run_in_executor(self._bodies.reader, bank.runs)
        if runs.first.size > MAX_RUNS:
            raise ScatteredIdsError(
                f"the bank's ids are {runs.first.size} runs of numbers: more than {MAX_RUNS} are "
                "not listed"
            )
        return Response(runs.write(), media_type=idruns.MEDIA_TYPE)

    # --- what it is -----------------------------------------------------------------------------

    async def server(self) -> Response:
        """Describe the server."""
        return JSONResponse(metadata.server_metadata(self._version))

    async def live(self) -> Response:
        """Say that the event loop turns."""
        return JSONResponse({"live": True})

    async def ready(self) -> Response:
        """Say whether a prediction would be answered."""
        ready = self._worker.predictor is not None
        return JSONResponse({"ready": ready, "live": True}, 200 if ready else 503)

    async def models(self) -> Response:
        """List the models: there is one."""
        return JSONResponse(metadata.model_list())

    async def index(self) -> Response:
        """List the model's version and its state, as Triton's model repository does."""
        predictor = self._worker.predictor
        if predictor is None:
            return JSONResponse(metadata.repository_index([""], "the model is still being loaded"))
        return JSONResponse(metadata.repository_index([protocol.version_of(predictor.checkpoint)]))

    async def model_ready(self, request: HttpRequest) -> Response:
        """Say whether the model is loaded and warm."""
        self._check_path(request)
        ready = self._worker.predictor is not None
        return JSONResponse({"name": protocol.MODEL, "ready": ready}, 200 if ready else 503)

    async def model(self, request: HttpRequest) -> Response:
        """Describe the model, its identity, and whether anyone trained it."""
        self._check_path(request)
        predictor = self._worker.loaded()
        facts = {"arm": self._arm, **predictor.facts}
        versions = [protocol.version_of(predictor.checkpoint)]
        return JSONResponse(metadata.model_metadata(versions, facts))

    async def config(self, request: HttpRequest) -> Response:
        """Describe the model's tensors as Triton's model configuration does."""
        self._check_path(request)
        return JSONResponse(metadata.model_config())

    async def stats(self, request: HttpRequest) -> Response:
        """Count the inference requests and their times, as Triton's statistics do."""
        self._check_path(request)
        runs = self._metrics.executions
        return JSONResponse(
            self._statistics.document(
                protocol.version_of(self._worker.loaded().checkpoint),
                queue=totals(self._metrics.queue_wait),
                # Triton's: each request took as long as the run that read it.
                compute=Tally(
                    sum(size * tally.count for size, tally in runs.items()),
                    sum(size * tally.ns for size, tally in runs.items()),
                ),
                batches=runs,
            )
        )

    def _check_path(self, request: HttpRequest) -> None:
        self._check_scope(request.scope)

    def _check_scope(self, scope: Scope) -> None:
        """Raise UnknownModelError for a path to another model or another version."""
        parameters = scope["path_params"]
        name = parameters.get("name", protocol.MODEL)
        if name != protocol.MODEL:
            raise UnknownModelError(
                f'no model is called "{name[:40]}": this server has "{protocol.MODEL}"'
            )
        version = parameters.get("version")
        if version is not None:
            own = protocol.version_of(self._worker.loaded().checkpoint)
            if version != own:
                raise UnknownModelError(
                    f'"{name}" has no version "{version[:40]}": this server has "{own}"'
                )

    # --- errors ---------------------------------------------------------------------------------

    async def _refuse(self, request: HttpRequest, error: Exception) -> Response:
        """Write any error of the three trees as the protocol's error body."""
        match error:
            case BackendError() | ProtocolError():
                refusal = refusal_of(error)
            case HTTPException():
                text = f"{error.detail}: {request.method} {request.url.path[:80]}"
                status = error.status_code
                refusal = Refusal(status, kind_of(status), {}, protocol.write_error(text))
            case _:
                raise error
        self._tell(error, refusal, request.scope["state"]["request_id"])
        return Response(refusal.body, refusal.status, refusal.headers, JSON)

    def _tell(self, error: Exception, refusal: Refusal, request_id: str) -> None:
        """Count a refusal; log it where the client is not to blame."""
        self._metrics.errors.labels(refusal.kind).inc()
        if isinstance(error, NotReadyError) or not isinstance(error, BackendError):
            return
        if refusal.status >= SERVER_ERROR:
            self._lines.warning(
                "not answered",
                request_id=request_id,
                status=refusal.status,
                kind=refusal.kind,
                error=str(error),
            )
