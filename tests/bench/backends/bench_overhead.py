"""Sections 4b, 5 and 6 over HTTP: one more vector, what the protocol costs, and memory."""

import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from typing import Final

from bench_adapter import WORK_SECONDS
from bench_alone import GROWN_LENGTHS, SETTLE_S
from bench_contexts import short_and_distinct, window
from bench_figures import NOTHING, Asked, Figure, Section, single
from bench_load import Party, rival_facts, steadily
from bench_statistics import line, median, rounds
from bench_wire import Connection

from backends.protocol import Floats

FIRST_DRAW: Final = 5000
STEPS: Final = 3
"""Vectors that a context grows by, one at a time."""
BODY_LENGTHS: Final = (1, 50, 100, 200, 350, 500, 1000, 2000)
VECTOR_MB: Final = 768 * 4 / 1e6
STATE_LENGTH: Final = 3
FILLING: Final = 16
IN_A_ROW: Final = 10


def one_more_vector(parties: Sequence[Party], number: int) -> Section:
    """Time, from socket to socket, a context that the server knows all but the last vector of."""
    times: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    draws = count(FIRST_DRAW)
    for order in rounds(parties, number):
        for length, draw in zip(GROWN_LENGTHS, draws, strict=False):
            for party in order:
                with party.server.connect() as connection:
                    connection.post(party.ask(window(draw, length - STEPS)))
                    for grown in range(length - STEPS + 1, length + 1):
                        time.sleep(SETTLE_S)
                        answer = connection.post(party.ask(window(draw, grown)))
                        times[party.who][length].append(answer.seconds)
    figures = [
        Figure(
            party.who,
            f"to {length} vectors",
            median(seconds).scaled(1e3),
            "ms",
            NOTHING if party.is_rival else Asked(at_most=5),
        )
        for party in parties
        for length, seconds in times[party.who].items()
    ]
    title = "A context that grew by one vector: from socket to socket"
    return Section(4, title, tuple(figures))


# --- the protocol's share -------------------------------------------------------------------------


def protocol(parties: Sequence[Party], number: int) -> Section:
    """Fit a line to (socket to socket less engine, bank) over MB of context, one request at a time.

    The server itself says what engine and bank took: ours in its metrics, read before and after,
    the rival in its answer.
    """
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    draws = count(FIRST_DRAW)
    for order in rounds(parties, number):
        for length, draw in zip(BODY_LENGTHS, draws, strict=False):
            for party in order:
                time.sleep(SETTLE_S)
                # A new connection, not timed: a server closes one that waits for the others.
                with party.server.connect() as connection:
                    rest = _rest_of(party, connection, window(draw, length))
                points[party.who].append((length * VECTOR_MB, rest))
    figures: list[Figure] = []
    for party in parties:
        fitted = line(*zip(*points[party.who], strict=True))
        asked = NOTHING if party.is_rival else Asked(at_most=0.5)
        figures.append(
            Figure(party.who, "for any request", fitted.intercept.scaled(1e3), "ms", asked)
        )
        figures.append(Figure(party.who, "for each MB", fitted.slope.scaled(1e3), "ms/MB", asked))
        figures += _by_size(party.who, points[party.who])
    return Section(
        5, "What protocol and HTTP add to the engine's and the bank's time", tuple(figures)
    )


def _rest_of(party: Party, connection: Connection, context: Floats) -> float:
    """Return the mean rest of requests one after the other, as a gateway's kept connection sends.

    One alone would find the caches as reading the metrics left them.
    """
    posted = party.ask(context)
    before = 0.0 if party.is_rival else _work_seconds(party, connection)
    answers = [connection.post(posted) for _ in range(IN_A_ROW)]
    whole = sum(answer.seconds for answer in answers)
    if party.is_rival:
        work = sum(float(rival_facts(answer)["engine_s"]) for answer in answers)
    else:
        work = _work_seconds(party, connection) - before
    return (whole - work) / IN_A_ROW


def _work_seconds(party: Party, connection: Connection) -> float:
    found = party.server.metrics(connection)
    return sum(value for name, value in found.items() if name.startswith(WORK_SECONDS))


def _by_size(who: str, points: list[tuple[float, float]]) -> list[Figure]:
    found: dict[float, list[float]] = defaultdict(list)
    for size, rest in points:
        found[size].append(rest)
    return [
        Figure(
            who, f"{size:.2f} MB ({size / VECTOR_MB:.0f} vectors)", median(rest).scaled(1e3), "ms"
        )
        for size, rest in found.items()
    ]


# --- memory ---------------------------------------------------------------------------------------


def weighed(parties: Sequence[Party], what: str, asked: Asked = NOTHING) -> list[Figure]:
    """Weigh each server as it is now."""
    return [
        Figure(party.who, what, single(party.server.resident_mb()), "MB", asked)
        for party in parties
    ]


def memory(without: Sequence[Figure], filled: Sequence[Party], states: int) -> Section:
    """Weigh the servers with `states` prefix states each; `without` was weighed before."""
    figures = [*without]
    contexts = [*short_and_distinct(states, STATE_LENGTH, seed=states)]
    notes: list[str] = []
    for party in filled:
        steadily(party, contexts, FILLING, float("inf"))
        figures += weighed([party], f"{states} states", Asked(at_most=700))
        with party.server.connect() as connection:
            told = party.server.metrics(connection)
        notes += [
            f"{party.who}: {name} = {value:g}"
            for name, value in told.items()
            if "prefix" in name and "created" not in name and "bucket" not in name
        ]
    return Section(6, "Resident memory of a model server", tuple(figures), tuple(notes))
