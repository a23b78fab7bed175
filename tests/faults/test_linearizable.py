"""Promise 5: transitions are linearizable and readers monotonic, whatever stops and dies.

TURNOUT_FAULT_S=600 makes it the ten minutes of the promise.
"""

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from desk import Desk, desk, quick
from linear import Did, Version, faults
from load import Client, request
from redis import Redis
from stage import SECONDS, Edge, Valkey, applied, backend, edge, until, valkey

from rollout.keys import Keys
from rollout.machine import AuditEntry
from rollout.snapshot import Position
from rollout.store.redis import BUDGET_MS

pytestmark = pytest.mark.faults

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
"""A store that forgets nothing when it is killed: else nobody could say what had happened."""
VERBS = ("pause", "resume", "promote", "abort", "advance", "start", "retry")
WEIGHTS = (30, 30, 8, 6, 4, 8, 8)


class Seat:
    """Where a controller runs: when it is killed, another one takes its place."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._url = folder, url
        self._stack = contextlib.ExitStack()
        self.desk = self._new()

    def _new(self) -> Desk:
        settings = {"tick_s": "0.2", "lease_s": "2"}
        return self._stack.enter_context(desk(self._folder, self._url, **settings))

    def replace(self) -> None:
        self.desk.kill()
        self._stack.close()
        self.desk = self._new()

    def close(self) -> None:
        self._stack.close()


class History:
    """What was asked and seen."""

    def __init__(self) -> None:
        self.calls: list[Did] = []
        self.lines: dict[str, list[Version]] = {}
        """By gateway: the versions of its answers, in order."""
        self.done = Counter[str]()
        self._names = itertools.count()

    async def command(self, at: Seat, verb: str, expected: str | None) -> None:
        mark, began = f"call {next(self._names)}", time.monotonic()
        more = {"plan": quick(scope="all").model_dump(mode="json")} if verb == "start" else {}
        try:
            code, answer = await at.desk.order(
                verb, reason=mark, expected_version=expected, idempotency_key=mark, **more
            )
        except OSError:
            self._add(Did(mark, began, time.monotonic(), "unknown"), "no answer")
            await asyncio.sleep(0.1)
            return
        ended = time.monotonic()
        if code in {200, 201}:
            version = tuple(Position.parse(answer["version"]))
            assert len(version) == 2
            self._add(Did(mark, began, ended, "applied", version), "applied")
        elif "is unknown" in answer["error"]:
            self._add(Did(mark, began, ended, "unknown"), "unknown")
        else:
            assert code in {404, 409, 503}, answer
            self._add(Did(mark, began, ended, "refused"), f"refused with {code}")

    async def read(self, at: Seat) -> str | None:
        began = time.monotonic()
        try:
            found = (await at.desk.status())["version"]
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            return None
        version = tuple(Position.parse(found)) if found else None
        assert version is None or len(version) == 2
        mark = f"call {next(self._names)}"
        self._add(Did(mark, began, time.monotonic(), "read", version), "read")
        return str(found) if found else None

    def _add(self, call: Did, what: str) -> None:
        self.calls.append(call)
        self.done[what] += 1


async def person(history: History, seats: list[Seat], seed: int, stop: asyncio.Event) -> None:
    chance = random.Random(seed)  # noqa: S311 - a seed, not a secret
    seen: str | None = None
    while not stop.is_set():
        seat = chance.choice(seats)
        if chance.random() < 0.4:
            seen = await history.read(seat)
        else:
            (verb,) = chance.choices(VERBS, WEIGHTS)
            expected = seen if chance.random() < 0.3 else None
            await history.command(seat, verb, expected)
        await asyncio.sleep(chance.uniform(0, 0.05))


async def reader(history: History, on: Edge, name: str, stop: asyncio.Event) -> None:
    """Ask a gateway on, and write down under which versions it answers."""
    line = history.lines.setdefault(name, [])
    to = Client(on.port)
    while not stop.is_set():
        shot = await to.ask(request())
        assert shot.ok, shot
        version = tuple(Position.parse(shot.headers["x-turnout-version"]))
        assert len(version) == 2
        line.append(version)
        await asyncio.sleep(0.01)
    to.close()


async def harm(store: Valkey, seats: list[Seat], stop: asyncio.Event) -> Counter[str]:
    chance, did = random.Random(5), Counter[str]()  # noqa: S311 - a seed, not a secret
    while not stop.is_set():
        await asyncio.sleep(chance.uniform(0.2, 1.5))
        (what,) = chance.choices(("store stopped", "store killed", "controller killed"), (12, 3, 1))
        did[what] += 1
        if what == "store stopped":
            store.stop()
            await asyncio.sleep(chance.choice((0.3, 1.0, 2.2, 3.2)))
            store.go_on()
        elif what == "store killed":
            store.kill()
            await asyncio.sleep(chance.uniform(0, 0.5))
            store.start()
        else:
            await asyncio.to_thread(chance.choice(seats).replace)
    return did


@contextlib.contextmanager
def seated(folder: Path, url: str, number: int) -> Iterator[list[Seat]]:
    seats: list[Seat] = []
    try:
        for name in range(number):
            seats.append(Seat(folder / f"c{name}", url))  # noqa: PERF401 - each is closed
        yield seats
    finally:
        for seat in seats:
            seat.close()


def audit_of(url: str) -> list[tuple[AuditEntry, float]]:
    """Read every transition, and when the store applied it, in Unix seconds."""
    with Redis.from_url(url, decode_responses=True) as to:
        found = to.xrange(Keys().audit)
    return [
        (AuditEntry.model_validate_json(fields["entry"]), int(name.partition("-")[0]) / 1000)
        for name, fields in found
    ]


async def test_transitions_are_linearizable_and_readers_monotonic_whatever_stops_and_dies(
    tmp_path: Path,
) -> None:
    seconds = max(SECONDS, 20)
    history, stop = History(), asyncio.Event()
    with (
        backend(tmp_path / "b", arm="phase1") as one,
        backend(tmp_path / "b", arm="phase2") as two,
        valkey(*DURABLE) as store,
        seated(tmp_path, store.url, 2) as seats,
    ):
        urls: dict[str, str | list[str]] = {"phase1": one.url, "phase2": two.url}
        settings = {"redis_url": store.url, "poll_s": "0.2"}
        with (
            edge(tmp_path / "0", urls, **settings) as left,
            edge(tmp_path / "1", urls, **settings) as right,
        ):
            working = [
                *(person(history, seats, seed, stop) for seed in range(4)),
                *(reader(history, on, name, stop) for name, on in (("l", left), ("r", right))),
            ]
            tasks = [asyncio.create_task(one) for one in working]
            harming = asyncio.create_task(harm(store, seats, stop))
            await asyncio.sleep(seconds)
            stop.set()
            did = await harming
            await asyncio.gather(*tasks)

            async def answers() -> bool:
                return await history.read(seats[0]) is not None

            await until(answers, "a controller answers")
            audit = audit_of(store.url)
            last = str(Position(audit[-1][0].epoch, audit[-1][0].version))
            await applied(last, left, right)
    marks = [((entry.epoch, entry.version), entry.reason) for entry, _ in audit]
    marks = [
        (version, reason if reason.startswith("call ") else f"tick {version}")
        for version, reason in marks
    ]
    found = faults(history.calls, marks)
    back = sum(
        later < before
        for line in history.lines.values()
        for before, later in itertools.pairwise(line)
    )
    slowest = max(1000 * (made - entry.at) for entry, made in audit)
    print(
        f"\n{seconds:g} s, {dict(did)}: {len(audit)} transitions; {dict(history.done)}; "
        f"{len(found)} contradictions; {sum(map(len, history.lines.values()))} answers of 2 "
        f"gateways, {back} of a lower version than the one before; the slowest transition was "
        f"applied {slowest:.0f} ms after it was decided ({BUDGET_MS} may be)"
    )
    assert found == []
    assert back == 0
    assert slowest <= BUDGET_MS + 1
    assert history.done["applied"] > seconds / 2
    assert sum(did.values()) > 3


@pytest.mark.parametrize(
    ("calls", "audit", "part"),
    [
        ([], [((1, 1), "a"), ((1, 3), "b")], "follows"),
        ([Did("a", 0, 1, "applied", (1, 2))], [((1, 1), "a")], "at (1, 1)"),
        ([Did("a", 0, 1, "applied", (1, 1))], [], "0 times"),
        ([Did("a", 0, 1, "refused")], [((1, 1), "a")], "was refused and happened"),
        ([Did("a", 0, 1, "unknown")], [((1, 1), "a"), ((1, 2), "a")], "2 times"),
        (
            [Did("a", 2, 3, "applied", (1, 1)), Did("b", 0, 1, "applied", (1, 2))],
            [((1, 1), "a"), ((1, 2), "b")],
            "had ended before",
        ),
        (
            [Did("a", 0, 1, "applied", (1, 1)), Did("r", 2, 3, "read", None)],
            [((1, 1), "a")],
            "is older than",
        ),
        (
            [Did("r", 0, 1, "read", (1, 1)), Did("a", 2, 3, "applied", (1, 1))],
            [((1, 1), "a")],
            "nobody had asked for",
        ),
    ],
)
def test_the_checker_finds_what_is_not_linearizable(
    calls: list[Did], audit: list[tuple[Version, str]], part: str
) -> None:
    assert any(part in fault for fault in faults(calls, audit))


def test_the_checker_lets_what_overlaps_happen_in_either_order() -> None:
    both = [Did("a", 0, 3, "applied", (1, 2)), Did("b", 1, 2, "applied", (1, 1))]
    assert faults(both, [((1, 1), "b"), ((1, 2), "a")]) == []
    never = [Did("u", 0, 1, "unknown"), Did("r", 2, 3, "read", (1, 1))]
    assert faults(never, [((1, 1), "tick")]) == []
