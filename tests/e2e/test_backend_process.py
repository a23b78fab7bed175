"""A model server as a real process on a real socket."""

import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from module_process import DEADLINE_S, ModuleProcess, started

from backends.answer import read_answer
from backends.engine import library
from backends.protocol import (
    HEADER_LENGTH,
    Floats,
    Message,
    Request,
    write_request,
)

WINDOW = 500
VECTORS = np.random.default_rng(1).standard_normal((600, 768)).astype(np.float32)


@contextlib.contextmanager
def running(folder: Path, **settings: str) -> Iterator[ModuleProcess]:
    """`python -m backends` on a bank of 200 vectors."""
    bank = folder / "bank.npz"
    if not bank.exists():
        np.savez(bank, vectors=VECTORS[:200], ids=np.arange(200))
    wanted = {"ARM": "phase2", "PORT": "0", "MAX_LENGTH": str(WINDOW), "BANK": str(bank)}
    environment = {f"BACKEND_{name}": value for name, value in {**wanted, **settings}.items()}
    with started("backends", folder / f"log-{time.monotonic_ns()}", **environment) as process:
        yield process


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleProcess]:
    with running(tmp_path_factory.mktemp("backend")) as backend:
        backend.event("ready")
        yield backend


@pytest.fixture(scope="module")
def client(backend: ModuleProcess) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=backend.event("listening")["url"], timeout=DEADLINE_S) as client:
        yield client


def test_500_vectors_in_binary_are_answered_over_a_real_socket(client: httpx2.Client) -> None:
    message = write_request(Request(VECTORS[:550]))
    answer = client.post(
        "/v2/models/lvm/infer", content=message.body, headers=dict(message.headers)
    )
    assert answer.status_code == 200
    found = read_answer(answer.content, answer.headers[HEADER_LENGTH])
    assert (found.length, found.window, found.truncated) == (550, WINDOW, True)
    assert client.get("/v2/models/lvm").json()["parameters"]["weights"] == "untrained weights"


def test_an_answer_tells_what_known_prefixes_did_and_an_id_gives_its_vector(
    client: httpx2.Client,
) -> None:
    def told(vectors: Floats) -> str | None:
        message = write_request(Request(vectors))
        answer = client.post(
            "/v2/models/lvm/infer", content=message.body, headers=dict(message.headers)
        )
        return read_answer(answer.content, answer.headers[HEADER_LENGTH]).prefix

    fresh = VECTORS[::-1]
    assert [told(fresh[:n]) for n in (40, 41, 550)] == ["miss", "hit", "slid"]
    found = client.get("/v2/models/lvm/vectors/7").json()["vector"]
    np.testing.assert_array_equal(np.array(found, np.float32), VECTORS[7])


def spoilt(message: Message, **headers: str) -> Message:
    return Message(message.body, {**message.headers, **headers})


SOUND = write_request(Request(VECTORS[:30], id="x", top_k=3))
NAN = Request(np.full((2, 768), np.nan, np.float32))
BODIES = {
    "binary": SOUND,
    "vectors that are asked for again": SOUND,
    "one more vector": write_request(Request(VECTORS[:31])),
    "JSON": Message(b'{"inputs": []}', {"content-type": "application/json"}),
    "no JSON": Message(b"{", {}),
    "not finite": write_request(NAN),
    "too many vectors": write_request(Request(np.zeros((2001, 768), np.float32))),
    "a length beyond the body": spoilt(SOUND, **{HEADER_LENGTH: "99999999"}),
    "a deadline that is none": spoilt(SOUND, **{"x-request-timeout-ms": "soon"}),
    "a deadline that is over": spoilt(SOUND, **{"x-request-timeout-ms": "0.0001"}),
    "another encoding": spoilt(SOUND, **{"content-encoding": "br"}),
    "a tensor alone": Message(VECTORS[:3].tobytes(), {HEADER_LENGTH: "0"}),
}


@pytest.mark.parametrize("message", BODIES.values(), ids=BODIES)
def test_the_short_way_and_the_long_one_give_the_same_answer(
    client: httpx2.Client, message: Message
) -> None:
    version = client.get("/v2/models/lvm").json()["versions"][0]
    path = "/v2/models/lvm/infer"
    _, short, long = (  # what is known of the context from the first is known to both others
        client.post(path, content=message.body, headers={**message.headers, "x-request-id": "me"})
        for path in (path, path, f"/v2/models/lvm/versions/{version}/infer")
    )
    kept = [
        {name: value for name, value in answer.headers.items() if name != "date"}
        for answer in (short, long)
    ]
    assert (short.status_code, kept[0]) == (long.status_code, kept[1])
    if short.status_code != 504:  # it says after how many seconds
        assert short.content == long.content


def test_requests_that_wait_for_clients_that_left_are_dropped(
    backend: ModuleProcess, client: httpx2.Client
) -> None:
    url = httpx2.URL(backend.event("listening")["url"])
    message = write_request(Request(VECTORS[:500]))
    before = engine_runs(client)
    for _ in range(10):
        with socket.create_connection((url.host, url.port or 0)) as connection:
            connection.sendall(head_of(message) + message.body)
    limit = time.monotonic() + DEADLINE_S
    while metric(client, "backend_in_flight_requests") and time.monotonic() < limit:
        time.sleep(0.02)
    client.post("/v2/models/lvm/infer", content=message.body, headers=dict(message.headers))
    assert engine_runs(client) - before < 10


