import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from backends.serving.telemetry import RequestTelemetry, is_sane_id, metrics_endpoint, new_registry


def log_of(program: str) -> list[dict[str, Any]]:
    """Run a program that has called configure_logging; return its log, and hold it to stdout."""
    source = (
        "from backends.serving.telemetry import configure_logging, log\n"
        "configure_logging('demo', 'info')\n" + textwrap.dedent(program)
    )
    run = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=30, check=False
    )
    assert run.stderr == ""
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_every_kind_of_speaker_gets_one_json_line_per_event() -> None:
    log = log_of(
        r"""
        import logging, threading, warnings
        log.info("own", size=3)
        logging.getLogger("uvicorn.error").info("started %d", 7)
        warnings.warn("careful")
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
        log.debug("too fine to be logged")
        raise ValueError("the end")
        """
    )
    assert [line["event"] for line in log if line["logger"] != "py.warnings"] == [
        "own",
        "started 7",
        "uncaught exception in a thread",
        "uncaught exception",
    ]
    assert log[0]["size"] == 3
    assert all(line["service"] == "demo" for line in log)
    assert all(line["timestamp"].endswith("Z") for line in log)
    assert {line["level"] for line in log} == {"info", "warning", "critical"}
    assert "careful" in log[2]["event"]
    assert "ZeroDivisionError" in log[3]["exception"]
    assert log[4]["exception"].endswith("ValueError: the end")


def test_no_text_from_outside_can_forge_or_break_a_line() -> None:
    hostile = '"}\n{"event": "forged"}\u2028\r\n\ud800\x00'
    log = log_of(f"log.info('path', path={hostile!r}, odd=object, number=float('1'))")
    assert len(log) == 1
    assert log[0]["path"] == hostile


def test_it_loads_neither_torch_nor_faiss() -> None:
    log = log_of("import sys; log.info('loaded', names=[m for m in sys.modules])")
    assert not {"torch", "faiss"} & set(log[0]["names"])


# --- requests -------------------------------------------------------------------------------------


async def named(request: Request) -> Response:
    return JSONResponse({"id": request.state.request_id})


async def broken(_: Request) -> Response:
    raise ValueError("on purpose")


def app(*, trust: bool = True) -> Starlette:
    registry = new_registry()
    made = Starlette(
        routes=[
            Route("/named/{x}", named),
            Route("/broken", broken),
            Route("/metrics", metrics_endpoint(registry)),
        ]
    )
    made.add_middleware(RequestTelemetry, registry=registry, trust_request_id=trust)
    return made


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(app()) as client:
        yield client


def test_a_sane_request_id_is_kept_and_answered(client: TestClient) -> None:
    answer = client.get("/named/1", headers={"x-request-id": "abc-123"})
    assert answer.json() == {"id": "abc-123"}
    assert answer.headers["x-request-id"] == "abc-123"


@pytest.mark.parametrize("given_id", ["x" * 129, "tab\there", "caf\u00e9", ""])
def test_an_insane_request_id_is_replaced(client: TestClient, given_id: str) -> None:
    answer = client.get("/named/1", headers=[(b"x-request-id", given_id.encode("latin-1"))])
    assert answer.headers["x-request-id"] not in {given_id, ""}
    assert len(answer.headers["x-request-id"]) == 32


def test_a_server_that_trusts_no_id_issues_its_own() -> None:
    with TestClient(app(trust=False)) as client:
        answer = client.get("/named/1", headers={"x-request-id": "abc"})
        assert answer.headers["x-request-id"] != "abc"


def test_every_request_gets_an_id_of_its_own(client: TestClient) -> None:
    ids = {client.get("/named/1").headers["x-request-id"] for _ in range(20)}
    assert len(ids) == 20


def test_an_exception_is_answered_in_json_with_the_id_that_the_log_has(client: TestClient) -> None:
    answer = client.get("/broken", headers={"x-request-id": "abc"})
    assert answer.status_code == 500
    assert answer.json() == {"error": "internal error; the log has it under request id abc"}


def test_metrics_name_the_route_and_never_the_path(client: TestClient) -> None:
    client.get("/named/one")
    client.get("/named/two")
    client.get("/secret-path")
    client.get("/broken")
    client.request("BREW", "/named/three")
    text = client.get("/metrics").text
    name = "http_request_duration_seconds_count"
    assert f'{name}{{method="GET",route="/named/{{x}}",status="200"}} 2.0' in text
    assert f'{name}{{method="GET",route="other",status="404"}} 1.0' in text
    assert f'{name}{{method="GET",route="/broken",status="500"}} 1.0' in text
    assert f'{name}{{method="other",route="other",status="405"}} 1.0' in text
    assert "secret" not in text
    assert "process_resident_memory_bytes" in text


def test_two_apps_in_one_process_do_not_share_metrics(client: TestClient) -> None:
    client.get("/named/1")
    with TestClient(app()) as other:
        assert 'route="/named/{x}"' not in other.get("/metrics").text


@given(st.text(max_size=200))
def test_a_sane_id_is_short_and_printable_ascii(text: str) -> None:
    expected = len(text) <= 128 and all(" " <= character <= "~" for character in text)
    assert is_sane_id(text) == expected
