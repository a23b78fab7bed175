"""Sections 1, 2, 3 and 5: what a gateway adds to an answer's time, and how much one core carries.

The same backend is asked directly and through every gateway, in turns. Latency is one connection's,
from a blocking socket: a turn gives the median of its requests, so that a round is one figure each.
Throughput is of 16 connections kept busy; how much of its core a gateway used in that time says
whether it was the gateway that was measured.
"""

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import psutil
from bench_figures import Asked, Figure, Section
from bench_parties import Party
from bench_process import ROOT, BenchError, Server
from bench_start import HERE, OTHER_CORE, pinned
from bench_statistics import added, added_ratio, median, paired_ratio, rounds
from bench_wire import Posted

from backends.answer import read_answer
from backends.protocol import (
    Floats,
)

DIRECT, OURS, ENVOY, RIVAL = "nothing", "turnout", "Envoy", "LiteLLM"
CONNECTIONS: Final = 16
WARM: Final = 3
"""Requests of every turn that are not counted: caches hold what the others left."""
GENERATOR_LIMIT_S: Final = 300

Rounds = dict[str, list[float]]


def contexts(length: int) -> Floats:
    """Make a context [length, 768] of float32 vectors of length 1."""
    vectors = np.random.default_rng(length).standard_normal((length, 768), dtype=np.float32)
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def check_same_answer(parties: Sequence[Party]) -> None:
    """Ask everybody the same. Raises BenchError for another prediction than the backend's."""
    wanted = np.eye(1, 768, dtype=np.float32)[0]
    for party in parties:
        for length in (10, 500):
            with party.server.connect() as connection:
                answer = connection.post(party.ask(contexts(length)))
            header = answer.headers.get("inference-header-content-length")
            if not np.array_equal(read_answer(answer.body, header).vector, wanted):
                raise BenchError(f"{party.who} does not give the backend's answer")


# --- latency --------------------------------------------------------------------------------------


def latency(parties: Sequence[Party], length: int, number: int, turn_s: float) -> Rounds:
    """Time requests one after the other; a turn is its median, in seconds."""
    found: Rounds = defaultdict(list)
    requests = {party.who: party.ask(contexts(length)) for party in parties}
    for order in rounds(parties, number):
        for party in order:
            found[party.who].append(_turn(party.server, requests[party.who], turn_s))
    return found


def _turn(server: Server, request: Posted, turn_s: float) -> float:
    taken: list[float] = []
    with server.connect() as connection:
        for _ in range(WARM):
            connection.post(request)
        end = time.monotonic() + turn_s
        while time.monotonic() < end or not taken:
            taken.append(connection.post(request).seconds)
    return float(np.median(taken))


def latency_section(number: int, title: str, found: Rounds, asked: Asked) -> Section:
    """Show each median, what it adds to the direct one, and ours against Envoy's."""
    direct = found[DIRECT]
    figures: list[Figure] = []
    for who, seconds in found.items():
        figures.append(Figure(who, "an answer", median(seconds).scaled(1e3), "ms"))
        if who != DIRECT:
            figures.append(Figure(who, "added", added(seconds, direct).scaled(1e3), "ms"))
    if ENVOY in found:
        ratio = added_ratio(found[OURS], found[ENVOY], direct)
        figures.append(Figure(OURS, f"added, of what {ENVOY} adds", ratio, "x", asked))
    return Section(number, title, tuple(figures))


# --- throughput -----------------------------------------------------------------------------------


def generate(server: Server, request: Posted, folder: Path, *options: str) -> dict[str, float]:
    """Have `bench_generator.py` load a server. Raises BenchError for any answer that is not 200."""
    file = folder / "request"
    file.write_bytes(request.head + request.body)
    script = str(HERE / "bench_generator.py")
    command = (sys.executable, "-P", script, "--port", str(server.port), "--request", str(file))
    done = subprocess.run(
        pinned(OTHER_CORE, (*command, *options)),
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=GENERATOR_LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"the load generator died: {done.stderr[-600:]}")
    told: dict[str, float] = json.loads(done.stdout)
    if told["bad"]:
        raise BenchError(f"{server.name}: {told['bad']:g} of {told['answers']:g} answers not 200")
    return told


def throughput(
    parties: Sequence[Party], number: int, turn_s: float, folder: Path
) -> tuple[Rounds, Rounds]:
    """Count answers a second at 30 KB, and the share of a core that each used, by rounds."""
    answers: Rounds = defaultdict(list)
    busy: Rounds = defaultdict(list)
    options = ("--connections", str(CONNECTIONS), "--seconds", str(turn_s))
    for order in rounds(parties, number):
        for party in order:
            before = cpu_seconds(party.server)
            told = generate(party.server, party.ask(contexts(10)), folder, *options)
            busy[party.who].append((cpu_seconds(party.server) - before) / told["seconds"])
            answers[party.who].append(told["answers"] / told["seconds"])
    return answers, busy


def cpu_seconds(server: Server) -> float:
    """Sum the CPU time of a server and its children."""
    whole = psutil.Process(server.popen.pid)
    each = [whole, *whole.children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in each)


def throughput_section(answers: Rounds, busy: Rounds) -> Section:
    """Show answers a second, the core's use, and ours against Envoy's."""
    figures: list[Figure] = []
    for who, rate in answers.items():
        figures.append(Figure(who, "answers", median(rate), "/s"))
        if who != DIRECT:
            figures.append(Figure(who, "of its core", median(busy[who]).scaled(100), "%"))
    if ENVOY in answers:
        ratio = paired_ratio(answers[OURS], answers[ENVOY])
        asked = Asked(at_least=0.5, aim=0.8)
        figures.append(Figure(OURS, f"of {ENVOY}'s answers", ratio, "x", asked))
    title = f"30 KB over {CONNECTIONS} connections: one core; {DIRECT}'s is the load's own limit"
    return Section(3, title, tuple(figures))


# --- the rival ------------------------------------------------------------------------------------


def rival_section(small: Rounds, large: Rounds, answers: Rounds) -> Section:
    """Compare with the rival in Python: what it adds, of what we add; our throughput of its."""
    title = f"Beside {RIVAL}, a gateway in Python"
    if RIVAL not in small:
        return Section(5, title, (), ("no rival was measured",))
    asked = Asked(at_least=5)
    figures = [
        Figure(
            OURS,
            f"less added at {size}, times",
            added_ratio(found[RIVAL], found[OURS], found[DIRECT]),
            "x",
            asked,
        )
        for size, found in (("30 KB", small), ("1.5 MB", large))
    ]
    ratio = paired_ratio(answers[OURS], answers[RIVAL])
    figures.append(Figure(OURS, "answers a second at 30 KB, times", ratio, "x", asked))
    return Section(5, title, tuple(figures))
