"""The gateway as a real process, in front of a real model server."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from module_process import DEADLINE_S, ModuleProcess, started

VECTORS = np.random.default_rng(1).standard_normal((600, 768)).astype(np.float32)


@pytest.fixture(scope="module")
def backend_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("backend")
    np.savez(folder / "bank.npz", vectors=VECTORS, ids=np.arange(600))
    settings = {"ARM": "both", "PORT": "0", "MAX_LENGTH": "500", "BANK": str(folder / "bank.npz")}
    environment = {f"BACKEND_{name}": value for name, value in settings.items()}
    with started("backends", folder / "log", **environment) as backend:
        url = str(backend.event("listening")["url"])
        backend.event("ready")
        yield url


@contextlib.contextmanager
def gateway(folder: Path, backend: str, **environment: str) -> Iterator[ModuleProcess]:
    both = json.dumps({"phase1": backend, "phase2": backend})
    tiers = '[{"arm": "phase1", "max_length": 100}, {"arm": "phase2", "max_length": 500}]'
    settings = {
        "ROUTER_PORT": "0",
        "ROUTER_STATE_DIR": str(folder),
        "ROUTER_BACKENDS": both,
        "TURNOUT_TIERS": tiers,
        **environment,
    }
    with started("router", folder / "log", **settings) as process:
        yield process


def test_it_answers_logs_json_and_ends_cleanly_with_what_was_under_way_answered(
    tmp_path: Path, backend_url: str
) -> None:
    with gateway(tmp_path, backend_url) as process:
        url = process.event("listening")["url"]
        with httpx2.Client(base_url=url, timeout=DEADLINE_S) as client:
            for length, arm in ((20, "phase1"), (300, "phase2")):
                response = client.post("/v1/predict", json={"context": VECTORS[:length].tolist()})
                assert (response.status_code, response.json()["arm"]) == (200, arm)
                assert len(response.json()["neighbors"]) == 10
                assert response.headers["x-turnout-checkpoint"]
            late: list[int] = []
            context = {"context": VECTORS[:500].tolist()}
            asking = threading.Thread(
                target=lambda: late.append(client.post("/v1/predict", json=context).status_code)
            )
            asking.start()
            limit = time.monotonic() + DEADLINE_S
            while "backend_in_flight_requests 1" not in httpx2.get(f"{backend_url}/metrics").text:
                assert asking.is_alive(), "the request was answered before it was seen"
                assert time.monotonic() < limit
            assert process.end() == 0
            asking.join(DEADLINE_S)
            assert late == [200]
        assert {line["service"] for line in process.log()} == {"gateway"}


def test_without_keys_it_says_so_at_start_and_with_wrong_ones_it_does_not_start(
    tmp_path: Path,
) -> None:
    nowhere = "http://127.0.0.1:9"
    with gateway(tmp_path, nowhere) as process:
        told = process.event(
            "no API keys: everybody who reaches this address may predict, send feedback and "
            "override; ROUTER_KEYS_FILE changes that"
        )
        assert (told["level"], told["host"]) == ("info", "127.0.0.1")
    with gateway(tmp_path, nowhere, ROUTER_KEYS_FILE=str(tmp_path / "none")) as process:
        assert process.process.wait(DEADLINE_S) == 1
        assert "none cannot be read" in process.log()[-1]["reason"]


def test_on_an_address_that_others_reach_it_does_not_start_without_keys_unless_told_to(
    tmp_path: Path,
) -> None:
    nowhere, everywhere = "http://127.0.0.1:9", "0.0.0.0"  # noqa: S104 - what must be refused
    with gateway(tmp_path, nowhere, ROUTER_HOST=everywhere) as process:
        assert process.process.wait(DEADLINE_S) == 1
        assert "set ROUTER_KEYS_FILE, or ROUTER_OPEN=true" in process.log()[-1]["reason"]
    with gateway(tmp_path, nowhere, ROUTER_HOST=everywhere, ROUTER_OPEN="true") as process:
        process.event("listening")
        assert process.log()[0]["level"] == "warning"


def test_a_wrong_setting_ends_it_with_one_sentence(tmp_path: Path) -> None:
    with gateway(tmp_path, "ftp://nowhere") as process:
        assert process.process.wait(DEADLINE_S) == 1
        (line, *_) = process.log()
        assert (line["event"], line["level"]) == ("wrong setting", "critical")
        assert "no http:// or https:// URL" in line["reason"]
        assert line["setting"] == "ROUTER_BACKENDS"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ROUTER_KEY_FILE", "keys.txt", "did you mean ROUTER_KEYS_FILE?"),
        ("TURNOUT_TIERS", "x", "it must be JSON"),
        ("ROUTER_STATE_DIR", "/proc/none", "it must be a folder to write in"),
    ],
)
def test_what_it_cannot_start_with_is_one_line_under_its_own_name(
    tmp_path: Path, name: str, value: str, words: str
) -> None:
    with gateway(tmp_path, "http://127.0.0.1:9", **{name: value}) as process:
        assert process.process.wait(DEADLINE_S) == 1
        (line,) = process.log()
        assert (line["level"], line["setting"]) == ("critical", name)
        assert words in line["reason"]


def test_gateway_and_model_server_may_both_be_on_unix_sockets(tmp_path: Path) -> None:
    np.savez(tmp_path / "bank.npz", vectors=VECTORS, ids=np.arange(600))
    arm, front = tmp_path / "arm.sock", tmp_path / "front.sock"
    settings = {
        "ARM": "both",
        "HOST": f"unix:{arm}",
        "PORT": "0",
        "MAX_LENGTH": "500",
        "BANK": str(tmp_path / "bank.npz"),
    }
    environment = {f"BACKEND_{name}": value for name, value in settings.items()}
    with (
        started("backends", tmp_path / "backend-log", **environment) as backend,
        gateway(tmp_path, f"unix:{arm}", ROUTER_HOST=f"unix:{front}") as process,
    ):
        backend.event("ready")
        assert process.event("listening")["url"] == f"unix:{front}"
        transport = httpx2.HTTPTransport(uds=str(front))
        with httpx2.Client(transport=transport, timeout=DEADLINE_S) as client:
            for length, arm_ in ((1, "phase1"), (20, "phase1"), (300, "phase2")):
                body = {"context": VECTORS[:length].tolist()}
                response = client.post("http://localhost/v1/predict", json=body)
                assert (response.status_code, response.json()["arm"]) == (200, arm_)
        assert process.end() == 0


def test_a_gateway_without_a_store_says_what_it_cannot_do(tmp_path: Path) -> None:
    with gateway(tmp_path, "http://127.0.0.1:9") as process:
        process.event("listening")
        (told,) = [line for line in process.log() if line["event"].startswith("no store")]
        assert told["level"] == "warning"
        assert "TURNOUT_REDIS_URL changes that" in told["event"]
    with gateway(
        tmp_path, "http://127.0.0.1:9", TURNOUT_REDIS_URL="redis://127.0.0.1:9"
    ) as process:
        process.event("listening")
        assert not [line for line in process.log() if line["event"].startswith("no store")]


def test_it_says_at_start_which_file_stops_candidate_traffic(tmp_path: Path) -> None:
    with gateway(tmp_path, "http://127.0.0.1:9") as process:
        told = process.event("starting")
        assert told["state_dir"] == str(tmp_path)
        assert told["hold_file"] == str(tmp_path / "hold-at-incumbent")


def test_a_port_in_use_ends_it_with_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with gateway(tmp_path, "http://127.0.0.1:9", ROUTER_PORT=port) as process:
            assert process.process.wait(DEADLINE_S) == 1
            assert process.event("cannot listen")["address"] == f"127.0.0.1:{port}"
