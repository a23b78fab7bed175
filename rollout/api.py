"""The controller's HTTP edge: parse, call the controller, map errors. JSON in and out.

Every error is `{"error": "<sentence>"}`; a plan with faults adds `"errors": [{path, line,
message}]`, a closed gate its `"verdict"`, and a start in a freeze window its `"forecast"`. 401: no
key, or an unknown one. 403: a key that lacks the right. 404: no such rollout. 409: stale version,
closed gate, illegal in this state; nothing was changed. 422: malformed; nothing was started. 503:
the store did not answer, and the sentence says whether the outcome is unknown.

Which role a route needs stands in `rollout.roles`. Where keys are on, whoever acts is the name of
the key, whatever the body says.
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
from fastapi import Body, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware

from backends.serving.gate import ACTOR, Gate
from backends.serving.keyfile import KeyFile
from backends.serving.telemetry import RequestTelemetry, metrics_endpoint
from backends.serving.viewer import add_docs
from rollout.controller import Controller
from rollout.edge import (
    MAX_BODY,
    RefuseLong,
    http_error,
    malformed,
    needed,
    rollout_error,
)
from rollout.errors import Conflict, OutcomeUnknown, RolloutError, StoreUnavailable, TooLate
from rollout.explanation import Explanation
from rollout.machine import AuditEntry
from rollout.metrics import Metrics
from rollout.models import identities
from rollout.orders import (
    Order,
    Result,
    RolloutStatus,
    Status,
    Summary,
    Verb,
    describe,
    summarise,
)
from rollout.plan import DEFAULT_PLAN
from rollout.planfile import read_plan, schema
from rollout.reporting.report import ReportInput, build, render_html, render_markdown

log = structlog.stdlib.get_logger("rollout.api")
RolloutId = Annotated[str, Path(max_length=128, description="A rollout's id, or `current`.")]
DESCRIPTION: Final = """\
Moves traffic from one model to the next in stages, with evidence, and back again.

* A command is a POST with a **reason**. `dry_run` says what would happen; `idempotency_key` makes a
  repeat harmless; `expected_version` refuses it when somebody else acted in between.
* Where keys are on, a request shows its own as `Authorization: Bearer KEY`. A **viewer** looks, a
  **stopper** pauses and aborts, an **operator** starts, advances, resumes, retries and undoes, an
  **approver** approves and promotes. All may look; operators and approvers may pause and abort too.
