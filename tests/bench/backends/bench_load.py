"""Load from one process: many connections, a thread each, all waiting for the server.

Closed loops: a connection sends its next request when it has the answer to the last one, so the
number of connections is the number of requests under way.
"""

import base64
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from bench_process import Server
from bench_wire import Answer, Connection, Posted, WireError, posted

from backends.protocol import Floats

Make = Callable[[Floats], Posted]


@dataclass(frozen=True, slots=True)
class Party:
    """A server under test: who, where, and how to ask it. The rival's answers carry its facts."""

    who: str
    server: Server
    ask: Make
    is_rival: bool = False


@dataclass(frozen=True, slots=True)
class Timed:
    """An answer and the length of the context that was asked about."""

    length: int
    answer: Answer


def at_once(party: Party, posts: Sequence[Posted]) -> tuple[float, list[Answer]]:
    """Send all requests at once, a connection each: seconds until the last answer, and answers."""
    answers: list[Answer] = []
    barrier = threading.Barrier(len(posts) + 1)

    def send(connection: Connection, posted: Posted) -> None:
        barrier.wait()
        answers.append(connection.post(posted))

    connections = [party.server.connect() for _ in posts]
    try:
        work = [
            threading.Thread(target=send, args=pair)
            for pair in zip(connections, posts, strict=True)
        ]
        for thread in work:
            thread.start()
        barrier.wait()
        began = time.perf_counter()
        for thread in work:
            thread.join()
        seconds = time.perf_counter() - began
    finally:
        for connection in connections:
            connection.__exit__(None, None, None)
    if len(answers) < len(posts):
        raise WireError(f"{party.who} answered {len(answers)} of {len(posts)} requests")
    return seconds, answers


def steadily(
    party: Party, contexts: Sequence[Floats], connections: int, seconds: float
) -> list[Timed]:
    """Keep `connections` requests under way for `seconds`; a context is asked about once.

    The answers come in the order in which they arrived. Ends early when the contexts do.
    """
    done: list[Timed] = []
    left = iter(contexts)
    lock = threading.Lock()
    end = time.monotonic() + seconds

    def work() -> None:
        with party.server.connect() as connection:
            while time.monotonic() < end:
                with lock:
                    context = next(left, None)
                if context is None:
                    return
                done.append(Timed(len(context), connection.post(party.ask(context))))

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not done:
        raise WireError(f"{party.who} answered nothing in {seconds:g} s")
    return done


def rival_facts(answer: Answer) -> dict[str, Any]:
    """Read what the rival says about the batch that an answer was in."""
    facts: dict[str, Any] = orjson.loads(answer.body)["parameters"]
    return facts


def rival_request(context: Floats) -> Posted:
    """Ask the rival: JSON with the context as one base64 text (see `rival/rival_runtime.py`)."""
    text = base64.b64encode(context.astype("<f4").tobytes()).decode()
    tensor = {"name": "CONTEXT", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
    return posted(orjson.dumps({"inputs": [tensor]}), {"content-type": "application/json"})
