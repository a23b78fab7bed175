"""Which waiting requests the engine reads next, together. Pure.

A batch's answers come when its longest context is read, so a batch holds contexts of like length:
padded to its longest, at most a tenth of the work would be padding. (The engines here pad nothing;
what the rule saves is the wait of a short context in a long one's batch, and padding where an
engine must pad.) The length that counts is what is still to be read: a context whose prefix is
known is as short as its rest.

Whose turn it is: every request has a turn, its admission plus `patience` times the time that the
engine needs for it. So a short request overtakes a long one, but only one that has waited less
than that; none is overtaken for ever. Mirrored requests come when no served one waits: theirs is
an answer that nobody waits for. What no longer wants an answer is left out and told apart, before
it has cost the engine anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PADDING: Final = 0.1
"""The share of a batch's work that may be padding, were it padded."""
PATIENCE: Final = 2.0
COMPANY: Final = 0.25
"""The share of a batch's own time that it may wait for requests that are being received."""
BATCHED: Final = 0.5
"""What a vector in a full batch takes at least, of what one alone takes."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request in the queue.

    `length`: vectors to read, none where all is known; times in seconds of one clock.
    """

    length: int
    admitted_at: float
    deadline: float | None = None
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """Places in the queue: what to read now, whose turn first; and whose deadline has passed."""

    batch: tuple[int, ...]
    expired: tuple[int, ...]


def choose(
    queue: Sequence[Waiting], now: float, *, largest: int, pace: float, patience: float = PATIENCE
) -> Choice:
    """Choose at most `largest` of the queue. `pace`: the engine's seconds for one vector, about.

    An empty batch means that nobody waits any longer.
    """
    if len(queue) == 1 and queue[0].deadline is None:
        return Choice((0,), ())
    expired = tuple(
        i
        for i, waiting in enumerate(queue)
        if waiting.deadline is not None and waiting.deadline <= now
    )
    alive = set(range(len(queue))).difference(expired)
    served = [i for i in alive if not queue[i].mirrored]
    turns = sorted(
        served or alive,
        key=lambda i: (queue[i].admitted_at + patience * pace * queue[i].length, i),
    )
    batch: list[int] = []
    lengths: list[int] = []
    for i in turns:
        if len(batch) == largest:
            break
        if not batch or padding_of([*lengths, queue[i].length]) <= PADDING:
            batch.append(i)
            lengths.append(queue[i].length)
    return Choice(tuple(batch), expired)


def company_until(
    queue: Sequence[Waiting], arriving: Sequence[float], *, largest: int, pace: float
) -> float:
    """Say until when a free engine should leave the queue waiting for requests on their way.

    `arriving`: when each body that is being received began. Sixteen requests that come at once are
    received one after the other; reading the first alone would take as long as reading it beside
    three others, and the others would be received beside a busy engine. So the first waits, for a
    quarter of what reading it takes at most, and for no body that has taken that long already: who
    sends slowly holds nobody up. Where nothing arrives, nothing waits: the answer is the past.
    """
    served = [waiting for waiting in queue if not waiting.mirrored]
    if not served or not arriving or len(queue) >= largest:
        return 0.0
    lengths = [waiting.length for waiting in served]
    patience = COMPANY * pace * max(*lengths, BATCHED * sum(lengths))
    first = min(waiting.admitted_at for waiting in served)
    return min(first, max(arriving)) + patience


def joins(
    newcomer: Waiting,
    running: Sequence[Waiting],
    now: float,
    began: float,
    *,
    largest: int,
    pace: float,
) -> bool:
    """Say whether a run that `began` is to be given up and begun again with a `newcomer`.

    Of requests that come at once the first is whole before a byte of the next is there. It does not
    wait for what cannot be seen; so its run, when it is alone, is begun anew with one of like
    length that came within the time for which it would have waited, had that one been seen.
    """
    if len(running) != 1 or largest == 1 or newcomer.mirrored != running[0].mirrored:
        return False
    lengths = [running[0].length, newcomer.length]
    return now - began <= COMPANY * pace * lengths[0] and padding_of(lengths) <= PADDING


def padding_of(lengths: Sequence[int]) -> float:
    """Return the share of the work that is padding when contexts are padded to the longest."""
    whole = max(lengths) * len(lengths)
    return 1 - sum(lengths) / whole if whole else 0.0
