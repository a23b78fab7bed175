"""The gateway over real HTTP: routing by the table, answers, errors. No store anywhere."""

import asyncio
import gzip
import re
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import pytest_asyncio
from gateway_rig import Rig, body, context, gateway, sent, until

from backends.answer import read_answer
from backends.protocol import (
    HEADER_LENGTH,
    write_request,
)
from backends.protocol import Request as Question
from router.assignment import Reason
from router.ids import admitted_at

ARMS = ("phase1", "phase2")
PACKED = gzip.compress(b"{}", mtime=0)
BOMB = gzip.compress(bytes(65 * 1024 * 1024), compresslevel=1, mtime=0)
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with gateway(tmp_path_factory.mktemp("gateway")) as rig:
        yield rig


@pytest.fixture
def rig(shared: Rig) -> Rig:
    shared.reset()
    return shared


# --- answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "arm", "reason", "truncated"),
    [
        (20, "phase1", "tier", False),
        (100, "phase1", "tier", False),
        (101, "phase2", "tier", False),
        (300, "phase2", "tier", False),
        (501, "phase2", "overflow", True),
    ],
)
async def test_the_length_of_a_context_decides_who_answers(
    rig: Rig, length: int, arm: str, reason: str, truncated: bool
) -> None:
    response = await rig.predict(length)
    answer = response.json()
    assert response.status_code == 200
    assert (answer["arm"], answer["truncated"]) == (arm, truncated)
    assert (answer["length"], answer["tokens"]) == (length, 20 * length)
    headers = response.headers
    assert headers["x-turnout-arm"] == headers["x-turnout-assigned"] == arm
    assert headers["x-turnout-reason"] == reason
    assert (headers["x-turnout-stage"], headers["x-turnout-version"]) == ("-", "0.0")
    assert headers["x-turnout-checkpoint"] == f"{arm}-checkpoint"
    assert headers["x-turnout-bank"] == "a-bank"


async def test_an_answer_holds_the_prediction_and_as_many_neighbours_as_asked_for(
    rig: Rig,
) -> None:
    asked = body(3, top_k=2)
    answer = (await rig.client.post("/v1/predict", json=asked)).json()
    assert answer["prediction"] == pytest.approx(asked["context"][-1], rel=1e-6)
    assert answer["neighbors"] == [
        {"id": 100, "score": 1.0},
        {"id": 101, "score": pytest.approx(0.944, abs=1e-3)},
    ]
    assert set(answer) == {
        *("id", "prediction", "neighbors", "arm", "length", "tokens", "truncated"),
    }


@pytest.mark.parametrize(("asked", "expected"), [(1, 10), (10, 10), (25, 25)])
async def test_a_backend_is_always_asked_for_the_ten_that_labels_are_judged_by(
    rig: Rig, asked: int, expected: int
) -> None:
    answer = (await rig.predict(3, top_k=asked)).json()
    assert rig.phase1.top_k == [expected]
    assert len(answer["neighbors"]) == asked


async def test_the_servers_request_id_is_its_own_and_travels_to_the_backend(rig: Rig) -> None:
    response = await rig.predict(headers={"x-request-id": "mine"})
    name = response.headers["x-request-id"]
    assert abs((admitted_at(name) or 0) - time.time()) < 60
    assert response.json()["id"] == name
    assert rig.phase1.seen[0]["x-request-id"] == name
    assert "x-turnout-shadow" not in rig.phase1.seen[0]


async def test_nothing_that_concerns_one_connection_or_one_client_travels_on(rig: Rig) -> None:
    sent = {
        "connection": "keep-alive, x-hop",
        "x-hop": "1",
        "keep-alive": "timeout=9",
        "te": "trailers",
        "trailer": "x-later",
        "proxy-authorization": "Basic eDp5",
        "authorization": "Bearer secret",
        "cookie": "a=b",
        "x-forwarded-for": "10.0.0.1",
        "x-turnout-shadow": "1",
        "x-turnout-arm": "phase1",
    }
    response = await rig.predict(headers=sent)
    assert response.status_code == 200
    (seen,) = rig.phase1.seen
    assert set(seen) & set(sent) <= {"connection"}
    assert seen.get("connection", "keep-alive") == "keep-alive"
    assert set(response.headers) & (set(sent) - {"x-turnout-arm"}) == set()


@pytest.mark.parametrize("path", ["/docs/", "/v1/predict/", "/v2/"])
async def test_no_answer_redirects_to_the_host_that_a_client_names(rig: Rig, path: str) -> None:
    response = await rig.client.get(path, headers={"host": "elsewhere.example"})
    assert (response.status_code, response.headers.get("location")) == (404, None)


