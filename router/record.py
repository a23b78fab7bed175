"""What happened to one request, as typed records, and the counts they fold into. Pure.

A request in scope of a rollout makes one `Record` when it is answered, and if it was mirrored one
`Pair` when both arms are done. Each folds into increments of the counters of its `Cell`. Everything
belongs to the arm that was *assigned* (intention to treat): an answer in its place is a fallback.

A refusal (the backend calls the request itself wrong) is the client's mistake when both arms say
so, and the arm's own error when the arms disagree.

A pair tells which arm failed. Agreement and the arms' own times come only from pairs where neither
did. A pair whose request both arms refuse is one where no arm failed and nothing can be compared.
"""

from collections import Counter as Multiset
from collections.abc import Mapping
from hashlib import blake2b
from typing import Final, Literal, NamedTuple

import numpy as np

from backends.comparison import cosine, overlap, rank_biased_overlap
from backends.protocol import KEPT_NEIGHBORS, Floats, Prediction, PrefixOutcome
from rollout import background
from rollout.snapshot import (
    Cell,
    Counter,
    Live,
    Metric,
    Observation,
    Pending,
    Role,
    Sample,
    Vectors,
    stratum,
)
from router.errors import FailureKind, RefusedError, UpstreamError

Dropped = Literal["full", "bytes", "timeout", "error", "refused"]
"""Why a mirror that was intended was not compared."""
_HISTOGRAMS: Final = ("latency.", "pair.latency.", "prefix.")
HALF: Final = np.dtype("<f2")
_OVERLAPS: Final[tuple[tuple[Literal["overlap1", "overlap5", "overlap10"], int], ...]] = (
    ("overlap1", 1),
    ("overlap5", 5),
    ("overlap10", 10),
)


class Admission(NamedTuple):
    """A request's name and clocks, taken when its headers had arrived."""

    request_id: str
    at: float
    """Unix seconds."""
    started: float
    """Monotonic seconds."""


class Attempt(NamedTuple):
    """What one arm made of one request: a prediction or an error, after `seconds`."""

    arm: str
    seconds: float
    prediction: Prediction | None = None
    error: UpstreamError | RefusedError | None = None

    @property
    def failure(self) -> FailureKind | None:
        """How the arm failed; None when it answered, and when it refused the client's request."""
        return self.error.kind if isinstance(self.error, UpstreamError) else None

    @property
    def outcome(self) -> str:
        """One word for it: `ok`, `refused` or the kind of failure."""
        return self.failure or ("refused" if self.error else "ok")

    @property
    def prefix(self) -> PrefixOutcome | None:
        """What the arm's known prefixes did for it; None where that is not told."""
        return self.prediction.prefix if self.prediction else None

    @property
    def top(self) -> tuple[int, ...]:
        """The first ten ids, which labels are judged by."""
        return top_of(self.prediction) if self.prediction else ()


class Record(NamedTuple):
    """One request in scope of a rollout, when its client has got its answer or its error."""

    admission: Admission
    length: int
    live: Live
    assigned: Role
    counted: bool
    """False: outside the statistics."""
    keyless: bool
    overridden: bool
    failure: FailureKind | None
    """How the assigned arm's own attempt failed."""
    fell_back: bool
    """Whether the other arm answered."""
    mirrored: bool
    seconds: float
    """From admission to the answer."""
    key: str | None = None
    """The client's routing key."""
    prefix: PrefixOutcome | None = None
    """What the assigned arm's known prefixes did; None where it gave no answer or does not tell."""