* Every error is `{"error": "<one sentence>"}`, and says whether anything was changed.
"""


class StartOrder(Order):
    """The body of `POST /v1/rollouts`. Without a plan it is the default one."""

    plan: dict[str, Any] | None = None


class PromoteOrder(Order):
    """The body of a promotion."""

    full: bool = False
    """Whether to enter the last stage, over those in between."""


class Api:
    """The controller behind HTTP. `backends` (arm -> URL) are asked what a report compares.

    `life` is entered when the app starts and left when it ends, before the store is closed. Without
    `keys` everybody may do everything.
    """

    def __init__(
        self,
        controller: Controller,
        metrics: Metrics,
        *,
        backends: Mapping[str, str] | None = None,
        keys: KeyFile | None = None,
        open_metrics: bool = False,
        life: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> None:
        registry = metrics.registry
        self._controller = controller
        self._backends = dict(backends or {})
        self._metrics = metrics
        self._life = life
        self.app = FastAPI(
            title="turnout rollout controller",
            description=DESCRIPTION,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,  # a Location would repeat whatever Host the client sent
            responses=_ERRORS,
            lifespan=self._lifespan,
        )
        add_docs(self.app)
        self._add_routes()
        self.app.add_route("/metrics", metrics_endpoint(registry))
        self.app.add_middleware(RequestBodyLimitMiddleware, max_body_size=MAX_BODY)
        self.app.add_middleware(RefuseLong)
        self.app.add_middleware(
            Gate,
            keys=keys,
            needed=lambda scope, _: needed(scope, open_metrics=open_metrics),
            refused=self._metrics.access_refused,
            logger="rollout.access",
        )
        self.app.add_middleware(RequestTelemetry, registry=registry)
        self.app.add_exception_handler(RolloutError, rollout_error)
        self.app.add_exception_handler(RequestValidationError, malformed)
        self.app.add_exception_handler(HTTPException, http_error)

    # --- commands --------------------------------------------------------------------------------

    async def start(self, request: Request, order: Annotated[StartOrder, Body()]) -> Result:
        """Start a rollout: enter the first stage of a plan. A dry run forecasts its length."""
        plan = DEFAULT_PLAN if order.plan is None else read_plan(order.plan)
        return await self._counted("start", self._controller.start(plan, _signed(order, request)))

    async def promote(
        self, rollout: RolloutId, request: Request, order: Annotated[PromoteOrder, Body()]
    ) -> Result:
        """Enter the next stage, or with `full` the last one, without waiting for the gate."""
        signed = _signed(order, request)
        done = self._controller.promote(rollout, signed, full=order.full)
        return await self._counted("promote", done)

    def _plain(
        self, verb: Verb, command: Callable[[str, Order], Awaitable[Result]]
    ) -> Callable[..., Awaitable[Result]]:
        """Make the endpoint of a command that takes nothing but its order."""

        async def endpoint(
            rollout: RolloutId, request: Request, order: Annotated[Order, Body()]
        ) -> Result:
            return await self._counted(verb, command(rollout, _signed(order, request)))

        endpoint.__name__, endpoint.__doc__ = verb, command.__doc__
        return endpoint

    # --- questions -------------------------------------------------------------------------------

    async def rollouts(self) -> tuple[Summary, ...]:
        """List the rollouts that are remembered, newest first."""
        return tuple(map(summarise, await self._controller.rollouts()))

    async def status(self) -> Status:
        """Say where everything stands, and what the gate of the present stage says now."""
        return await self._controller.status()

    async def rollout(self, rollout: RolloutId) -> RolloutStatus:
        """Show one rollout, also one that ended."""
        return describe(await self._controller.rollout(rollout))

    async def explain(self, rollout: RolloutId) -> Explanation:
        """Say why a rollout is where it is, what is missing, and what happens next."""
        return await self._controller.explain(rollout)

    async def report(
        self,
        rollout: RolloutId,
        form: Annotated[Literal["json", "html", "md"], Query(alias="format")] = "json",
    ) -> Response:
        """Make the shadow comparison report, as one JSON document, one HTML file or Markdown."""
        history = await self._controller.history(rollout)
        record, seen = history.record, history.observations
        made = build(
            ReportInput(
                record=record,
                counts={stage: dict(counts) for stage, counts in seen.counts.items()},
                audit=tuple(e for e in history.journal.entries if e.rollout == record.id),
                warm_up={stage: dict(counts) for stage, counts in history.warm_up.items()},
                samples=seen.samples,
                truths=dict(seen.truths),
                verdicts=record.verdicts,
                judged=history.judged,
                trace=history.trace,
                models=await identities(self._backends),
                made_at=history.now,
            )
        )
        if form == "html":
            # A second of drawing: off the loop, or no other command is answered meanwhile.
            return HTMLResponse(await run_in_threadpool(render_html, made))
        if form == "md":
            return Response(render_markdown(made), media_type="text/markdown")
        return Response(made.model_dump_json(indent=2), media_type="application/json")

    async def audit(
        self,
        rollout: Annotated[
            str | None, Query(max_length=128, description="Of this one alone.")
        ] = None,
    ) -> tuple[AuditEntry, ...]:
        """List the newest 1,000 transitions, oldest first."""
        entries = (await self._controller.journal()).entries
        return tuple(entry for entry in entries if rollout in (None, entry.rollout))

    async def schema(self) -> dict[str, Any]:
        """Give the JSON schema of a plan."""
        return schema()

    async def live(self) -> dict[str, bool]:
        """Say that the process answers."""
        return {"live": True}

    async def ready(self) -> dict[str, bool]:
        """Say that the store answers; 503 otherwise."""
        await self._controller.ready()
        return {"ready": True}

    # --- the parts -------------------------------------------------------------------------------

    def _add_routes(self) -> None:
        routes, control = self.app, self._controller
        routes.get("/v1/rollouts")(self.rollouts)
        routes.get("/v1/rollouts/current")(self.status)
        routes.get("/v1/rollouts/{rollout}")(self.rollout)
        routes.get("/v1/rollouts/{rollout}/explain")(self.explain)
        routes.get("/v1/rollouts/{rollout}/report")(self.report)
        routes.post("/v1/rollouts", status_code=201)(self.start)
        routes.post("/v1/rollouts/{rollout}/promote")(self.promote)
        plain: dict[Verb, Callable[[str, Order], Awaitable[Result]]] = {
            "advance": control.advance,
            "approve": control.approve,
            "pause": control.pause,
            "resume": control.resume,
            "abort": control.abort,
            "retry": control.retry,
            "undo": control.undo,
        }
        for verb, command in plain.items():
            endpoint = self._plain(verb, command)
            routes.post(f"/v1/rollouts/{{rollout}}/{verb}")(endpoint)
        routes.get("/v1/audit")(self.audit)
        routes.get("/v1/schema")(self.schema)
        routes.get("/health/live")(self.live)
        routes.get("/health/ready")(self.ready)

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        async with self._life():
            yield
        await self._controller.close()

    async def _counted(self, command: Verb, answer: Awaitable[Result]) -> Result:
        with self._refusals_of(command):
            result = await answer
        self._metrics.commands.labels(command, result.outcome).inc()
        log.info("command", **result.model_dump(exclude={"verdict", "forecast"}))
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


def _signed(order: Order, request: Request) -> Order:
    """Put the name of the key that was shown, where keys are on, in place of what the body says."""
    actor = getattr(request.state, ACTOR, None)
    return order if actor is None else order.model_copy(update={"actor": actor})


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


_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {
        "description": told,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"error": {"type": "string"}},
                    "required": ["error"],
                }
            }
        },
    }
    for status, told in {
        400: "The path holds a control character.",
        401: "No API key, or one that is not known.",
        403: "The API key lacks the right.",
        404: "There is no such rollout.",
        409: "The gate is closed, the version is stale, or the state does not allow it. "
        "Nothing was changed.",
        413: "The body is too long.",
        422: "The request or its plan is malformed: every fault is listed.",
        503: "The store did not answer; `outcome` is `unknown` where that is open.",
    }.items()
}
