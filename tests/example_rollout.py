"""A whole rollout of four stages as its gateways would have counted it, from one seed."""

import hashlib
from collections import Counter as Multiset
from collections.abc import Sequence

import numpy as np

from rollout.judging.judge import Seen, judge
from rollout.machine import AuditEntry, Record, State, Visit
from rollout.plan import DEFAULT_PLAN, Stage
from rollout.reporting.document import Model
from rollout.reporting.report import ReportInput
from rollout.snapshot import DEFAULT_TIERS, HITS, KEPT_SAMPLES, Counter, Role, Sample, stratum
from rollout.tally import is_label, read, tally
from rollout.trace import Point, point
from rollout.verdict import Judgement, Verdict

START = 1_790_000_000.0
WEEK = 7 * 86_400.0
PLAN = DEFAULT_PLAN.model_copy(
    update={
        "error_margin": 5.0,
        "error_ratio": 10.0,
        "latency_quantile": "p95",
        "max_error_rate": 1.5,
    }
)
"""Wide margins: this rollout is small enough to be made in a second or two."""
HIT_RATES: dict[Role, tuple[float, float, float]] = {
    "incumbent": (0.27, 0.55, 0.66),
    "candidate": (0.34, 0.64, 0.76),
}
MEDIAN_S: dict[Role, float] = {"incumbent": 0.0081, "candidate": 0.031}


class Traffic:
    """Draws the requests of one stage and counts them through `Counter`, as a gateway does."""

    def __init__(self, rng: np.random.Generator, stage: Stage, start: float) -> None:
        self.rng = rng
        self.truths = np.random.default_rng(1)
        self.stage = stage
        self.start = start
        self.counts: Multiset[str] = Multiset()
        self.samples: list[Sample] = []
        self.field = ""

    def count(self, counter: str) -> None:
        self.counts[f"{self.field}|{counter}"] += 1

    def chance(self, percent: float) -> bool:
        return bool(self.rng.random() * 100 < percent)

    def request(self, at: float) -> None:
        length = 101 + int(min(599, self.rng.exponential(160)))
        self.field = f"-|{stratum(length)}"
        if self.chance(0.4):
            self.count(Counter.OVERRIDDEN)
            return
        ab = self.stage.mode == "ab"
        role: Role = "candidate" if ab and self.chance(self.stage.weight) else "incumbent"
        mirrored = self.chance(self.stage.shadow_sample if ab else self.stage.weight)
        times = {arm: self.latency(arm, length) for arm in MEDIAN_S}
        self.count(Counter.assigned(role))
        if self.chance(0.25 if role == "candidate" else 0.12):
            kind = str(self.rng.choice(["timeout", "connection", "status"], p=[0.6, 0.1, 0.3]))
            self.count(Counter.error(role, kind))
            self.count(Counter.fallback(role))
            times[role] *= 3
        self.time(Counter.latency(role, times[role] + 0.0015), role, length)
        labelled = self.chance(93)
        hits = {arm: self.hits(arm) for arm in MEDIAN_S}
        self.count(Counter.due(role))
        if labelled:
            self.count(Counter.labels(role))
            for k in HITS:
                if hits[role][k]:
                    self.count(Counter.hit(role, k))
        if mirrored:
            self.mirror(at, length, times, hits if labelled else None)

    def mirror(
        self,
        at: float,
        length: int,
        times: dict[Role, float],
        hits: dict[Role, dict[int, bool]] | None,
    ) -> None:
        self.count(Counter.MIRROR_INTENDED)
        if self.chance(1.5):
            self.count(Counter.mirror_dropped(str(self.rng.choice(["full", "timeout"]))))
            return
        failed = (self.chance(0.1), self.chance(0.2))
        self.count(Counter.pair_error(*failed))
        if any(failed):
            return
        self.count(Counter.MIRROR_COMPARED)
        cosine = float(1 - self.rng.beta(2, 12 if length < 250 else 7))
        overlap = {k: float(self.rng.binomial(k, max(0, cosine) ** 2)) / k for k in HITS}
        rbo = float(np.clip(overlap[10] + self.rng.normal(0, 0.05), 0, 1))
        for arm, time in times.items():
            self.time(Counter.arm_latency(arm, time), arm, length)
        self.count(Counter.pair_over("budget", incumbent=False, candidate=False))
        self.count(Counter.PAIR_DUE)
        self.count(Counter.SAMPLED)
        self.count(Counter.pair_value("cosine", cosine))
        self.count(Counter.pair_value("overlap1", overlap[1]))
        self.count(Counter.pair_value("overlap5", overlap[5]))
        self.count(Counter.pair_value("overlap10", overlap[10]))
        self.count(Counter.pair_value("rbo", rbo))
        if hits and len(self.samples) % 4 == 0:
            self.near()
        for k in HITS if hits else ():
            assert hits is not None
            self.count(Counter.pair_hit(k, hits["incumbent"][k], hits["candidate"][k]))
        self.samples.append(
            Sample(
                request_id=self.rng.bytes(8).hex(), rollout="default-3f9c", stage=self.stage.name,
                at=at, length=length, cosine=cosine, overlap10=overlap[10], rbo=rbo,
                latency_ms={arm: 1e3 * time for arm, time in times.items()},
                top={arm: tuple(map(int, self.rng.integers(0, 7200, 10))) for arm in times},
            )
        )  # fmt: skip

    def near(self) -> None:
        incumbent, candidate = self.truths.normal((0.42, 0.46), 0.05)
        self.count(Counter.truth_cosine("incumbent", incumbent))
        self.count(Counter.truth_cosine("candidate", candidate))
        self.count(Counter.truth_difference(candidate - incumbent))

    def time(self, latency: str, role: Role, length: int) -> None:
        self.count(latency)
        slid = length > (100 if role == "incumbent" else 500)
        self.count(Counter.by_prefix(latency, "slid" if slid else ("hit", "miss")[length % 2]))

    def latency(self, role: Role, length: int) -> float:
        reads = min(length, 100 if role == "incumbent" else 500)
        scale = MEDIAN_S[role] * (0.4 + 0.6 * reads / (100 if role == "incumbent" else 250))
        return float(scale * self.rng.lognormal(0, 0.35))

    def hits(self, role: Role) -> dict[int, bool]:
        rank = self.rng.random()
        return {k: bool(rank < rate) for k, rate in zip(HITS, HIT_RATES[role], strict=True)}


