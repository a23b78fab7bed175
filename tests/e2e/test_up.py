"""`turnout up`, as a user runs it: a real command, real processes, real sockets."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil
import pytest

TURNOUT = Path(sys.executable).with_name("turnout")
READY_WITHIN_S = 60.0


@dataclass
class Up:
    """A running `turnout up`, and what it printed."""

    process: subprocess.Popen[bytes]
    state: Path
    screen: Path
    gateway: str
    controller: str
    options: list[str]

    def family(self) -> list[psutil.Process]:
        me = psutil.Process(self.process.pid)
        return [me, *me.children(recursive=True)]


OURS = range(20_000, 32_000)
"""Below the ports that Linux gives to connections: what was free when it was asked stays so."""


def free_ports(in_a_row: int) -> list[int]:
    for _ in range(50):
        first = random.choice(OURS)  # noqa: S311 - no secret
        ports = list(range(first, first + in_a_row))
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in ports:
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return ports
    raise AssertionError(f"no {in_a_row} free ports in a row")


def launch(tmp_path: Path, environment: dict[str, str] | None = None) -> Up:
    gateway, controller, backend, _ = free_ports(4)
    ports = {"port": gateway, "controller-port": controller, "backend-port": backend}
    options = [f"--{name}={port}" for name, port in ports.items()]
    state, screen = tmp_path / "state", tmp_path / "screen"
    with screen.open("wb") as out:
        process = subprocess.Popen(
            [TURNOUT, "up", f"--state-dir={state}", *options],
            stdout=out,
            stderr=out,
            env={**os.environ, **(environment or {})},
        )
    up = Up(
        process,
        state,
        screen,
        f"http://127.0.0.1:{gateway}",
        f"http://127.0.0.1:{controller}",
        options,
    )
    until(lambda: "Ctrl-C stops everything" in screen.read_text(), up)
    return up


def until(condition: object, up: Up, within_s: float = READY_WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, up.screen.read_text()
        assert up.process.poll() is None, up.screen.read_text()
        time.sleep(0.05)


def gone(processes: list[psutil.Process], within_s: float) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    running = launch(tmp_path_factory.mktemp("up"))
    yield running
    family = running.family()
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(20) == 0
    assert gone(family, 0.5) == []


def example(length: int) -> bytes:
    return subprocess.run([TURNOUT, "example", str(length)], capture_output=True, check=True).stdout


def predict(up: Up, length: int) -> httpx2.Response:
    headers = {"content-type": "application/json"}
    url = f"{up.gateway}/v1/predict"
    return httpx2.post(url, content=example(length), headers=headers, timeout=30)


def test_before_any_rollout_every_length_is_answered_by_the_active_tier(up: Up) -> None:
    short, long = predict(up, 20), predict(up, 300)
    assert short.status_code == long.status_code == 200
    assert (short.json()["arm"], long.json()["arm"]) == ("phase1", "phase1")
    assert (short.json()["truncated"], long.json()["truncated"]) == (False, True)
    assert long.json()["tokens"] == 6000
    assert len(long.json()["neighbors"]) == 5


def test_the_screen_names_the_addresses_and_what_to_try_next(up: Up) -> None:
    screen = up.screen.read_text()
    for words in (up.gateway, up.controller, "rollout", "start", "predict"):
        assert words in screen


def test_every_process_tells_its_health_and_its_metrics(up: Up) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/metrics"):
        assert httpx2.get(up.gateway + path).status_code == 200
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert httpx2.get(up.controller + path).status_code == 200


def test_every_log_is_json_one_event_a_line(up: Up) -> None:
    logs = sorted((up.state / "logs").glob("*.jsonl"))
    names = [log.stem for log in logs]
    assert names == ["controller", "gateway", "phase1", "phase2", "valkey"]
    for log in logs:
        for line in log.read_text().splitlines():
            assert json.loads(line)["event"]


def test_a_second_up_on_the_same_state_directory_says_so(up: Up) -> None:
    done = subprocess.run(
        [TURNOUT, "up", f"--state-dir={up.state}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"already up in {up.state}: pid {up.process.pid}" in done.stdout


def test_a_port_in_use_is_named(up: Up, tmp_path: Path) -> None:
    done = subprocess.run(
        [TURNOUT, "up", f"--state-dir={tmp_path}", *up.options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert up.gateway.removeprefix("http://") + " (for gateway)" in done.stdout
    assert not (tmp_path / "logs").exists()


def test_a_part_that_dies_is_restarted_and_the_screen_says_why(up: Up) -> None:
    gateway = next(p for p in up.family() if "router" in p.cmdline())
    gateway.kill()
    until(lambda: "killed by SIGKILL" in up.screen.read_text(), up)
    until(lambda: answers(f"{up.gateway}/v2/health/ready"), up)
    assert predict(up, 20).status_code == 200


def answers(url: str) -> bool:
    try:
        return httpx2.get(url).status_code == 200
    except httpx2.TransportError:
        return False


def test_kill_9_of_the_supervisor_leaves_no_process_of_ours_after_5_s(tmp_path: Path) -> None:
    up = launch(tmp_path)
    family = up.family()
    assert len(family) == 6
    os.kill(up.process.pid, signal.SIGKILL)
    up.process.wait()
    assert gone(family, 5.0) == []


def test_a_demo_that_is_interrupted_leaves_no_process_and_no_directory(tmp_path: Path) -> None:
    screen = tmp_path / "screen"
    with screen.open("wb") as out:
        process = subprocess.Popen(
            [TURNOUT, "demo", f"--out={tmp_path / 'out'}"],
            stdout=out,
            stderr=out,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
    up = Up(process, tmp_path, screen, "", "", [])
    until(lambda: "how a rollout works" in screen.read_text(), up)
    family = up.family()
    assert len(family) == 6
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 1
    assert gone(family, 0.5) == []
    assert list(tmp_path.glob("turnout-demo-*")) == []
    assert "nothing is left running" in screen.read_text()


def test_a_store_that_is_down_keeps_no_gateway_from_answering_and_is_named(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    up = launch(tmp_path, {"TURNOUT_REDIS_URL": f"redis://:secret@127.0.0.1:{port}/0"})
    try:
        until(lambda: "No rollout can move" in up.screen.read_text(), up)
        assert f"127.0.0.1:{port}" in up.screen.read_text()
        assert "secret" not in up.screen.read_text()
        assert predict(up, 20).json()["arm"] == "phase1"
    finally:
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(20) == 0
