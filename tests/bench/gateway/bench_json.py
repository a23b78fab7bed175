"""Section 4: 300 vectors as JSON: the length decision, and how long the event loop stands still."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import orjson
from bench_figures import NOTHING, Asked, Figure, Section, single
from bench_parties import Behind, turnout
from bench_process import ROOT, BenchError, Server
from bench_speed import contexts
from bench_start import GATEWAY_CORE, HERE, pinned
from bench_statistics import median, quantile
from bench_wire import posted

LENGTH: Final = 300
PROBE_S: Final = 0.001
PREDICT: Final = "/v1/predict"


def section(behind: Behind, logs: Path, number: int, requests: int) -> Section:
    """Time the decision alone, then watch a gateway that gets such bodies one after the other."""
    body = orjson.dumps({"context": contexts(LENGTH)}, option=orjson.OPT_SERIALIZE_NUMPY)
    decided = _decisions(body, logs)
    stalls: list[float] = []
    idle: list[float] = []
    probes: list[float] = []
    with turnout(behind, logs, "turnout-watched", script="bench_watched.py") as server:
        for turn in range(number + 1):
            _longest_stall(server)
            time.sleep(0.2)
            quiet = _longest_stall(server)
            probed = _probed(server, body, requests)
            if turn:  # the first one warms up
                idle.append(quiet)
                stalls.append(_longest_stall(server))
                probes += probed
    what = f"{LENGTH} vectors as JSON ({len(body) / 1e6:.1f} MB), {number * requests} in a row"
    asked = {"the length decision": Asked(at_most=3), "longest stall of all": Asked(at_most=5)}
    found = {
        "the length decision": median(decided),
        "longest stall of a round": median(stalls),
        "longest stall of all": single(max(stalls)),
        "the same with no load": single(max(idle)),
        "/v2/health/live beside it": median(probes),
        "p99 of that": quantile(probes, 0.99),
    }
    figures = (
        Figure("turnout", name, spread.scaled(1e3), "ms", asked.get(name, NOTHING))
        for name, spread in found.items()
    )
    return Section(4, what, tuple(figures))


def _decisions(body: bytes, folder: Path) -> Sequence[float]:
    file = folder / "context.json"
    file.write_bytes(body)
    done = subprocess.run(
        pinned(GATEWAY_CORE, (sys.executable, "-P", str(HERE / "bench_decision.py"), str(file))),
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"the length decision died: {done.stderr[-600:]}")
    told = json.loads(done.stdout)
    if told["length"] != LENGTH:
        raise BenchError(f"the length decision found {told['length']} vectors, not {LENGTH}")
    seconds: list[float] = told["seconds"]
    return seconds[1:]


def _longest_stall(server: Server) -> float:
    """Ask for the longest stall since the last time, in seconds."""
    with server.connect() as connection:
        return float(connection.get("/bench/stall").body)


def _probed(server: Server, body: bytes, requests: int) -> list[float]:
    """Send `requests` bodies; meanwhile time `/v2/health/live` every millisecond."""
    request = posted(body, {"content-type": "application/json"}, PREDICT)
    taken: list[float] = []
    over = threading.Event()

    def probe() -> None:
        with server.connect() as connection:
            while not over.wait(PROBE_S):
                taken.append(connection.get("/v2/health/live").seconds)

    probing = threading.Thread(target=probe)
    probing.start()
    try:
        with server.connect() as connection:
            for _ in range(requests):
                connection.post(request)
    finally:
        over.set()
        probing.join()
    return taken
