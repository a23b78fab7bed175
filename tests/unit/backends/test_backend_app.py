import gzip
import itertools
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orjson
import pytest
import structlog
from backend_samples import bank, context, infer_json, untrained
from starlette.testclient import TestClient

from backends.answer import read_answer
from backends.app import ModelServer
from backends.bodies import LONG_BODY
from backends.engine.torch_cpu import TorchEngine
from backends.errors import BankError, NotFiniteError
from backends.idruns import IdRuns
from backends.predictor import Predictor
from backends.protocol import (
    HEADER_LENGTH,
    OUTPUTS,
    Request,
    write_request,
)

INFER = "/v2/models/lvm/infer"
LOOKUP = "/v2/models/lvm/lookup"
VERSION = untrained().identity[:12]
PATHS = ("/v2/models/lvm", f"/v2/models/lvm/versions/{VERSION}")
IDENTITY = {"checkpoint": untrained().identity, "bank": "ba" * 32}
PACKED = gzip.compress(b"{}", mtime=0)
BOMB = gzip.compress(bytes(2 * 1024 * 1024), mtime=0)
BANK = context(40)
CONTEXT = BANK[:12]


def load() -> Predictor:
    weights = untrained()
    return Predictor(
        engine=TorchEngine(weights, threads=1),
        bank=bank(BANK),
        window=10,
        checkpoint=weights.identity,
        trained=weights.trained,
    )


def server(loader: object = load) -> ModelServer:
    return ModelServer(
        loader,  # type: ignore[arg-type]  # a test may load what fails
        arm="phase1",
        version="1.2.3",
        queue_limit=4,
        max_context=200,
        max_body_mb=1,
        give_up=lambda: None,
    )


def wait_ready(client: TestClient) -> None:
    for _ in range(10_000):  # each turn lets the loading task run
        if client.get("/v2/health/ready").status_code == 200:
            return
    pytest.fail("the server did not get ready")


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(server().app) as client:
        wait_ready(client)
        yield client


def test_json_in_gives_json_out(client: TestClient) -> None:
    answer = client.post(INFER, content=infer_json(CONTEXT, top_k=3))
    assert answer.headers["content-type"] == "application/json"
    found = read_answer(answer.content, None)
    assert found.vector @ found.vector == pytest.approx(1, abs=1e-5)
    assert (found.length, found.window, found.ids.size) == (12, 10, 3)
    assert found.checkpoint == untrained().identity


def test_binary_in_gives_the_same_numbers_in_binary_out(client: TestClient) -> None:
    message = write_request(Request(CONTEXT, top_k=3))
    answer = client.post(INFER, content=message.body, headers=dict(message.headers))
    assert answer.headers["content-type"] == "application/octet-stream"
    binary = read_answer(answer.content, answer.headers[HEADER_LENGTH])
    plain = read_answer(client.post(INFER, content=infer_json(CONTEXT, top_k=3)).content, None)
    np.testing.assert_array_equal(binary.vector, plain.vector)
    np.testing.assert_array_equal(binary.ids, plain.ids)


def test_a_long_body_is_parsed_off_the_loop_to_the_same_answer(client: TestClient) -> None:
    long = context(60)
    body = infer_json(long)
    assert len(body) > LONG_BODY
    plain = read_answer(client.post(INFER, content=body).content, None)
    short = read_answer(client.post(INFER, content=infer_json(long[-10:])).content, None)
    np.testing.assert_array_equal(plain.vector, short.vector)


def test_neighbours_leave_out_the_context(client: TestClient) -> None:
    answer = read_answer(client.post(INFER, content=infer_json(CONTEXT, top_k=40)).content, None)
    assert set(answer.ids.tolist()) == set(range(1012, 1040))


def test_a_lookup_names_the_id_of_an_exact_vector_or_null(client: TestClient) -> None:
    for path in (LOOKUP, f"/v2/models/lvm/versions/{VERSION}/lookup"):
        found = client.post(path, json={"vector": BANK[7].tolist()})
        assert found.json() == {"id": 1007, **IDENTITY}
        other = client.post(path, json={"vector": (-BANK[7]).tolist()})
        assert other.json() == {"id": None, **IDENTITY}


