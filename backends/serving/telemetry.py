"""What every process says about itself: logs, request ids, metrics.

**Logs** are one JSON line per event on stdout, whoever speaks: our own structlog loggers, stdlib
loggers (uvicorn, asyncio), warnings, and exceptions that nobody caught. Text from outside stays
inside a JSON string, so no input can forge a line.

**A request** passes `RequestTelemetry`, which names it (`x-request-id`), binds the name to every
log line of its task, and measures it. Labels come from closed sets: the route is the matched
template or "other", never a path that a client chose. An exception that reaches it is logged once
and answered with 500 in the JSON form of all our errors. It is traced too, where that is on: see
`backends/serving/tracing.py`.

Metrics live in one registry per app object, so that a test may build several apps.
"""

import contextvars
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final

import orjson
import structlog
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    GCCollector,
    ProcessCollector,
    generate_latest,
)
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backends.serving import tracing, wire
from backends.serving.direct import Answer, Call, Take, Work
from backends.serving.instruments import Histogram

REQUEST_ID: Final = "x-request-id"
_REQUEST_ID: Final = REQUEST_ID.encode()
MAX_REQUEST_ID: Final = 128
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BUCKETS_S: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0),
)
WAIT_BUCKETS_S: Final = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5)
METHOD_NOT_ALLOWED: Final = 405
INTERNAL_ERROR: Final = 500
_JSON_HEAD: Final = b"content-type: application/json\r\n"

_worked_on: Final = contextvars.ContextVar[Mapping[str, str]]("worked_on", default={})  # noqa: B039 - never changed
"""What a log line says of the request that is being worked on. structlog's binding costs 8 us."""

log = structlog.stdlib.get_logger("turnout")

# --- logs ---------------------------------------------------------------------------------------


def configure_logging(service: str, level: str = "INFO") -> None:
    """Send every log line of this process to stdout as JSON, with `service` in it.

    `level` is a stdlib level's name, in any case. Raises ValueError for another.
    """

    def name_service(
        _: Any, __: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        event["service"] = service
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _name_request,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        name_service,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(allow=())],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(serializer=_to_json),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every request at INFO
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _name_request(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for name, value in _worked_on.get().items():
        event.setdefault(name, value)
    return event


def _to_json(event: structlog.typing.EventDict, **_: Any) -> str:
    # The stdlib's, not orjson: a lone surrogate in a client's text must not cost the line.
    return json.dumps(event, default=repr)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        log.warning("interrupted")
        return
    log.critical("uncaught exception", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    log.critical(
        "uncaught exception in a thread",
        thread=args.thread.name if args.thread else None,
        exc_info=args.exc_value,
    )


# --- metrics ------------------------------------------------------------------------------------


def new_registry() -> CollectorRegistry:
    """Make a registry that tells the process's own CPU, memory, descriptors and GC already."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def metrics_endpoint(registry: CollectorRegistry) -> Callable[[Request], Awaitable[Response]]:
    """Make the handler of `GET /metrics`, for `app.add_route("/metrics", ...)`."""

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), headers={"content-type": CONTENT_TYPE_LATEST})

    return metrics


# --- requests -----------------------------------------------------------------------------------


class RequestTelemetry:
    """Plain ASGI middleware: a name, a duration and a last resort for every HTTP request.

    The name is in `scope["state"]["request_id"]` (`request.state.request_id`), in the log lines
    and in the answer. `trust_request_id=False` issues a new one whatever the client sent: for a
    server that derives something from it, and says with `new_request_id` what names look like.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        registry: CollectorRegistry,
        trust_request_id: bool = True,
        new_request_id: Callable[[], str] = lambda: os.urandom(16).hex(),
    ) -> None:
        self.app = app
        self.trust_request_id = trust_request_id
        self.new_request_id = new_request_id
        self.duration = Histogram(
            "http_request_duration_seconds",
            "From the request's headers to the last byte of its answer",
            ("route", "method", "status"),
            buckets=BUCKETS_S,
            registry=registry,
        )
        self.wait = Histogram(
            "http_request_wait_seconds",
            "From a request's headers to its handler: what the process was busy with otherwise",
            buckets=WAIT_BUCKETS_S,
            registry=registry,
        ).labels()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI scope; other kinds than HTTP pass untouched."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = self._name_of(scope["headers"])
        scope.setdefault("state", {})["request_id"] = request_id
        method = scope["method"] if scope["method"] in METHODS else "other"
        began = time.perf_counter()
        status = 0
        if wire.ARRIVED in scope["state"]:
            self.wait.observe(max(0.0, time.monotonic() - scope["state"][wire.ARRIVED]))

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message.setdefault("headers", [])
                if all(name != _REQUEST_ID for name, _ in headers):
                    message["headers"] = [*headers, (_REQUEST_ID, request_id.encode("latin-1"))]
            await send(message)

        with tracing.serving(scope, method, request_id) as span:
            named = _worked_on.set({"request_id": request_id, **span.log_fields})
            try:
                await self.app(scope, receive, send_named)
            except Exception:
                log.exception("request failed", route=route_of(scope))
                if status:
                    raise  # half an answer is out: only the server can cut the connection
                await JSONResponse(_internal(request_id), 500)(scope, receive, send_named)
            finally:
                _worked_on.reset(named)
                # A method that a route has not is nobody's route: of those, clients make up many.
                route = "other" if status == METHOD_NOT_ALLOWED else route_of(scope)
                # No status means that the client left, or the server cancelled the request.
                self._took(route, method, status, time.perf_counter() - began)
                span.served(method, route, status)

    def _took(self, route: str, method: str, status: int, seconds: float) -> None:
        self.duration.labels(route, method, str(status or "none")).observe(seconds)

    def _name_of(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Name a request: as its client did, where that is trusted."""
        given = _given_id(headers) if self.trust_request_id else None
        return given if given and is_sane_id(given) else self.new_request_id()

    # --- the short way: `backends/serving/direct.py` ----------------------------------------------

    def direct(self, route: str, take: Take) -> Take:
        """Name and measure what is posted to `route` the short way, as the rest is.

        Traced requests take the long way.
        """

        def named(call: Call) -> Work | None:
            if tracing.is_on():
                return None
            call.request_id = self._name_of(call.headers)
            work = take(call)
            return None if work is None else self._measured(call, route, work)

        return named

    async def _measured(self, call: Call, route: str, work: Work) -> Answer:
        _worked_on.set({"request_id": call.request_id})  # in a context of its own
        began = time.perf_counter()
        self.wait.observe(max(0.0, time.monotonic() - call.arrived))
        status = 0
        try:
            answer = await work
            status = answer.status
        except Exception:
            log.exception("request failed", route=route)
            status = INTERNAL_ERROR
            answer = Answer(status, _JSON_HEAD, orjson.dumps(_internal(call.request_id)))
        finally:
            self._took(route, "POST", status, time.perf_counter() - began)
        return answer


def _internal(request_id: str) -> dict[str, str]:
    return {"error": f"internal error; the log has it under request id {request_id}"}


def _given_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Read the id that the client gave; of several, the first."""
    for name, value in headers:
        if name == _REQUEST_ID:
            text: str = value.decode("latin-1")
            return text
    return None


def is_sane_id(text: str) -> bool:
    """Whether a client's request id may go into headers and logs as it is."""
    return len(text) <= MAX_REQUEST_ID and text.isascii() and text.isprintable()


def route_of(scope: Scope) -> str:
    """Name the matched route's template (`/v2/models/{name}`), or "other" where none matched."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else "other"