class Passing(NamedTuple):
    """One answered request that the tier table alone decided about."""

    admission: Admission
    tier: str
    """Who of the whole table it was for."""
    arm: str
    """Who answered."""
    keyed: bool
    seconds: float
    """From admission to the answer."""

    @property
    def cell(self) -> Cell:
        """What it counts under: see `rollout.background`."""
        minute = int(self.admission.at // 60)
        return Cell(background.ROLLOUT, 0, background.place(self.tier, self.arm), minute, "-")

    @property
    def counts(self) -> dict[str, int]:
        """Its increments."""
        keyed = {background.KEYED: 1} if self.keyed else {}
        return {background.REQUESTS: 1, background.waited(self.seconds): 1, **keyed}


class Pair(NamedTuple):
    """One request that both arms tried."""

    admission: Admission
    length: int
    live: Live
    incumbent: Attempt
    candidate: Attempt
    key: str | None = None
    """The client's routing key."""


def failure_of(assigned: Attempt, answered: Attempt) -> FailureKind | None:
    """Say how the assigned arm failed, given what the client got; None when it did not.

    A refusal is a failure unless the arm that was asked after it refuses as well.
    """
    if not isinstance(assigned.error, RefusedError):
        return assigned.failure
    return None if isinstance(answered.error, RefusedError) else FailureKind.REFUSED


def top_of(prediction: Prediction) -> tuple[int, ...]:
    """Return the first ten ids of a prediction, or as many as there are."""
    return tuple(prediction.ids[:KEPT_NEIGHBORS].tolist())


def cell_of(live: Live, admission: Admission, length: int) -> Cell:
    """Say what a request's counts belong to: by the minute of its admission and its length."""
    minute = int(admission.at // 60)
    return Cell(
        live.id, live.evidence_epoch, live.counted_stage, minute, stratum(length, live.strata)
    )


def key_digest(live: Live, key: str | None) -> str | None:
    """Give the name under which a routing key is remembered, where keys are the unit: 64 bits.

    BLAKE2b, keyed with the rollout's salt: who reads the store learns no key from it, and nothing
    of one rollout tells about another. A collision loses one observation; among 200,000 keys one
    is as likely as 1 in 900 million.
    """
    if live.unit != "key" or key is None:
        return None
    salt = blake2b(live.salt.encode(), digest_size=32).digest()
    return blake2b(
        key.encode(errors="surrogatepass"), digest_size=8, key=salt, person=b"turnout.seen"
    ).hexdigest()


def observation_of(
    live: Live, cell: Cell, metric: Metric, key: str | None, counts: Mapping[str, int]
) -> Observation | None:
    """Say what counts if the routing key is new to the metric; None where no key is the unit.

    Histograms are left out: they are for display, which counts requests.
    """
    digest = key_digest(live, key)
    if digest is None:
        return None
    counters = tuple(name for name in counts if not name.startswith(_HISTOGRAMS))
    return Observation(cell, metric, digest, counters) if counters else None


def counts_of(record: Record) -> dict[str, int]:
    """Fold a record into increments."""
    if record.overridden:
        return {Counter.OVERRIDDEN: 1}
    if record.keyless:
        return {Counter.KEYLESS: 1}
    if not record.counted:
        return {}
    role = record.assigned
    latency = Counter.latency(role, record.seconds)
    counts = {Counter.assigned(role): 1, latency: 1}
    if record.prefix:
        counts[Counter.by_prefix(latency, record.prefix)] = 1
    if record.failure:
        counts[Counter.error(role, record.failure)] = 1
    if record.fell_back:
        counts[Counter.fallback(role)] = 1
    if record.mirrored:
        counts[Counter.MIRROR_INTENDED] = 1
    for name in record.live.marks:
        if is_over(record.live, name, role, record.seconds, record.failure):
            counts[Counter.over(role, name)] = 1
    return counts


def is_over(live: Live, mark: str, role: Role, seconds: float, failure: FailureKind | None) -> bool:
    """Whether a role took longer than its side of a mark. A timeout did: only the wait ended."""
    side = live.marks[mark]
    limit_s = side.candidate if role == "candidate" else side.incumbent
    return failure is FailureKind.TIMEOUT or seconds > limit_s


def verdict_of(pair: Pair) -> Literal["compared", "timeout", "error", "refused"]:
    """Say in a word what a pair came to."""
    attempts = (pair.incumbent, pair.candidate)
    if all(isinstance(one.error, RefusedError) for one in attempts):
        return "refused"
    if any(one.failure is FailureKind.TIMEOUT for one in attempts):
        return "timeout"
    return "error" if any(one.error for one in attempts) else "compared"


def counts_of_pair(pair: Pair) -> Multiset[str]:
    """Fold a pair into increments."""
    incumbent, candidate = pair.incumbent, pair.candidate
    verdict = verdict_of(pair)
    failed = [one.error is not None and verdict != "refused" for one in (incumbent, candidate)]
    counts = Multiset((Counter.pair_error(*failed),))
    if verdict in {"compared", "timeout"}:
        for name in pair.live.marks:
            counts[Counter.pair_over(name, *_overs(pair, name))] += 1
    if incumbent.prediction is None or candidate.prediction is None or verdict != "compared":
        counts[Counter.mirror_dropped(verdict)] += 1
        return counts
    counts[Counter.MIRROR_COMPARED] += 1
    _count_times(counts, "incumbent", incumbent)
    _count_times(counts, "candidate", candidate)
    vectors = incumbent.prediction.vector, candidate.prediction.vector
    ids = incumbent.top, candidate.top
    counts[Counter.pair_value("cosine", cosine(*vectors))] += 1
    counts[Counter.pair_value("rbo", rank_biased_overlap(*ids))] += 1
    for name, k in _OVERLAPS:
        counts[Counter.pair_value(name, overlap(*ids, k))] += 1
    return counts


def _count_times(counts: Multiset[str], role: Role, attempt: Attempt) -> None:
    """Count an arm's own time, and what its known prefixes did for it, where it tells."""
    latency = Counter.arm_latency(role, attempt.seconds)
    counts[latency] = 1
    if attempt.prefix:
        counts[Counter.by_prefix(latency, attempt.prefix)] = 1


def _overs(pair: Pair, mark: str) -> tuple[bool, bool]:
    """Say which arm took longer than its side of a mark, the incumbent first."""
    one, other = pair.incumbent, pair.candidate
    return (
        is_over(pair.live, mark, "incumbent", one.seconds, one.failure),
        is_over(pair.live, mark, "candidate", other.seconds, other.failure),
    )


def pending_of(
    admission: Admission,
    *,
    answered: Attempt,
    other: Attempt | None = None,
    cell: Cell | None = None,
    live: Live | None = None,
    assigned: Role | None = None,
    key: str | None = None,
    label_window_s: float,
) -> Pending:
    """Keep what a label will be judged by: the first ten ids of every arm that answered.

    `answered` is what the client got, `other` the mirror's attempt. Without a `cell` (outside a
    rollout or its statistics) a label is taken in and counts nowhere.
    """
    if cell is None or live is None:
        return Pending(
            request_id=admission.request_id, at=admission.at, label_window_s=label_window_s
        )
    attempts = (answered,) if other is None else (other, answered)  # the client's answer wins
    return Pending(
        request_id=admission.request_id,
        at=admission.at,
        cell=cell,
        assigned=assigned,
        top={live.role(one.arm): one.top for one in attempts if one.prediction is not None},
        label_window_s=live.label_window_s,
        key=key_digest(live, key),
    )


def vectors_of(pair: Pair) -> Vectors | None:
    """Take what a truth can be compared with; None where an arm failed.

    Half precision: unit vectors' cosines are then wrong by about 1e-5, a hundredth of a bin.
    """
    incumbent, candidate = pair.incumbent.prediction, pair.candidate.prediction
    if incumbent is None or candidate is None:
        return None
    return Vectors(
        request_id=pair.admission.request_id,
        at=pair.admission.at,
        cell=cell_of(pair.live, pair.admission, pair.length),
        label_window_s=pair.live.label_window_s,
        incumbent=incumbent.vector.astype(HALF).tobytes(),
        candidate=candidate.vector.astype(HALF).tobytes(),
        key=key_digest(pair.live, pair.key),
    )


def counts_of_truth(vectors: Vectors, truth: Floats) -> dict[str, int]:
    """Fold a truth `[768]` into increments: each arm's cosine to it, and their difference."""
    incumbent, candidate = (
        cosine(np.frombuffer(arm, HALF).astype(np.float32), truth)
        for arm in (vectors.incumbent, vectors.candidate)
    )
    return {
        Counter.truth_cosine("incumbent", incumbent): 1,
        Counter.truth_cosine("candidate", candidate): 1,
        Counter.truth_difference(candidate - incumbent): 1,
    }


def sample_of(pair: Pair) -> Sample | None:
    """Keep a pair for the report; None where an arm failed."""
    incumbent, candidate = pair.incumbent, pair.candidate
    if incumbent.prediction is None or candidate.prediction is None:
        return None
    ids = incumbent.top, candidate.top
    return Sample(
        request_id=pair.admission.request_id,
        rollout=pair.live.id,
        evidence_epoch=pair.live.evidence_epoch,
        stage=pair.live.counted_stage,
        at=pair.admission.at,
        length=pair.length,
        cosine=cosine(incumbent.prediction.vector, candidate.prediction.vector),
        overlap10=overlap(*ids, KEPT_NEIGHBORS),
        rbo=rank_biased_overlap(*ids),
        latency_ms={
            "incumbent": 1e3 * incumbent.seconds,
            "candidate": 1e3 * candidate.seconds,
        },
        top={"incumbent": ids[0], "candidate": ids[1]},
    )