def test_an_id_names_the_banks_vector_to_the_last_bit_or_null(client: TestClient) -> None:
    for path in ("/v2/models/lvm", f"/v2/models/lvm/versions/{VERSION}"):
        found = client.get(f"{path}/vectors/1007").json()["vector"]
        np.testing.assert_array_equal(np.array(found, np.float32), BANK[7])
    for id_ in ("1040", "-1", str(10**30)):
        assert client.get(f"/v2/models/lvm/vectors/{id_}").json() == {"vector": None}
    assert client.get("/v2/models/lvm/vectors/seven").status_code == 400
    assert client.get("/v2/models/other/vectors/1007").status_code == 404


def test_the_banks_ids_are_listed_as_runs(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = client.get("/v2/models/lvm/ids")
    assert repr(IdRuns.read(listed.content)) == "<IdRuns of 40 ids in 1 runs>"
    monkeypatch.setattr("backends.app.MAX_RUNS", 0)
    refused = client.get("/v2/models/lvm/ids")
    assert refused.status_code == 404
    assert "1 runs of numbers: more than 0 are not listed" in refused.json()["error"]


def test_health_and_metadata_say_what_this_is(client: TestClient) -> None:
    assert client.get("/v2/health/live").json()["live"] is True
    assert client.get("/v2/health/ready").json() == {"ready": True, "live": True}
    assert client.get("/v2").json() == {
        "name": "turnout",
        "version": "1.2.3",
        "extensions": ["binary_tensor_data"],
    }
    assert client.get("/v2/models").json() == {"models": ["lvm"]}
    for path in PATHS:
        assert client.get(f"{path}/ready").json() == {"name": "lvm", "ready": True}
        assert client.get(f"{path}/config").json()["input"][0]["dims"] == [1, -1, 768]
        model = client.get(path).json()
        assert model["versions"] == [VERSION]
        facts = model["parameters"]
        assert (facts["weights"], facts["trained"]) == ("untrained weights", False)
        assert (facts["arm"], facts["window"]) == ("phase1", 10)
        assert {name: facts[name] for name in IDENTITY} == IDENTITY


def test_the_repository_index_lists_the_version_that_is_ready(client: TestClient) -> None:
    ready = {"name": "lvm", "version": VERSION, "state": "READY", "reason": ""}
    assert client.post("/v2/repository/index").json() == [ready]
    assert client.post("/v2/repository/index", json={"ready": True}).json() == [ready]


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_carries_the_identity_of_what_computed_it(
    client: TestClient, path: str
) -> None:
    binary = write_request(Request(CONTEXT, binary_outputs=frozenset(OUTPUTS)))
    raw = {HEADER_LENGTH: "0"}
    one = orjson.loads(infer_json(CONTEXT))
    one["outputs"] = [{"name": "NEIGHBOR_IDS", "parameters": {"binary_data": True}}]
    for body, headers in (
        (infer_json(CONTEXT), {}),
        (orjson.dumps(one), {}),
        (binary.body, dict(binary.headers)),
        (CONTEXT.tobytes(), raw),
    ):
        answer = client.post(f"{path}/infer", content=body, headers=headers)
        assert answer.status_code == 200
        head = orjson.loads(answer.content[: int(answer.headers.get(HEADER_LENGTH, 1 << 20))])
        assert head["model_name"] == "lvm"
        assert head["model_version"] == VERSION
        assert {name: head["parameters"][name] for name in IDENTITY} == IDENTITY
        assert head["parameters"]["prefix"] == "off"


def test_a_raw_body_is_one_context_and_its_answer_is_binary(client: TestClient) -> None:
    answer = client.post(INFER, content=CONTEXT.tobytes(), headers={HEADER_LENGTH: "0"})
    assert answer.headers["content-type"] == "application/octet-stream"
    raw = read_answer(answer.content, answer.headers[HEADER_LENGTH])
    plain = read_answer(client.post(INFER, content=infer_json(CONTEXT)).content, None)
    np.testing.assert_array_equal(raw.vector, plain.vector)
    assert (raw.length, raw.ids.tolist()) == (12, plain.ids.tolist())


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_body_is_read_and_its_header_counts_what_it_was(
    client: TestClient, name: str, pack: Callable[[bytes], bytes]
) -> None:
    message = write_request(Request(CONTEXT, top_k=3))
    plain = client.post(INFER, content=message.body, headers=dict(message.headers))
    headers = {**message.headers, "content-encoding": name}
    packed = client.post(INFER, content=pack(message.body), headers=headers)
    assert (packed.status_code, packed.content) == (200, plain.content)


def test_statistics_count_successes_failures_and_the_parts_of_their_time(
    client: TestClient,
) -> None:
    def stats(path: str = "/v2/models/stats") -> Any:
        (found,) = client.get(path).json()["model_stats"]
        return found

    before = stats()
    assert client.post(INFER, content=infer_json(CONTEXT)).status_code == 200
    assert client.post(INFER, content=b"{}").status_code == 400
    after = stats(f"/v2/models/lvm/versions/{VERSION}/stats")
    for name in ("success", "fail", "queue", "compute_infer", "compute_output"):
        old, new = before["inference_stats"][name], after["inference_stats"][name]
        assert new["count"] == old["count"] + 1, name
        assert new["ns"] > old["ns"], name
    assert after["inference_count"] == before["inference_count"] + 1
    assert after["execution_count"] == before["execution_count"] + 1
    assert after["batch_stats"][0]["batch_size"] == 1
    assert abs(after["last_inference"] / 1000 - time.time()) < 60
    assert (after["name"], after["version"]) == ("lvm", VERSION)


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "words"),
    [
        ("POST", INFER, b"", {}, 400, "the body is empty"),
        ("POST", INFER, b"{}", {}, 400, '"inputs" must list exactly one tensor'),
        ("POST", INFER, b"{}", {HEADER_LENGTH: "7"}, 400, "Inference-Header-Content-Length"),
        ("POST", INFER, b"{}", {"x-request-timeout-ms": "soon"}, 400, "x-request-timeout-ms is"),
        ("POST", INFER, b"{}", {"x-request-timeout-ms": "0"}, 400, "milliseconds above 0"),
        ("POST", INFER, b"{}", {"x-request-timeout-ms": "nan"}, 400, "milliseconds above 0"),
        ("POST", INFER, b"\0" * 3072 * 201, {HEADER_LENGTH: "0"}, 413, "accepts at most 200"),
        ("POST", INFER, b"x" * (1024 * 1024 + 1), {}, 413, "longer than 1 MiB"),
        ("POST", INFER, b"x" * (3 * 1024 * 1024), {}, 413, "longer than 1 MiB"),
        ("POST", "/v2/models/x/infer", b"{}", {}, 404, 'this server has "lvm"'),
        ("GET", "/v2/models/x", b"", {}, 404, 'this server has "lvm"'),
        ("GET", "/v2/models/x/ready", b"", {}, 404, 'this server has "lvm"'),
        ("POST", "/v2/models/x/lookup", b"{}", {}, 404, 'this server has "lvm"'),
        ("POST", "/v2/models/lvm/lookup", b"{}", {}, 400, 'the field "vector" is missing'),
        ("GET", "/v2/models/lvm/versions/1", b"", {}, 404, 'has no version "1": this server has'),
        ("POST", "/v2/models/lvm/versions/1/infer", b"{}", {}, 404, 'has no version "1"'),
        ("POST", INFER, b"x", {"content-encoding": "br"}, 415, "content-encoding is 'br'"),
        ("POST", INFER, b"{}", {"content-encoding": "gzip"}, 400, "the body is no gzip stream"),
        ("POST", INFER, PACKED[:-1], {"content-encoding": "gzip"}, 400, "stream is cut off"),
        ("POST", INFER, BOMB, {"content-encoding": "gzip"}, 413, "1 MiB when its gzip is inflated"),
        ("GET", "/elsewhere", b"", {}, 404, "Not Found: GET /elsewhere"),
        ("GET", INFER, b"", {}, 405, "Method Not Allowed"),
    ],
    ids=itertools.count(),
)
def test_every_error_is_one_sentence_in_json(
    client: TestClient,
    method: str,
    path: str,
    body: bytes,
    headers: dict[str, str],
    status: int,
    words: str,
) -> None:
    answer = client.request(method, path, content=body, headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]