def example(
    *,
    seed: int = 7,
    requests: int = 6000,
    trained: bool = False,
    state: State = "succeeded",
    stages: int = 4,
    looks: int = 24,
) -> ReportInput:
    """Everything known of a rollout that came through `stages` of its four stages."""
    rng = np.random.default_rng(seed)
    reached = PLAN.stages[:stages]
    counts: dict[str, dict[str, int]] = {}
    verdicts: dict[str, Verdict] = {}
    samples: list[Sample] = []
    trace: list[Point] = []
    high = 0.0
    for index, stage in enumerate(reached):
        begun = START + index * WEEK
        traffic = Traffic(rng, stage, begun)
        record = _record(state, index + 1)
        for place, at in enumerate(np.sort(rng.random(requests)) * WEEK):
            traffic.request(begun + at)
            if (place + 1) % max(1, requests // looks) == 0:
                counts[stage.name] = dict(traffic.counts)
                judged = _judged(reached[: index + 1], counts, at, high)
                high = judged.guard_high
                trace.append(point(record, tally(stage, traffic.counts), judged, begun + at))
        counts[stage.name] = dict(traffic.counts)
        judged = _judged(reached[: index + 1], counts, WEEK, high)
        verdicts[stage.name] = judged.gate
        kept = sorted(traffic.samples, key=lambda sample: sample.cosine)
        samples += kept[:KEPT_SAMPLES]
    record = _record(state, stages)
    left = {visit.stage for visit in record.visits if visit.left_at is not None}
    return ReportInput(
        record=record,
        counts=counts,
        warm_up={reached[0].name: {"-|101-200|assigned.incumbent": 31}},
        audit=_audit(record),
        samples=tuple(samples),
        truths={
            one.request_id: one.top["candidate"][place % 10]
            for place, one in enumerate(samples[::2])
        },
        verdicts={name: verdict for name, verdict in verdicts.items() if name in left},
        judged=judged,
        trace=tuple(trace),
        models={
            arm: Model(checkpoint=_sha(f"{arm} weights"), bank=_sha("bank"), trained=trained)
            for arm in ("phase1", "phase2")
        },
        made_at=START + stages * WEEK + 60,
    )


def _judged(
    stages: Sequence[Stage], counts: dict[str, dict[str, int]], elapsed_s: float, high: float
) -> Judgement:
    read_ = {stage.name: read(counts[stage.name]) for stage in stages}
    seen = [
        Seen(stage, one.only(lambda name: not is_label(name)), one.only(is_label))
        for stage in stages
        for one in [read_[stage.name]]
    ]
    return judge(PLAN, seen, elapsed_s, guard_high=high)


def _record(state: State, stages: int) -> Record:
    ended = START + stages * WEEK if state in ("succeeded", "aborted", "rolled_back") else None
    visits = [
        Visit(
            stage=stage.name,
            entered_at=START + index * WEEK,
            left_at=START + (index + 1) * WEEK,
        )
        for index, stage in enumerate(PLAN.stages[:stages])
    ]
    if ended is None:
        visits[-1] = visits[-1].model_copy(update={"left_at": None})
    return Record(
        id="default-3f9c", plan=PLAN, state=state, stage_index=stages - 1,
        evidence_epoch=1, salt="salt-3f9c", incumbent="phase1", started_at=START, ended_at=ended,
        visits=tuple(visits), tiers_before=DEFAULT_TIERS,
    )  # fmt: skip


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _audit(record: Record) -> tuple[AuditEntry, ...]:
    steps: list[AuditEntry] = []
    before, stage_before = "none", ""
    commands = [("start", "running", visit) for visit in record.visits[:1]]
    commands += [("advance", "running", visit) for visit in record.visits[1:]]
    for version, (command, after, visit) in enumerate(commands, start=1):
        steps.append(
            AuditEntry(
                at=visit.entered_at, actor="mara@example.org", command=command,
                reason="phase2 <read> on the validation chains" if version == 1 else "gate passed",
                rollout=record.id, state_before=before, state_after=after,
                stage_before=stage_before, stage_after=visit.stage, epoch=1, version=version,
            )
        )  # fmt: skip
        before, stage_before = after, visit.stage
    if record.ended_at is not None:
        steps.append(
            steps[-1].model_copy(
                update={
                    "at": record.ended_at, "command": "finish", "reason": "all four gates passed",
                    "state_before": "running", "state_after": record.state,
                    "stage_before": stage_before, "version": len(steps) + 1,
                }
            )
        )  # fmt: skip
    return tuple(steps)
