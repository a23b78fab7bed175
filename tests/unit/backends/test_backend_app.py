import threading
from collections.abc import Iterator

import numpy as np
import pytest
from backend_samples import bank, context, infer_json, untrained
from starlette.testclient import TestClient

from backends.app import LONG_BODY, ModelServer
from backends.engine.torch_cpu import TorchEngine
from backends.errors import BankError
from backends.predictor import Predictor
from backends.protocol import HEADER_LENGTH, Request, read_answer, write_request

INFER = "/v2/models/lvm/infer"
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
    found = client.post("/v2/models/lvm/lookup", json={"vector": BANK[7].tolist()})
    assert found.json() == {"id": 1007}
    other = client.post("/v2/models/lvm/lookup", json={"vector": (-BANK[7]).tolist()})
    assert other.json() == {"id": None}


def test_health_and_metadata_say_what_this_is(client: TestClient) -> None:
    assert client.get("/v2/health/live").json()["live"] is True
    assert client.get("/v2/health/ready").json()["ready"] is True
    assert client.get("/v2/models/lvm/ready").json()["ready"] is True
    assert client.get("/v2").json()["version"] == "1.2.3"
    facts = client.get("/v2/models/lvm").json()["parameters"]
    assert facts["weights"] == "untrained weights"
    assert facts["trained"] is False
    assert facts["arm"] == "phase1"
    assert facts["window"] == 10


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
        ("GET", "/elsewhere", b"", {}, 404, "Not Found: GET /elsewhere"),
        ("GET", INFER, b"", {}, 405, "Method Not Allowed"),
    ],
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


def test_an_answer_that_is_not_finite_is_a_500_that_says_so(client: TestClient) -> None:
    answer = client.post(INFER, content=infer_json(CONTEXT * np.float32(1e38)))
    assert answer.status_code == 500
    assert "the engine failed: the model's answer is not finite" in answer.json()["error"]


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