async def test_a_routing_key_is_the_gateways_affair_and_stays_there(rig: Rig) -> None:
    assert (await rig.predict(key="user-7")).status_code == 200
    assert rig.phase1.keys == [None]


async def test_a_clients_own_id_is_echoed(rig: Rig) -> None:
    response = await rig.predict(id="mine")
    assert response.json()["id"] == "mine"
    assert response.headers["x-request-id"] != "mine"


async def test_the_open_inference_protocol_in_json_says_the_same(rig: Rig) -> None:
    vectors = context(300)
    response = await rig.client.post(
        "/v2/models/lvm/infer",
        json={
            "id": "mine",
            "parameters": {"top_k": 3},
            "inputs": [
                {
                    "name": "CONTEXT",
                    "shape": [1, 300, 768],
                    "datatype": "FP32",
                    "data": vectors.ravel().tolist(),
                }
            ],
        },
    )
    answer = response.json()
    assert (answer["model_name"], answer["id"], answer["parameters"]["arm"]) == (
        "lvm",
        "mine",
        "phase2",
    )
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["NEIGHBOR_IDS"] == {
        "name": "NEIGHBOR_IDS",
        "shape": [1, 3],
        "datatype": "INT64",
        "data": [100, 101, 102],
    }
    np.testing.assert_allclose(outputs["PREDICTION"]["data"], vectors[-1], rtol=1e-6)
    assert response.headers["x-turnout-arm"] == "phase2"


async def test_the_binary_form_comes_back_binary(rig: Rig) -> None:
    message = write_request(Question(context(20), top_k=4))
    response = await rig.client.post(
        "/v2/models/lvm/infer", content=message.body, headers=dict(message.headers)
    )
    answer = read_answer(response.content, response.headers[HEADER_LENGTH])
    assert answer.ids.tolist() == [100, 101, 102, 103]
    np.testing.assert_array_equal(answer.vector, context(20)[-1])


# --- what bad input gets ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "the body is empty"),
        (b'{"context": [[1, 2', "truncated"),
        (b'{"context": []}', "context is empty"),
        (b'{"context": [[1, 2]]}', "context[0] has 2 numbers"),
        (b'{"contexts": []}', "unknown field"),
        (b'{"context": [[' + b"NaN," * 767 + b"NaN]]}", "NaN and Infinity"),
    ],
)
async def test_bad_input_gets_400_and_one_sentence(
    rig: Rig, content: bytes, complaint: str
) -> None:
    response = await rig.client.post("/v1/predict", content=content)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert complaint in response.json()["error"]
    assert response.headers["content-type"] == "application/json"
    assert admitted_at(response.headers["x-request-id"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/predict", 405),
        ("POST", "/v2/models/other/infer", 404),
        ("GET", "/v2/models/other", 404),
    ],
)
async def test_the_frameworks_own_refusals_look_like_ours(
    rig: Rig, method: str, path: str, status: int
) -> None:
    response = await rig.client.request(method, path)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert admitted_at(response.headers["x-request-id"])


@pytest.mark.parametrize("value", ["soon", "0", "-5", "nan", "inf", ""])
async def test_a_bad_deadline_gets_400(rig: Rig, value: str) -> None:
    response = await rig.predict(headers={"x-request-timeout-ms": value})
    assert response.status_code == 400
    assert "milliseconds above 0" in response.json()["error"]


async def test_a_compressed_body_says_the_same_as_a_plain_one(rig: Rig) -> None:
    plain = orjson.dumps(body(20, id="me"))
    expected = (await rig.client.post("/v1/predict", content=plain)).json()
    for name, pack in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        headers = {"content-encoding": name}
        response = await rig.client.post("/v1/predict", content=pack(plain), headers=headers)
        assert (response.status_code, response.json()) == (200, expected)


@pytest.mark.parametrize(
    ("encoding", "content", "status", "words"),
    [
        ("br", b"x", 415, "content-encoding is 'br': send it as gzip"),
        ("gzip", b"{}", 400, "the body is no gzip stream"),
        ("gzip", PACKED[:-1], 400, "gzip stream is cut off"),
        ("gzip", BOMB, 413, "longer than 64 MiB when its gzip"),
    ],
    ids=["unknown", "no stream", "cut off", "bomb"],
)
async def test_a_compressed_body_that_cannot_be_read_is_refused_by_name(
    rig: Rig, encoding: str, content: bytes, status: int, words: str
) -> None:
    headers = {"content-encoding": encoding}
    response = await rig.client.post("/v1/predict", content=content, headers=headers)
    assert response.status_code == status
    assert words in response.json()["error"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_long_gets_413_and_the_client_reads_it(
    tmp_path: Path, chunked: bool
) -> None:
    async with gateway(tmp_path, max_body_mb=1) as rig:
        big = b" " * (1_500_000)

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(big), 100_000):
                yield big[start : start + 100_000]

        content: Any = pieces() if chunked else big
        response = await rig.client.post("/v1/predict", content=content)
        assert response.status_code == 413
        assert "longer than 1 MiB" in response.json()["error"]


