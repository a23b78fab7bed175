"""Sections 2 and 3: full load over HTTP, on our model servers and on the rival, in turns."""

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from bench_adapter import PADDED_STEPS, STEPS
from bench_alone import SETTLE_S
from bench_contexts import LONGEST, SHORT, mixed_lengths, window
from bench_figures import NOTHING, Asked, Figure, Section, single
from bench_load import Party, Timed, at_once, rival_facts, steadily
from bench_processes import Contestant
from bench_statistics import median, paired_ratio, quantile, rounds, tail_ratio

VOLLEY: Final = 16
CONNECTIONS: Final = 16
MIXED_CONTEXTS: Final = 4000
FIRST_MIXED_DRAW: Final = 1000
TAIL: Final = 0.99

Times = dict[str, list[float]]


def sixteen_at_once(parties: Sequence[Party], eager: Contestant, number: int) -> Section:
    """Time 16 requests of 500 vectors sent at once, beside an eager batch of 16 in its process."""
    times: Times = defaultdict(list)
    everybody: list[Contestant | Party] = [eager, *parties]
    for turn, order in enumerate(rounds(everybody, number + 1)):
        for one in order:
            time.sleep(SETTLE_S)
            who = one.spec.label if isinstance(one, Contestant) else one.who
            times[who].append(_volley(one, turn * VOLLEY))
    figures: list[Figure] = []
    # The first round warms up.
    (baseline, slow), *others = ((who, seconds[1:]) for who, seconds in times.items())
    figures.append(Figure(f"{baseline} x 16", "in process", median(slow).scaled(1e3), "ms"))
    rival = next((times[party.who][1:] for party in parties if party.is_rival), None)
    for who, fast in others:
        asked = NOTHING if fast == rival else Asked(at_least=3, aim=6)
        figures.append(Figure(who, "until the last answer", median(fast).scaled(1e3), "ms"))
        figures.append(Figure(who, "against eager", paired_ratio(slow, fast), "x", asked))
        if rival and fast != rival:
            figures.append(Figure(who, "against the rival", paired_ratio(rival, fast), "x"))
    title = f"{VOLLEY} requests of {LONGEST} vectors at once, over HTTP"
    return Section(2, title, tuple(figures))


def _volley(one: Contestant | Party, draw: int) -> float:
    if isinstance(one, Contestant):
        return one.seconds("time", count=VOLLEY, length=LONGEST, draw=draw)
    posts = [one.ask(window(draw + place, LONGEST)) for place in range(VOLLEY)]
    return at_once(one, posts)[0]


# --- a mix of lengths -----------------------------------------------------------------------------


def mix(parties: Sequence[Party], blocks: int, block_s: float) -> Section:
    """Keep every server busy with lengths from 5 to 500, in turns of `block_s` seconds."""
    answers: dict[str, list[Timed]] = defaultdict(list)
    padding: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    busy_s: dict[str, float] = defaultdict(float)
    for turn, order in enumerate(rounds(parties, blocks)):
        lengths = mixed_lengths(MIXED_CONTEXTS, turn)
        contexts = [
            window(FIRST_MIXED_DRAW + place, length) for place, length in enumerate(lengths)
        ]
        for party in order:
            before = _padding_counted(party)
            began = time.perf_counter()
            found = steadily(party, contexts, CONNECTIONS, block_s)
            busy_s[party.who] += time.perf_counter() - began
            answers[party.who] += found
            counted = _padding_told(found) if party.is_rival else _since(party, before)
            padding[party.who] = [
                sum(pair) for pair in zip(padding[party.who], counted, strict=True)
            ]
    figures: list[Figure] = []
    for party in parties:
        figures += _mix_figures(party, answers[party.who], padding[party.who], busy_s[party.who])
    notes = tuple(
        f"{party.who} does not count its padding" for party in parties if not padding[party.who][1]
    )
    title = f"Lengths 5 to {LONGEST}, log-uniform, {CONNECTIONS} connections kept busy"
    return Section(3, title, tuple(figures), notes)


def _mix_figures(
    party: Party, answers: list[Timed], padding: list[float], busy_s: float
) -> list[Figure]:
    short = [timed.answer.seconds for timed in answers if timed.length <= SHORT]
    padded, computed = padding
    shares = [single(100 * padded / computed)] if computed else []
    ours = not party.is_rival
    return [
        *(
            Figure(party.who, "padding", share, "%", Asked(at_most=10) if ours else NOTHING)
            for share in shares
        ),
        Figure(party.who, "answers", single(len(answers) / busy_s), "/s"),
        Figure(party.who, f"p50 of at most {SHORT} vectors", median(short).scaled(1e3), "ms"),
        Figure(party.who, "p99 of them", quantile(short, TAIL).scaled(1e3), "ms"),
        Figure(
            party.who,
            "p99 / p50 of them",
            tail_ratio(short, TAIL),
            "",
            Asked(at_most=3) if ours else NOTHING,
        ),
    ]


def _padding_told(answers: list[Timed]) -> tuple[float, float]:
    """Sum what the rival says of its batches: padded steps, and all steps computed."""
    batches = {facts["engine_s"]: facts for facts in map(_facts, answers)}.values()
    computed = sum(batch["padded"] for batch in batches)
    return computed - sum(batch["steps"] for batch in batches), computed


def _facts(timed: Timed) -> dict[str, float]:
    return rival_facts(timed.answer)


def _padding_counted(party: Party) -> tuple[float, float]:
    """Read how many padded steps, and steps in all, a server of ours has computed so far."""
    if party.is_rival:
        return 0.0, 0.0
    with party.server.connect() as connection:
        found = party.server.metrics(connection)
    padded, real = found.get(PADDED_STEPS), found.get(STEPS)
    return (padded, padded + real) if padded is not None and real is not None else (0.0, 0.0)


def _since(party: Party, before: tuple[float, float]) -> tuple[float, float]:
    after = _padding_counted(party)
    return after[0] - before[0], after[1] - before[1]
