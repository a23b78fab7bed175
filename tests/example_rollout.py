"""A whole rollout of four stages as its gateways would have counted it, from one seed."""

import hashlib
from collections import Counter as Multiset

import numpy as np

from rollout.document import Model
from rollout.judge import Check, Verdict
from rollout.machine import AuditEntry, Record, State, Visit
from rollout.plan import DEFAULT_PLAN, Stage
from rollout.report import ReportInput
from rollout.snapshot import DEFAULT_TIERS, HITS, Counter, Role, Sample, stratum

START = 1_790_000_000.0
WEEK = 7 * 86_400.0
HIT_RATES: dict[Role, tuple[float, float, float]] = {
    "incumbent": (0.27, 0.55, 0.66),
    "candidate": (0.34, 0.64, 0.76),
}
MEDIAN_S: dict[Role, float] = {"incumbent": 0.0081, "candidate": 0.031}


class Traffic:
    """Draws the requests of one stage and counts them through `Counter`, as a gateway does."""

    def __init__(self, rng: np.random.Generator, stage: Stage, start: float) -> None:
        self.rng = rng
        self.stage = stage
        self.start = start
        self.counts: Multiset[str] = Multiset()
        self.samples: list[Sample] = []
        self.field = ""

    def count(self, counter: str) -> None:
        self.counts[f"{self.field}|{counter}"] += 1

    def chance(self, percent: float) -> bool:
        return bool(self.rng.random() * 100 < percent)

    def request(self) -> None:
        at = self.start + self.rng.random() * WEEK
        length = 101 + int(min(599, self.rng.exponential(160)))
        self.field = f"{int(at // 60)}|{stratum(length)}"
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
        self.count(Counter.latency(role, times[role] + 0.0015))
        labelled = self.chance(40)
        hits = {arm: self.hits(arm) for arm in MEDIAN_S}
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
            self.count(Counter.arm_latency(arm, time))
        self.count(Counter.pair_value("cosine", cosine))
        self.count(Counter.pair_value("overlap1", overlap[1]))
        self.count(Counter.pair_value("overlap5", overlap[5]))
        self.count(Counter.pair_value("overlap10", overlap[10]))
        self.count(Counter.pair_value("rbo", rbo))
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
) -> ReportInput:
    """Everything known of a rollout that came through `stages` of its four stages."""
    rng = np.random.default_rng(seed)
    reached = DEFAULT_PLAN.stages[:stages]
    counts: dict[str, dict[str, int]] = {}
    samples: list[Sample] = []
    for index, stage in enumerate(reached):
        traffic = Traffic(rng, stage, START + index * WEEK)
        for _ in range(requests):
            traffic.request()
        counts[stage.name] = dict(traffic.counts)
        samples += traffic.samples
    end = START + stages * WEEK
    ended = end if state in ("succeeded", "aborted") else None
    left = [START + (index + 1) * WEEK for index in range(stages)]
    visits = tuple(
        Visit(stage=stage.name, entered_at=until - WEEK, left_at=until)
        for stage, until in zip(reached, left, strict=True)
    )
    if ended is None:
        visits = (*visits[:-1], visits[-1].model_copy(update={"left_at": None}))
    record = Record(
        id="default-3f9c", plan=DEFAULT_PLAN, state=state, stage_index=stages - 1,
        evidence_epoch=1, salt="salt-3f9c", incumbent="phase1", started_at=START, ended_at=ended,
        visits=visits, tiers_before=DEFAULT_TIERS,
    )  # fmt: skip
    judged = [visit.stage for visit in visits if visit.left_at is not None]
    return ReportInput(
        record=record,
        counts=counts,
        audit=_audit(record),
        samples=tuple(samples),
        verdicts={name: _verdict() for name in judged},
        models={
            arm: Model(checkpoint=_sha(f"{arm} weights"), bank=_sha("bank"), trained=trained)
            for arm in ("phase1", "phase2")
        },
        made_at=end + 60,
    )


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _verdict() -> Verdict:
    checks = (
        Check(
            name="duration", kind="PASS", observed="7d", required="7d",
            reason="the stage has lasted long enough",
        ),
        Check(
            name="requests", kind="PASS", observed="5976", required="1000",
            reason="enough requests in scope were seen",
        ),
        Check(
            name="candidate errors", kind="PASS", observed="0.25 %", required="at most 0.5 %",
            reason="the candidate's own attempts fail rarely enough to go on",
        ),
        Check(
            name="mirror coverage", kind="PASS", observed="98.3 %", required="at least 95 %",
            reason="nearly all intended comparisons were made",
        ),
    )  # fmt: skip
    return Verdict(kind="PASS", checks=checks, reason="passed: 7 d of 7 d in the stage")


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
