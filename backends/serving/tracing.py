"""Traces: what a request met on its way through the processes, told to an OpenTelemetry collector.

**Off** unless `OTEL_EXPORTER_OTLP_ENDPOINT` (or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) names a
collector that takes OTLP over HTTP. Off, nothing of the SDK is loaded from here (redis-py loads its
metrics part wherever it finds it), and every function ends at its first question. On, the SDK's
other standard variables hold, the sampler's among them.

**Spans.** A server's span (`serving`) is a child of the `traceparent` that the request carries. A
call to another server (`calling`) is a child of what its task does, and hands its own `traceparent`
on. What a batch did is told afterwards to each of its requests (`record`), from times that were
taken anyway. Probes and scrapes get no span: they come every second and say nothing; nor does a
call that a server makes by itself, for no request. Names and attributes are those of
OpenTelemetry's semantic conventions for HTTP, and `turnout.*` beside them.

**The tracer is this module's own** and not the global one, to which FastAPI would add a second span
for every request.

A span that ends goes into a bounded queue; a thread of the SDK sends it on. A collector that is
away costs spans, one warning a minute, and at most two seconds when the process ends.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import Scope

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL: Final = "http/protobuf"
PROBES: Final = ("/metrics", "/health/", "/v2/health/")
MAX_PATH: Final = 256
OTHER: Final = "other"
"""Stands for a method or a route that is none of ours."""
FLUSH_S: Final = 2.0
QUIET_S: Final = 60.0
SAME_NS: Final = 1_000_000
SERVER_ERROR: Final = 500

log = structlog.stdlib.get_logger("tracing")

# --- switching on and off -----------------------------------------------------------------------


@dataclass(slots=True)
class _Process:
    """This process's tracer, as the logging is the process's: None where tracing is off."""

    tracer: trace.Tracer | None = None
    shut_down: Callable[[], None] = field(default=lambda: None)
    shift: int = 0
    """Nanoseconds from the monotonic clock to Unix time."""


_process: Final = _Process()
_w3c: Final = TraceContextTextMapPropagator()


def endpoint_of(environ: Mapping[str, str]) -> str | None:
    """Return the variable that names a collector, or None where tracing is off.

    Raises ValueError, which begins with the variable's name, for what cannot be served.
    """
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if environ.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return None
    name = next((name for name in ENDPOINTS if environ.get(name)), None)
    if name is None:
        return None
    if not environ[name].startswith(("http://", "https://")):
        raise ValueError(
            f"{name}: {environ[name][:80]!r} is no http:// or https:// URL, such as "
            "http://localhost:4318"
        )
    protocol = next((name for name in PROTOCOLS if environ.get(name)), None)
    if protocol is not None and environ[protocol] != PROTOCOL:
        raise ValueError(
            f"{protocol}: {environ[protocol][:80]!r} is not spoken here, only {PROTOCOL}, which "
            "collectors take on port 4318"
        )
    return name


def start(service: str) -> None:
    """Begin to trace as `service`, if the environment names a collector. Call it once.

    A wrong setting ends the process with exit status 1, after one log line that names it.
    """
    try:
        if endpoint_of(os.environ) is None:
            return
        _load(service)
    except (ValueError, OSError) as error:
        log.critical("wrong setting", reason=str(error))
        raise SystemExit(1) from None
    log.info("traces are exported", service_name=service)


def stop() -> None:
    """Send what is left, for at most two seconds, and end tracing."""
    if _process.tracer is None:
        return
    _process.tracer = None
    # The SDK would wait 30 s for a collector that is away.
    ending = threading.Thread(target=_process.shut_down, name="tracing ends", daemon=True)
    ending.start()
    ending.join(FLUSH_S)
    if ending.is_alive():
        log.warning("traces are lost", reason=f"the collector took none for {FLUSH_S:.0f} s")


def is_on() -> bool:
    """Whether this process traces."""
    return _process.tracer is not None


def _load(service: str) -> None:
    # Loaded here, so that a process without a collector pays nothing.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - see above
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - see above
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - see above
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - see above

    complaints = logging.getLogger("opentelemetry")
    complaints.handlers = [Complaints()]
    complaints.propagate = False
    logging.getLogger("urllib3").setLevel(logging.WARNING)  # it logs every connection at DEBUG
    names = {"service.namespace": "turnout"}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        names["service.name"] = service
    provider = TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _process.shut_down = provider.shutdown
    _process.tracer = provider.get_tracer("turnout")


class Complaints(logging.Handler):
    """Passes what the SDK warns of on to our log, once a minute at most."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING)
        self._clock = clock
        self._next = 0.0
        self._kept_back = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record, or count it."""
        now = self._clock()
        if now < self._next:
            self._kept_back += 1
            return
        self._next = now + QUIET_S
        log.warning("traces may be lost", reason=record.getMessage(), kept_back=self._kept_back)
        self._kept_back = 0


# --- spans --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Traced:
    """A span under way, or nothing where there is none."""

    span: trace.Span | None = None

    @property
    def log_fields(self) -> dict[str, str]:
        """What a log line says of it: its trace's id, in hex."""
        if self.span is None:
            return {}
        return {"trace_id": trace.format_trace_id(self.span.get_span_context().trace_id)}

    @property
    def headers(self) -> dict[str, str]:
        """The W3C headers that hand it on."""
        headers: dict[str, str] = {}
        if self.span is not None:
            _w3c.inject(headers, trace.set_span_in_context(self.span))
        return headers

    def served(self, method: str, route: str, status: int) -> None:
        """Tell what became of a server's request; a `status` of 0 is an answer never begun."""
        if self.span is None:
            return
        if route != OTHER:
            self.span.update_name(f"{_name(method)} {route}")
            self.span.set_attribute("http.route", route)
        if status:
            self.answered(status)
        if status >= SERVER_ERROR:
            self.span.set_attribute("error.type", str(status))
            self.span.set_status(StatusCode.ERROR)

    def answered(self, status: int) -> None:
        """Tell an HTTP answer's status."""
        if self.span is not None:
            self.span.set_attribute("http.response.status_code", status)