def test_numbers_that_would_overflow_in_any_model_are_the_clients_fault(client: TestClient) -> None:
    largest = CONTEXT * 0 + np.float32(0.99e15)
    assert client.post(INFER, content=infer_json(largest)).status_code == 200
    answer = client.post(INFER, content=infer_json(CONTEXT * np.float32(1e38)))
    assert answer.status_code == 400
    assert "every number of a vector must lie between ±1e+15" in answer.json()["error"]


def test_a_deadline_that_passes_is_504(client: TestClient) -> None:
    headers = {"x-request-timeout-ms": "0.001"}
    answer = client.post(INFER, content=infer_json(CONTEXT), headers=headers)
    assert answer.status_code == 504


def test_metrics_count_predictions_and_errors_in_closed_labels(client: TestClient) -> None:
    client.post(INFER, content=infer_json(CONTEXT))
    client.get("/some/path/nobody/knows")
    metrics = client.get("/metrics").text
    assert "backend_predictions_total" in metrics
    assert 'backend_errors_total{kind="not_found"}' in metrics
    assert 'route="/v2/models/{name}/infer"' in metrics
    assert "nobody" not in metrics


def test_while_the_model_loads_the_server_is_live_but_not_ready() -> None:
    gate = threading.Event()

    def load_later() -> Predictor:
        assert gate.wait(10)
        return load()

    with TestClient(server(load_later).app) as client:
        assert client.get("/v2/health/live").json() == {"live": True}
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/v2/health/ready").json()["ready"] is False
        assert client.get("/v2/models/lvm").status_code == 503
        refused = client.post(INFER, content=infer_json(CONTEXT))
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        gate.set()
        wait_ready(client)
        assert client.post(INFER, content=infer_json(CONTEXT)).status_code == 200