async def test_feedback_is_read_up_to_a_limit_of_its_own(rig: Rig) -> None:
    longest = {"id": "x" * 36, "target": [-1.2345678901234567e-100] * 768}
    answer = await rig.client.post("/v1/feedback", json=longest)
    assert answer.status_code == 404  # read, and about no request of this service
    response = await rig.client.post("/v1/feedback", content=b" " * (64 * 1024 + 1))
    assert response.status_code == 413
    assert "longer than 64 KiB" in response.json()["error"]


async def test_more_vectors_than_are_accepted_get_413(tmp_path: Path) -> None:
    async with gateway(tmp_path, max_context=50) as rig:
        response = await rig.predict(51)
        assert response.status_code == 413
        assert "51 vectors" in response.json()["error"]


async def test_the_policy_reject_answers_413_beyond_the_whole_table(tmp_path: Path) -> None:
    async with gateway(tmp_path, too_long="reject") as rig:
        assert (await rig.predict(500)).status_code == 200
        response = await rig.predict(501)
        assert response.status_code == 413
        assert "is 500" in response.json()["error"]
        assert (
            await rig.metric("gateway_requests_total", arm="-", reason="too-long", status="4xx")
            == 1
        )


async def test_feedback_without_a_store_says_so(rig: Rig) -> None:
    name = (await rig.predict()).headers["x-request-id"]
    response = await rig.client.post("/v1/feedback", json={"id": name, "target_id": 1})
    assert response.status_code == 503
    assert "TURNOUT_REDIS_URL" in response.json()["error"]


# --- failing backends ---------------------------------------------------------------------------


async def test_a_backend_that_errs_makes_a_502_that_names_it(rig: Rig) -> None:
    rig.phase1.status = 500
    response = await rig.predict()
    assert response.status_code == 502
    assert response.json() == {"error": "the phase1 backend answered with status 500"}
    assert response.headers["x-turnout-arm"] == "-"
    assert response.headers["x-turnout-assigned"] == "phase1"


@pytest.mark.parametrize("status", [302, 404, 429])
async def test_a_status_that_is_not_the_clients_fault_is_the_arms(rig: Rig, status: int) -> None:
    rig.phase1.status = status
    assert (await rig.predict()).status_code == 502


async def test_a_backend_that_cuts_the_connection_makes_a_502(rig: Rig) -> None:
    rig.phase1.cut = True
    response = await rig.predict()
    assert response.status_code == 502
    assert "the connection to the phase1 backend failed" in response.json()["error"]


async def test_an_answer_that_is_none_makes_a_502(rig: Rig) -> None:
    rig.phase1.junk = b'{"outputs": []}'
    response = await rig.predict()
    assert response.status_code == 502
    assert "invalid answer" in response.json()["error"]


async def test_a_backend_that_is_not_there_makes_a_502(tmp_path: Path) -> None:
    nowhere = {"phase1": "http://127.0.0.1:9", "phase2": "http://127.0.0.1:9"}
    async with gateway(tmp_path, backends=nowhere) as rig:
        response = await rig.predict()
        assert response.status_code == 502
        assert "the connection to the phase1 backend failed" in response.json()["error"]
        ready = await rig.client.get("/v2/health/ready")
        assert ready.status_code == 503
        assert ready.json() == {
            "ready": False,
            "live": True,
            "error": "not ready: phase1, phase2",
        }


@pytest.mark.parametrize("status", [400, 413])
async def test_what_a_backend_says_of_the_request_itself_is_passed_on(
    rig: Rig, status: int
) -> None:
    rig.phase1.status = status
    response = await rig.predict()
    assert response.status_code == status
    assert response.json() == {"error": f"phase1 says {status}"}


async def test_the_root_says_where_the_contract_is(rig: Rig) -> None:
    response = await rig.client.get("/")
    assert response.status_code == 404
    assert response.json()["error"] == "Not Found: GET /; what there is stands in /docs"


