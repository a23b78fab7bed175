"""The controller's HTTP edge: parse, call the controller, map errors. JSON in and out.

Every error is `{"error": "<sentence>"}`; a plan with faults adds `"errors": [{path, line,
message}]`, and a closed gate its `"verdict"`. 404: no such rollout. 409: stale version, closed
gate, illegal in this state; nothing was changed. 422: malformed; nothing was started. 503: the
store did not answer, and the sentence says whether the outcome is unknown.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from typing import Annotated, Any, Final, Literal

import structlog
from fastapi import APIRouter, Body, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from backends.telemetry import RequestTelemetry, metrics_endpoint
from rollout.controller import Controller
from rollout.errors import Conflict, OutcomeUnknown, RolloutError, StoreUnavailable, TooLate
from rollout.machine import AuditEntry
from rollout.metrics import Metrics
from rollout.models import identities
from rollout.orders import Order, Refused, Result, Status, Verb
from rollout.plan import DEFAULT_PLAN
from rollout.planfile import PlanError, read_plan
from rollout.report import ReportInput, build, render_html

MAX_BODY: Final = 1024 * 1024
log = structlog.stdlib.get_logger("rollout.api")
RolloutId = Annotated[str, Path(max_length=128, description="A rollout's id, or `current`.")]


class StartOrder(Order):
    """The body of `POST /v1/rollouts`. Without a plan it is the default one."""

    plan: dict[str, Any] | None = None


class Api:
    """The controller behind HTTP. `backends` (arm -> URL) are asked what a report compares.

    `life` is entered when the app starts and left when it ends, before the store is closed.
    """

    def __init__(
        self,
        controller: Controller,
        metrics: Metrics,
        *,
        backends: Mapping[str, str] | None = None,
        life: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> None:
        registry = metrics.registry
        self._controller = controller
        self._backends = dict(backends or {})
        self._metrics = metrics
        self._life = life
        self.app = FastAPI(
            title="turnout rollout controller",
            docs_url="/docs",
            redoc_url=None,
            lifespan=self._lifespan,
        )
        self.app.include_router(self._routes())
        self.app.add_route("/metrics", metrics_endpoint(registry))
        self.app.add_middleware(RequestBodyLimitMiddleware, max_body_size=MAX_BODY)
        self.app.add_middleware(_RefuseLong)
        self.app.add_middleware(RequestTelemetry, registry=registry)
        self.app.add_exception_handler(RolloutError, _rollout_error)
        self.app.add_exception_handler(RequestValidationError, _malformed)
        self.app.add_exception_handler(HTTPException, _http_error)

    # --- commands --------------------------------------------------------------------------------

    async def start(self, order: Annotated[StartOrder, Body()]) -> Result:
        """Start a rollout: enter the first stage of a plan."""
        plan = DEFAULT_PLAN if order.plan is None else read_plan(order.plan)
        return await self._counted("start", self._controller.start(plan, order))

    async def advance(self, rollout: RolloutId, order: Annotated[Order, Body()]) -> Result:
        """Enter the next stage, or finish; 409 with the verdict unless the gate is open."""
        return await self._counted("advance", self._controller.advance(rollout, order))

    async def pause(self, rollout: RolloutId, order: Annotated[Order, Body()]) -> Result:
        """Freeze the weight where it is."""
        return await self._counted("pause", self._controller.pause(rollout, order))

    async def resume(self, rollout: RolloutId, order: Annotated[Order, Body()]) -> Result:
        """Go on in the same stage."""
        return await self._counted("resume", self._controller.resume(rollout, order))

    async def abort(self, rollout: RolloutId, order: Annotated[Order, Body()]) -> Result:
        """Take all traffic off the candidate, for good."""
        return await self._counted("abort", self._controller.abort(rollout, order))

    # --- questions -------------------------------------------------------------------------------

    async def status(self) -> Status:
        """Say where everything stands, and what the gate of the present stage says now."""
        return await self._controller.status()

    async def report(
        self,
        rollout: RolloutId,
        form: Annotated[Literal["json", "html"], Query(alias="format")] = "json",
    ) -> Response:
        """Make the shadow comparison report, as one JSON document or one HTML file."""
        history = await self._controller.history(rollout)
        record, seen = history.record, history.observations
        made = build(
            ReportInput(
                record=record,
                counts={stage: dict(counts) for stage, counts in seen.counts.items()},
                audit=tuple(e for e in history.journal.entries if e.rollout == record.id),
                samples=seen.samples,
                verdicts=record.verdicts,
                models=await identities(self._backends),
                made_at=history.now,
            )
        )
        if form == "html":
            # A second of drawing: off the loop, or no other command is answered meanwhile.
            return HTMLResponse(await run_in_threadpool(render_html, made))
        return Response(made.model_dump_json(indent=2), media_type="application/json")

    async def audit(self) -> tuple[AuditEntry, ...]:
        """List the newest 1,000 transitions, oldest first."""
        return (await self._controller.journal()).entries

    async def live(self) -> dict[str, bool]:
        """Say that the process answers."""
        return {"live": True}

    async def ready(self) -> dict[str, bool]:
        """Say that the store answers; 503 otherwise."""
        await self._controller.ready()
        return {"ready": True}

    # --- the parts -------------------------------------------------------------------------------

    def _routes(self) -> APIRouter:
        routes = APIRouter()
        routes.get("/v1/rollouts/current")(self.status)
        routes.post("/v1/rollouts", status_code=201)(self.start)
        for command in (self.advance, self.pause, self.resume, self.abort):
            routes.post(f"/v1/rollouts/{{rollout}}/{command.__name__}")(command)
        routes.get("/v1/rollouts/{rollout}/report")(self.report)
        routes.get("/v1/audit")(self.audit)
        routes.get("/health/live")(self.live)
        routes.get("/health/ready")(self.ready)
        return routes

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        async with self._life():
            yield
        await self._controller.close()

    async def _counted(self, command: Verb, answer: Awaitable[Result]) -> Result:
        with self._refusals_of(command):
            result = await answer
        self._metrics.commands.labels(command, result.outcome).inc()
        log.info("command", **result.model_dump(exclude={"verdict"}))
        return result

    @contextmanager
    def _refusals_of(self, command: Verb) -> Iterator[None]:
        try:
            yield
        except RolloutError as error:
            outcome = _outcome(error)
            self._metrics.commands.labels(command, outcome).inc()
            log.warning("command refused", command=command, outcome=outcome, reason=str(error))
            raise


def _outcome(error: RolloutError) -> str:
    match error:
        case OutcomeUnknown():
            return "unknown"
        case StoreUnavailable() | TooLate():
            return "unavailable"
        case Conflict():
            return "conflict"
        case _:
            return "refused"


# --- errors --------------------------------------------------------------------------------------


async def _rollout_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RolloutError)  # noqa: S101 - registered for this type alone
    body: dict[str, Any] = {"error": str(error)}
    if isinstance(error, PlanError):
        body["errors"] = [fault._asdict() for fault in error.errors]
    if isinstance(error, Refused):
        body["verdict"] = error.verdict.model_dump(mode="json")
    if isinstance(error, OutcomeUnknown):
        body["outcome"] = "unknown"
    return JSONResponse(body, error.status)


async def _malformed(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type alone
    faults = [_fault(detail) for detail in error.errors()]
    told = "; ".join(f"{fault['path']}: {fault['message']}" for fault in faults)
    return JSONResponse({"error": f"the request is malformed: {told}", "errors": faults}, 422)


def _fault(detail: Mapping[str, Any]) -> dict[str, str]:
    path = ".".join(map(str, detail["loc"][1:]))
    if detail["type"] == "json_invalid":
        reason = f"is no JSON: {detail['ctx']['error']} at character {path}"
        return {"path": "body", "message": reason}
    if not path:
        reason = "must be a JSON object, sent with content-type: application/json"
        return {"path": "body", "message": reason}
    return {"path": path, "message": str(detail["msg"])}


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type alone
    return JSONResponse({"error": str(error.detail)}, error.status_code, headers=error.headers)


class _RefuseLong:
    """Plain ASGI: a body announced as too long is refused in JSON, before it is read.

    Without this the framework answers it in plain text. Bodies that announce nothing are left to
    the framework, which stops to read at the limit and raises.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        announced = (
            Headers(scope=scope).get("content-length", "") if scope["type"] == "http" else ""
        )
        if announced.isdecimal() and int(announced) > MAX_BODY:
            message = f"the body has {announced} bytes: this server reads at most {MAX_BODY}"
            await JSONResponse({"error": message}, 413)(scope, receive, send)
            return
        await self.app(scope, receive, send)