def test_a_server_that_cannot_load_gives_up() -> None:
    gave_up = threading.Event()

    def load_nothing() -> Predictor:
        raise BankError("no such bank")

    failing = ModelServer(
        load_nothing,
        arm="phase1",
        version="1",
        queue_limit=1,
        max_context=1,
        max_body_mb=1,
        give_up=gave_up.set,
    )
    with TestClient(failing.app):
        assert gave_up.wait(10)
    assert failing.failed


def spoiled(*_: object) -> Predictor:
    raise NotFiniteError("the engine failed")


@pytest.mark.parametrize(
    ("fault", "headers", "status", "kind"),
    [
        (None, {"x-request-timeout-ms": "0.001"}, 504, "deadline"),
        (spoiled, {}, 500, "not_finite"),
    ],
)
def test_an_answer_of_5xx_is_in_the_log_under_its_requests_id(
    client: TestClient,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[..., Predictor] | None,
    headers: dict[str, str],
    status: int,
    kind: str,
) -> None:
    if fault is not None:
        monkeypatch.setattr("backends.worker.Worker.loaded", fault)
    named = {**headers, "x-request-id": f"a-name-{status}"}
    with structlog.testing.capture_logs() as log:
        answer = client.post(INFER, content=infer_json(CONTEXT), headers=named)
    assert answer.status_code == status
    (line,) = log
    assert (line["request_id"], line["status"]) == (f"a-name-{status}", status)
    assert (line["kind"], line["error"]) == (kind, answer.json()["error"])


def test_a_refusal_of_the_clients_own_making_writes_no_line(client: TestClient) -> None:
    with structlog.testing.capture_logs() as log:
        assert client.post(INFER, content=b"{}").status_code == 400
    assert log == []