async def test_a_clients_deadline_is_honoured_and_passed_on(rig: Rig) -> None:
    rig.phase1.hold = asyncio.Event()
    began = time.monotonic()
    response = await rig.predict(headers={"x-request-timeout-ms": "200"})
    assert response.status_code == 504
    assert "did not answer within 0." in response.json()["error"]
    assert 0.19 < time.monotonic() - began < 2
    assert 1 <= int(rig.phase1.seen[0]["x-request-timeout-ms"]) <= 200


async def test_a_clients_deadline_is_never_extended_beyond_the_servers(tmp_path: Path) -> None:
    async with gateway(tmp_path, timeout_s=0.2) as rig:
        rig.phase1.hold = asyncio.Event()
        response = await rig.predict(headers={"x-request-timeout-ms": "60000"})
        assert response.status_code == 504
        assert int(rig.phase1.seen[0]["x-request-timeout-ms"]) <= 200


async def test_a_client_that_leaves_frees_the_backend(rig: Rig) -> None:
    gone = {"arm": "-", "reason": "tier", "status": "left"}
    before = await rig.metric("gateway_requests_total", **gone)
    rig.phase1.hold = asyncio.Event()
    async with sent(rig, body(20)):
        await until(lambda: rig.phase1.seen, "the backend is asked")
    await until(lambda: rig.phase1.left, "the backend's connection is closed")
    await rig.until_metric(before + 1, "gateway_requests_total", **gone)


async def test_a_body_is_not_kept_while_the_backend_works(rig: Rig) -> None:
    rig.phase1.hold = asyncio.Event()
    document, padding = body(20), 16 * 1024 * 1024
    tracemalloc.start()
    try:
        async with sent(rig, document, padding):
            await until(lambda: rig.phase1.seen, "the backend is asked")
            held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < padding / 2


# --- what it is ---------------------------------------------------------------------------------


async def test_health_and_metadata_are_those_of_the_protocol(rig: Rig) -> None:
    get = rig.client.get
    assert (await get("/v2/health/live")).json() == {"live": True}
    assert (await get("/v2/health/ready")).json() == {"ready": True, "live": True}
    assert (await get("/v2/models/lvm/ready")).json() == {"name": "lvm", "ready": True}
    assert (await get("/v2")).json()["extensions"] == ["binary_tensor_data"]
    model = (await get("/v2/models/lvm")).json()
    assert (model["name"], model["versions"]) == ("lvm", ["phase1-check", "phase2-check"])
    assert model["parameters"]["identities"]["phase2"] == {
        "checkpoint": "phase2-checkpoint",
        "bank": "a-bank",
    }
    assert model["inputs"] == [{"name": "CONTEXT", "datatype": "FP32", "shape": [1, -1, 768]}]


async def test_a_versions_paths_say_the_same_as_the_models(rig: Rig) -> None:
    get = rig.client.get
    assert (await get("/v2/models")).json() == {"models": ["lvm"]}
    index = (await rig.client.post("/v2/repository/index")).json()
    assert [one["version"] for one in index] == ["phase1-check", "phase2-check"]
    assert {one["state"] for one in index} == {"READY"}
    for end in ("", "/ready", "/config"):
        versioned = await get(f"/v2/models/lvm/versions/phase1-check{end}")
        assert versioned.json() == (await get(f"/v2/models/lvm{end}")).json()
        other = await get(f"/v2/models/lvm/versions/none{end}")
        assert other.status_code == 404
        assert '"lvm" has no version "none" in service' in other.json()["error"]


async def test_a_version_in_the_path_of_a_request_must_be_the_one_that_answers(rig: Rig) -> None:
    message = write_request(Question(context(20)))
    for version, status in (("phase1-check", 200), ("phase2-check", 404)):
        path = f"/v2/models/lvm/versions/{version}/infer"
        response = await rig.client.post(path, content=message.body, headers=dict(message.headers))
        assert response.status_code == status
    assert '"phase1-check" does: the context' in response.json()["error"]


async def test_statistics_count_the_protocols_requests(rig: Rig) -> None:
    async def stats() -> Any:
        document = (await rig.client.get("/v2/models/lvm/stats")).json()
        assert (await rig.client.get("/v2/models/stats")).json().keys() == document.keys()
        return document["model_stats"][0]["inference_stats"]

    message = write_request(Question(context(20)))
    before = await stats()
    path = "/v2/models/lvm/infer"
    await rig.client.post(path, content=message.body, headers=dict(message.headers))
    await rig.client.post(path, content=b"{}")
    rig.phase1.status = 500
    await rig.client.post(path, content=message.body, headers=dict(message.headers))
    after = await stats()
    assert after["success"]["count"] == before["success"]["count"] + 1
    assert after["fail"]["count"] == before["fail"]["count"] + 2
    assert after["compute_infer"]["ns"] > before["compute_infer"]["ns"]


