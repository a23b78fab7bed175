"""Section 6: memory of requests in flight, and of 100,000 requests in a row."""

import threading
import time
from pathlib import Path
from typing import Final

import orjson
from bench_figures import Asked, Figure, Section, single
from bench_parties import Behind, Party, turnout
from bench_process import BenchError, Server
from bench_speed import contexts, generate
from bench_start import Backend
from bench_statistics import line, median
from bench_wire import posted

IN_FLIGHT: Final = 32
LONG: Final = 500
BODY_MB: Final = LONG * 768 * 4 / 1e6
HOLD_MS: Final = 3000
LOOK_S: Final = 0.01
BATCHES: Final = 10
WARM_SHARE: Final = 5
"""As many requests are sent before the first weighing as this part of all."""
FLAT_MB: Final = 4.0
"""What "flat" means: a growth that 100,000 requests do not show."""


def section(behind: Behind, logs: Path, number: int, requests: int) -> Section:
    """Weigh a gateway that holds requests for a slow backend, then one that serves many."""
    held = [_held(behind, logs, turn) for turn in range(number)]
    with turnout(behind, logs, "turnout-many") as server:
        growth, size = _many(server, logs, requests)
    what = "for a request in flight, of its body"
    flight = Figure("turnout", what, median(held), "x", Asked(at_most=1.2))
    title = (
        f"Resident memory: {IN_FLIGHT} requests of {BODY_MB:.1f} MB at once; {requests:,} of 30 KB"
    )
    return Section(6, title, (flight, growth, size))


def _held(behind: Behind, logs: Path, turn: int) -> float:
    """Fill a new gateway with requests that a backend is slow to answer: MB more for each MB."""
    with turnout(behind, logs, f"turnout-held-{turn}") as server:
        party = Party("turnout", server)
        generate(server, party.ask(contexts(10)), logs, "--requests", "500")
        generate(server, party.ask(contexts(LONG)), logs, "--requests", "1", "--connections", "1")
        before = server.resident_mb()
        for backend in (behind.phase1, behind.phase2):
            _hold(backend, HOLD_MS)
        try:
            grown = _most(server, behind.phase1, party, logs) - before
        finally:
            for backend in (behind.phase1, behind.phase2):
                _hold(backend, 0)
    return grown / (IN_FLIGHT * BODY_MB)


def _most(server: Server, backend: Backend, party: Party, logs: Path) -> float:
    """Give the most MB that the server takes while it holds all requests.

    Raises BenchError when they were never all at the backend together.
    """
    options = ("--requests", str(IN_FLIGHT), "--connections", str(IN_FLIGHT))
    request = party.ask(contexts(LONG))
    load = threading.Thread(target=generate, args=(server, request, logs, *options))
    load.start()
    most, waiting = 0.0, 0
    while load.is_alive():
        most = max(most, server.resident_mb())
        with backend.connect() as connection:
            waiting = max(waiting, int(orjson.loads(connection.get("/counts").body)["waiting"]))
        time.sleep(LOOK_S)
    load.join()
    if waiting < IN_FLIGHT:
        raise BenchError(f"only {waiting} of {IN_FLIGHT} requests were at the backend at once")
    return most


def _hold(backend: Backend, milliseconds: float) -> None:
    with backend.connect() as connection:
        connection.post(posted(b"", {"x-bench-delay-ms": str(milliseconds)}, "/hold"))


def _many(server: Server, logs: Path, requests: int) -> tuple[Figure, Figure]:
    """Give the growth over 100,000 requests, from a line through the weights, and the last one."""
    request = Party("turnout", server).ask(contexts(10))
    generate(server, request, logs, "--requests", str(requests // WARM_SHARE))
    sent: list[float] = []
    weights: list[float] = []
    for batch in range(1, BATCHES + 1):
        generate(server, request, logs, "--requests", str(requests // BATCHES))
        sent.append(batch * requests / BATCHES)
        weights.append(server.resident_mb())
    growth = line(sent, weights).slope.scaled(1e5)
    return (
        Figure("turnout", "growth over 100,000", growth, "MB", Asked(at_most=FLAT_MB)),
        Figure("turnout", "in the end", single(weights[-1]), "MB"),
    )