def test_a_client_that_leaves_while_it_sends_is_counted_and_logs_no_error(
    backend: ModuleProcess, client: httpx2.Client
) -> None:
    url = httpx2.URL(backend.event("listening")["url"])
    message = write_request(Request(VECTORS[:500]))
    with socket.create_connection((url.host, url.port or 0)) as connection:
        connection.sendall(head_of(message) + message.body[:1000])
    left = 'http_request_duration_seconds_count{method="POST",route="/v2/models/{name}/infer",'
    limit = time.monotonic() + DEADLINE_S
    while not metric(client, left + 'status="499"') and time.monotonic() < limit:
        assert not [line for line in backend.log() if line["level"] == "error"]
        time.sleep(0.02)
    assert metric(client, 'backend_errors_total{kind="client_left"}')
    assert not [line for line in backend.log() if line["level"] == "error"]


def head_of(message: Message, more: str = "") -> bytes:
    return (
        f"POST /v2/models/lvm/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(message.body)}\r\n"
        f"{HEADER_LENGTH}: {message.headers[HEADER_LENGTH]}\r\n{more}\r\n"
    ).encode()


def metric(client: httpx2.Client, start: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(start))


def engine_runs(client: httpx2.Client) -> float:
    return metric(client, "backend_engine_seconds_count")


def test_the_port_in_use_is_named_in_one_line_and_the_exit_is_1(
    backend: ModuleProcess, tmp_path: Path
) -> None:
    port = httpx2.URL(backend.event("listening")["url"]).port
    with running(tmp_path, PORT=str(port)) as second:
        assert second.process.wait(DEADLINE_S) == 1
        (line,) = second.log()
        assert line["event"] == "cannot listen"
        assert line["address"] == f"127.0.0.1:{port}"
        assert line["reason"] == "Address already in use"


def test_on_a_unix_socket_it_answers_gives_way_to_no_second_server_and_cleans_up(
    tmp_path: Path,
) -> None:
    path = tmp_path / "arm.sock"
    with socket.socket(socket.AF_UNIX) as dead:  # what a server that was killed leaves behind
        dead.bind(str(path))
    host = f"unix:{path}"
    with running(tmp_path, HOST=host) as backend:
        assert backend.event("listening")["url"] == host
        backend.event("ready")
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(path))) as client:
            for length in (20, 500):
                message = write_request(Request(VECTORS[:length]))
                answer = client.post(
                    "http://localhost/v2/models/lvm/infer",
                    content=message.body,
                    headers=dict(message.headers),
                    timeout=DEADLINE_S,
                )
                assert answer.status_code == 200
        with running(tmp_path, HOST=host) as second:
            assert second.process.wait(DEADLINE_S) == 1
            line = second.event("cannot listen")
            assert (line["address"], line["reason"]) == (host, "Address already in use")
        assert backend.end() == 0
        assert not path.exists()


def test_a_missing_bank_and_a_wrong_setting_end_in_their_names_and_exit_1(tmp_path: Path) -> None:
    with (
        running(tmp_path, BANK="/nowhere.npz") as without_bank,
        running(tmp_path, PORT="x") as wrong,
    ):
        assert without_bank.process.wait(DEADLINE_S) == 1
        assert "/nowhere.npz" in without_bank.event("cannot load")["reason"]
        assert without_bank.log()[-1]["event"] == "cannot load", "the last word says why"
        assert wrong.process.wait(DEADLINE_S) == 1
        assert wrong.event("wrong setting")["setting"] == "BACKEND_PORT"


def test_products_in_bfloat16_are_named_in_the_log_and_the_metadata(tmp_path: Path) -> None:
    if not library.VARIANTS[library.DOTS] <= library.processor_flags():
        pytest.skip("this processor has no AVX512_BF16")
    if not (library.FOLDER / f"gru-{library.DOTS}.so").exists():
        pytest.skip("the compiler that installed this does not know AVX512_BF16")
    with running(tmp_path, PRECISION="bfloat16") as backend:
        assert backend.event("ready")["precision"] == "bfloat16"
        url = backend.event("listening")["url"]
        told = httpx2.get(f"{url}/v2/models/lvm", timeout=DEADLINE_S).json()["parameters"]
        assert (told["precision"], told["engine"]) == ("bfloat16", f"compiled-{library.DOTS}")


def test_a_precision_that_the_engine_lacks_ends_in_its_name_and_exit_1(tmp_path: Path) -> None:
    with running(tmp_path, PRECISION="bfloat16", ENGINE="torch") as backend:
        assert backend.process.wait(DEADLINE_S) == 1
        assert "BACKEND_PRECISION=bfloat16" in backend.event("cannot load")["reason"]


def test_sigterm_under_a_request_lets_it_finish_and_exits_0(tmp_path: Path) -> None:
    with running(tmp_path) as backend:
        backend.event("ready")
        url = httpx2.URL(backend.event("listening")["url"])
        message = write_request(Request(VECTORS[:500]))
        with socket.create_connection((url.host, url.port or 0), DEADLINE_S) as connection:
            connection.sendall(head_of(message, "expect: 100-continue\r\n"))
            assert connection.recv(64).startswith(b"HTTP/1.1 100")  # it waits for the body now
            backend.process.send_signal(signal.SIGTERM)
            connection.sendall(message.body)
            assert connection.recv(64).startswith(b"HTTP/1.1 200")
        assert backend.process.wait(DEADLINE_S) == 0
        assert backend.log()[-1]["event"] == "stopped"