async def test_a_deadline_in_the_body_is_in_microseconds_and_holds(rig: Rig) -> None:
    rig.phase1.hold = asyncio.Event()
    tensor = {"name": "CONTEXT", "shape": [1, 1, 768], "datatype": "FP32", "data": [0.5] * 768}
    asked = {"inputs": [tensor], "parameters": {"timeout": 200_000}}
    response = await rig.client.post("/v2/models/lvm/infer", json=asked)
    assert response.status_code == 504


async def test_the_time_that_requests_wait_for_their_handlers_is_measured(rig: Rig) -> None:
    before = await rig.metric("http_request_wait_seconds_count")
    for _ in range(3):
        await rig.predict()
    after = await rig.metric("http_request_wait_seconds_count")
    assert after - before == 4  # and the first look at the metrics
    assert 0 < await rig.metric("http_request_wait_seconds_sum") < 10


async def test_readiness_waits_for_every_active_backend(rig: Rig) -> None:
    rig.phase2.ready = False
    response = await rig.client.get("/v2/health/ready")
    assert (response.status_code, response.json()["error"]) == (503, "not ready: phase2")


async def test_the_document_of_the_api_is_served_with_its_example(rig: Rig) -> None:
    page = (await rig.client.get("/docs")).text
    assert "http://" not in page
    assert "https://" not in page
    wanted = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(wanted) == 3
    for path in wanted:
        assert (await rig.client.get(path)).status_code == 200, path
    document = (await rig.client.get("/openapi.json")).json()
    tried = 0
    for path, operations in document["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        example = content.get("application/json", {}).get("example")
        if example and path != "/v1/feedback":  # whose request id is made up
            named = path.replace("{name}", "lvm").replace("/versions/{version}", "")
            assert (await rig.client.post(named, json=example)).status_code == 200, path
            tried += 1
    assert tried == 3
    document = (await rig.client.get("/openapi.json")).json()
    operation = document["paths"]["/v1/predict"]["post"]
    example = operation["requestBody"]["content"]["application/json"]["example"]
    assert (await rig.client.post("/v1/predict", json=example)).status_code == 200


async def test_requests_are_measured_by_who_answered_and_why(rig: Rig) -> None:
    async def figures(arm: str) -> list[float]:
        return [
            await rig.metric("gateway_requests_total", arm=arm, reason="tier", status="2xx"),
            await rig.metric("gateway_request_seconds_count", arm=arm),
            await rig.metric("gateway_upstream_seconds_count", arm=arm, outcome="ok"),
        ]

    before = [await figures(arm) for arm in ARMS]
    await rig.predict(20)
    await rig.predict(300)
    after = [await figures(arm) for arm in ARMS]
    assert after == [[one + 1 for one in arm] for arm in before]


async def test_the_contract_lists_every_header_and_form_of_a_prediction_and_what_feedback_gives(
    rig: Rig,
) -> None:
    paths = (await rig.client.get("/openapi.json")).json()["paths"]
    common = {"x-request-timeout-ms", "x-context-length", "x-turnout-arm"}
    for path, own in (
        ("/v1/predict", set()),
        ("/v2/models/{name}/infer", {"name", "inference-header-content-length"}),
    ):
        operation = paths[path]["post"]
        assert {one["name"] for one in operation["parameters"]} == common | own
        assert "408" in operation["responses"]
    infer = paths["/v2/models/{name}/infer"]["post"]
    forms = {"application/json", "application/octet-stream"}
    assert set(infer["requestBody"]["content"]) == forms
    assert set(infer["responses"]["200"]["content"]) == forms
    given = set(paths["/v1/feedback"]["post"]["responses"])
    assert "202" in given
    assert "200" not in given
    wrong = await rig.predict(headers={"x-context-length": "19"})
    assert wrong.status_code == 400


async def test_the_docs_name_every_metric_and_every_reason(rig: Rig) -> None:
    docs = Path(__file__).parents[2].joinpath("docs/gateway.md").read_text()
    shown = (await rig.client.get("/metrics")).text
    families = set(re.findall(r"^# TYPE (\S+) (?!unknown)", shown, re.MULTILINE))
    ours = {
        name
        for name in families
        if not name.startswith(("python_", "process_")) and not name.endswith("_created")
    }
    assert len(ours) > 20
    assert {name for name in ours if f"`{name}`" not in docs} == set()
    assert {reason for reason in Reason if f"`{reason}`" not in docs} == set()