NOTHING: Final = Traced()


@contextlib.contextmanager
def serving(scope: Scope, method: str, request_id: str) -> Iterator[Traced]:
    """Trace the work on an ASGI request; the caller says at its end what it `served`."""
    tracer = _process.tracer
    if tracer is None or scope["path"].startswith(PROBES):
        yield NOTHING
        return
    attributes = {
        "http.request.method": method if method != OTHER else "_OTHER",
        "url.scheme": scope.get("scheme", "http"),
        "url.path": scope["path"][:MAX_PATH],
        "network.protocol.version": scope.get("http_version", "1.1"),
        "turnout.request_id": request_id,
    }
    with tracer.start_as_current_span(
        _name(method),
        _w3c.extract(Headers(scope=scope)),
        SpanKind.SERVER,
        attributes,
        record_exception=False,  # the log has it, under this trace's id
    ) as span:
        yield Traced(span)


def _name(method: str) -> str:
    return method if method != OTHER else "HTTP"  # the convention's word


@contextlib.contextmanager
def calling(
    method: str, host: str, port: int | None, path: str, **attributes: str | bool
) -> Iterator[Traced]:
    """Trace a call to another server, which must be sent the span's `headers`.

    Keyword names are attributes of ours: `arm` becomes `turnout.arm`.
    """
    tracer = _process.tracer
    if tracer is None or path.startswith(PROBES) or not _inside():
        yield NOTHING
        return
    named: dict[str, str | bool | int] = {
        "http.request.method": method,
        "url.path": path,
        "server.address": host,
        "server.port": port or 80,
        **{f"turnout.{name}": value for name, value in attributes.items()},
    }
    with tracer.start_as_current_span(
        f"{method} {path}", kind=SpanKind.CLIENT, attributes=named, record_exception=False
    ) as span:
        try:
            yield Traced(span)
        except Exception as error:
            span.set_attribute("error.type", type(error).__name__)
            raise


def _inside() -> bool:
    """Whether this task does something for a traced request: what it does by itself tells none."""
    return trace.get_current_span().get_span_context().is_valid


def current() -> Context | None:
    """What this task does now, for `record`; None where that is not traced."""
    if _process.tracer is None or not trace.get_current_span().is_recording():
        return None
    return context.get_current()


def record(
    parent: Context | None, name: str, began: float, ended: float, **attributes: str | int
) -> None:
    """Add a span that is over to `parent`; times in seconds of `time.perf_counter`."""
    tracer = _process.tracer
    if tracer is None or parent is None:
        return
    shift = _shift(time.time_ns() - time.perf_counter_ns())
    named = {f"turnout.{name}": value for name, value in attributes.items()}
    span = tracer.start_span(name, parent, attributes=named, start_time=int(began * 1e9) + shift)
    span.end(int(ended * 1e9) + shift)


def _shift(now: int) -> int:
    """Say how far apart two clocks are: as before, unless one of them was set.

    They are read one after the other, so `now` differs a little each time; in a trace, what follows
    each other must do so.
    """
    if abs(now - _process.shift) > SAME_NS:
        _process.shift = now
    return _process.shift
