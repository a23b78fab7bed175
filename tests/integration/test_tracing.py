"""Traces across real processes, into a real collector; and none where none is asked for."""

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import structlog
from module_process import DEADLINE_S, ModuleProcess, started
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from backends.serving.tracing import Complaints, endpoint_of

FAR = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
VECTORS = np.random.default_rng(1).standard_normal((100, 768)).astype(np.float32)


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP, and keeps each span with its service's name."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Take)
        self.spans: list[tuple[str, Span]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def named(self, service: str, name: str) -> list[Span]:
        return [span for whose, span in self.spans if (whose, span.name) == (service, name)]


class Take(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert self.path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = words(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                self.server.spans += [(service, span) for span in scope.spans]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def words(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def backend(folder: Path, **environment: str) -> Iterator[ModuleProcess]:
    np.savez(folder / "bank.npz", vectors=VECTORS, ids=np.arange(100))
    settings = {"ARM": "phase1", "PORT": "0", "BANK": str(folder / "bank.npz"), "MAX_LENGTH": "100"}
    named = {f"BACKEND_{name}": value for name, value in settings.items()}
    with started("backends", folder / "backend.log", **named, **environment) as process:
        yield process


@contextlib.contextmanager
def gateway(folder: Path, url: str, **environment: str) -> Iterator[ModuleProcess]:
    settings = {
        "ROUTER_PORT": "0",
        "ROUTER_STATE_DIR": str(folder),
        "ROUTER_BACKENDS": json.dumps({"phase1": url}),
        "TURNOUT_TIERS": '[{"arm": "phase1", "max_length": 100}]',
    }
    with started("router", folder / "gateway.log", **settings, **environment) as process:
        yield process


def test_one_request_through_gateway_and_backend_is_one_trace_with_the_right_parents(
    tmp_path: Path, collector: Collector
) -> None:
    to = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    with backend(tmp_path, **to) as model:
        with gateway(tmp_path, model.event("listening")["url"], **to) as edge:
            model.event("ready")
            url = edge.event("listening")["url"]
            httpx2.get(f"{url}/metrics")
            answer = httpx2.post(
                f"{url}/v1/predict",
                json={"context": VECTORS[:20].tolist()},
                headers=FAR,
                timeout=DEADLINE_S,
            )
            assert answer.status_code == 200
            assert edge.end() == 0  # what waits to be sent is sent
        assert model.end() == 0
    (edge_span,) = collector.named("gateway", "POST /v1/predict")
    (call,) = collector.named("gateway", "POST /v2/models/lvm/infer")
    (model_span,) = collector.named("phase1", "POST /v2/models/{name}/infer")
    inside = {name: collector.named("phase1", name)[0] for name in ("queue", "engine", "search")}
    told = [span for _, span in collector.spans if span.trace_id.hex() == FAR["traceparent"][3:35]]
    assert len(told) == 6, "nothing twice"
    others = [span.name for _, span in collector.spans if span not in told]
    # The gateway asks by itself which model is there; it tells of no request of its own.
    assert set(others) <= {"GET /v2/models/{name}"}, "no probe, no scrape"
    assert edge_span.parent_span_id.hex() == FAR["traceparent"][36:52]
    assert call.parent_span_id == edge_span.span_id
    assert model_span.parent_span_id == call.span_id
    assert {span.parent_span_id for span in inside.values()} == {model_span.span_id}
    named = answer.headers["x-request-id"]
    for span in (edge_span, model_span):
        facts = words(span.attributes)
        assert facts["http.response.status_code"] == 200
        assert facts["turnout.request_id"] == named
    assert words(call.attributes)["turnout.arm"] == "phase1"
    assert words(inside["engine"].attributes) == {
        "turnout.batch_size": 1,
        "turnout.vectors_read": 20,
        "turnout.vectors_known": 0,
        "turnout.prefix": "miss",
    }
    times = [(span.start_time_unix_nano, span.end_time_unix_nano) for span in inside.values()]
    flat = [at for pair in times for at in pair]
    assert flat == sorted(flat)
    slack = 1_000_000  # the clocks are read apart
    assert model_span.start_time_unix_nano <= flat[0] + slack
    assert flat[-1] <= model_span.end_time_unix_nano + slack


def test_a_collector_that_never_answers_delays_no_answer_and_the_end_by_two_seconds(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        to = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "OTEL_BSP_SCHEDULE_DELAY": "10",
        }
        with gateway(tmp_path, "http://127.0.0.1:9", **to) as edge:
            url = edge.event("listening")["url"]
            with httpx2.Client(base_url=url, timeout=1.0) as client:
                assert [client.get("/v2").status_code for _ in range(20)] == [200] * 20
                failed = client.post("/v1/predict", json={"context": VECTORS[:2].tolist()})
                assert failed.status_code == 502
            began = time.monotonic()
            assert edge.end() == 0
            assert time.monotonic() - began < 4
            warnings = [line for line in edge.log() if line["level"] == "warning"]
            complaints = [line["event"] for line in warnings if line["logger"] == "tracing"]
            assert complaints == ["traces are lost"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "grpc://localhost:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ],
)
def test_a_setting_that_cannot_be_served_is_named(setting: str, value: str) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", setting: value}
    with pytest.raises(ValueError, match=f"^{setting}: '{value}' is "):
        endpoint_of(environ)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_it_is_off_where_the_standard_variables_say_so(environ: dict[str, str]) -> None:
    assert endpoint_of(environ) is None


def run(program: str, **environment: str) -> list[dict[str, Any]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_off_a_model_server_loads_nothing_of_the_sdk_and_a_gateway_no_exporter() -> None:
    model, edge = run(
        "import sys, backends.__main__\n"
        "from backends.serving import telemetry, tracing\n"
        "telemetry.configure_logging('demo')\n"
        "tracing.start('demo')\n"
        "telemetry.log.info('model server', loaded=list(sys.modules))\n"
        "import router.__main__\n"
        "telemetry.log.info('gateway', loaded=list(sys.modules))\n"
    )
    exporter = ("opentelemetry.exporter", "google.protobuf", "requests")
    sdk = ("opentelemetry.sdk", *exporter)
    assert [name for name in model["loaded"] if name.startswith(sdk)] == []
    # redis-py loads the SDK's metrics itself, wherever the SDK is installed.
    sending = ("opentelemetry.sdk.trace.", *exporter)
    assert [name for name in edge["loaded"] if name.startswith(sending)] == []


def test_a_log_line_of_a_request_carries_its_trace() -> None:
    lines = run(
        "from starlette.applications import Starlette\n"
        "from starlette.testclient import TestClient\n"
        "from backends.serving import telemetry, tracing\n"
        "telemetry.configure_logging('demo')\n"
        "tracing.start('demo')\n"
        "def broken(_): raise ValueError('on purpose')\n"
        "app = Starlette()\n"
        "app.add_route('/broken', broken)\n"
        "app.add_middleware(telemetry.RequestTelemetry, registry=telemetry.new_registry())\n"
        f"TestClient(app).get('/broken', headers={FAR})\n"
        "telemetry.log.info('outside')\n",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
    )
    traces = {line["event"]: line.get("trace_id") for line in lines}
    assert traces["request failed"] == FAR["traceparent"][3:35]
    assert traces["outside"] is None


def test_a_wrong_endpoint_ends_the_process_with_one_sentence() -> None:
    (line,) = run(
        "from backends.serving import telemetry, tracing\n"
        "telemetry.configure_logging('demo')\n"
        "try: tracing.start('demo')\n"
        "except SystemExit as end: assert end.code == 1\n",
        OTEL_EXPORTER_OTLP_ENDPOINT="nowhere",
    )
    assert (line["event"], line["level"]) == ("wrong setting", "critical")
    assert line["reason"].startswith("OTEL_EXPORTER_OTLP_ENDPOINT: 'nowhere' is no http")


def test_complaints_of_the_sdk_are_logged_once_a_minute() -> None:
    now = [100.0]
    complaints = Complaints(clock=lambda: now[0])
    record = logging.makeLogRecord({"msg": "no collector at %s", "args": ("home",)})
    with structlog.testing.capture_logs() as logged:
        for now[0] in (100.0, 101.0, 159.9, 160.0, 161.0):
            complaints.handle(record)
    assert [line["kept_back"] for line in logged] == [0, 2]
    assert logged[0]["reason"] == "no collector at home"
