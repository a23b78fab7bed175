"""Real text as traffic: contexts of many lengths over HTTP, and the truth fed back.

A query is a place in a chain: its context is everything from the chain's start up to there, its
truth the chunk that comes next. Queries are drawn by a seeded generator, so that two replays send
the same requests in the same order.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import httpx2
import orjson

from deploy.chains import Chain

SHARES: Final = (((5, 100), 0.35), ((101, 500), 0.55), ((501, 10_000), 0.10))
"""Context lengths in vectors, and how often each range is drawn."""
CONCURRENCY: Final = 3
TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Query:
    """A context (the first `length` vectors of a chain) and the id of the chunk that follows."""

    chain: Chain
    length: int

    @property
    def target(self) -> int:
        """The id of the true next chunk."""
        return int(self.chain.ids[self.length])

    def body(self) -> bytes:
        """The query as a /v1/predict body."""
        context = self.chain.vectors[: self.length]
        return orjson.dumps({"context": context}, option=orjson.OPT_SERIALIZE_NUMPY)


def queries(chains: tuple[Chain, ...], seed: int) -> Iterator[Query]:
    """Draw queries without end."""
    draw = random.Random(seed)  # noqa: S311 - a replay must be repeatable, not unguessable
    ranges = [lengths for lengths, _ in SHARES]
    shares = [share for _, share in SHARES]
    while True:
        low, high = draw.choices(ranges, shares)[0]
        chain = draw.choice(chains)
        yield Query(chain, draw.randint(low, min(high, len(chain.ids) - 1)))


@dataclass(slots=True)
class Outcome:
    """What came back, in counts."""

    sent: int = 0
    failed: Counter[str] = field(default_factory=Counter)


async def replay(
    http: httpx2.AsyncClient,
    source: Iterator[Query],
    count: int,
    outcome: Outcome,
    sent: Callable[[Query], None],
) -> None:
    """Send `count` queries, a few at a time, feed back the truth of each, and add to `outcome`."""
    todo = iter([next(source) for _ in range(count)])

    async def worker() -> None:
        for query in todo:
            await _ask(http, query, outcome)
            sent(query)

    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))


async def _ask(http: httpx2.AsyncClient, query: Query, outcome: Outcome) -> None:
    outcome.sent += 1
    headers = {"content-type": "application/json"}
    try:
        answer = await http.post("/v1/predict", content=query.body(), headers=headers)
    except httpx2.TransportError as error:
        outcome.failed[type(error).__name__] += 1
        return
    if answer.status_code != httpx2.codes.OK:
        outcome.failed[f"{answer.status_code}: {answer.json().get('error')}"] += 1
        return
    label = {"id": answer.headers["x-request-id"], "target_id": query.target}
    told = await http.post("/v1/feedback", json=label)
    if told.status_code != httpx2.codes.ACCEPTED:
        outcome.failed[f"feedback {told.status_code}: {told.json().get('error')}"] += 1
