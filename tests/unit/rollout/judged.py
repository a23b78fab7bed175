"""Stages as their gateways would have counted them, for the tests of the judge."""

from dataclasses import dataclass, field

from rollout.judging.judge import Judgement, Seen, judge
from rollout.plan import DEFAULT_PLAN, Plan, Stage
from rollout.snapshot import Counter
from rollout.tally import Counts, read

WEEK = 7 * 86_400.0
SHADOW, AB25, AB50, AB100 = DEFAULT_PLAN.stages


@dataclass
class World:
    """What was counted in one stage, and in one stratum of it. Fields are requests or pairs."""

    stage: Stage
    incumbent: int = 0
    candidate: int = 0
    incumbent_errors: int = 0
    candidate_errors: int = 0
    pairs: int = 0
    pair_errors: tuple[int, int, int] = (0, 0, 0)
    """01, 10, 11: the candidate alone, the incumbent alone, both."""
    lost: int = 0
    over: int = 0
    """Of the candidate's requests (in the shadow: of the pairs) over the budget."""
    labels: tuple[int, int] = (0, 0)
    hits: tuple[int, int] = (0, 0)
    """Incumbent, candidate."""
    pair_hits: tuple[int, int, int, int] = (0, 0, 0, 0)
    """00, 01, 10, 11."""
    due: tuple[int, int] | None = None
    k: int = 5
    stratum: str = "101-200"
    more: dict[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """The counters."""
        alone, other, both = self.pair_errors
        fine = self.pairs - alone - other - both
        due = self.due or self.labels
        shadow = self.stage.mode == "shadow"
        return {
            Counter.assigned("incumbent"): self.incumbent,
            Counter.assigned("candidate"): self.candidate,
            Counter.error("incumbent", "status"): self.incumbent_errors,
            Counter.error("candidate", "timeout"): self.candidate_errors,
            Counter.MIRROR_INTENDED: self.pairs + self.lost,
            Counter.MIRROR_COMPARED: fine,
            Counter.mirror_dropped("full"): self.lost,
            "pair.error.00": fine,
            "pair.error.01": alone,
            "pair.error.10": other,
            "pair.error.11": both,
            Counter.over("candidate", "budget"): 0 if shadow else self.over,
            "pair.over.budget.00": self.pairs - (self.over if shadow else 0),
            "pair.over.budget.01": self.over if shadow else 0,
            Counter.labels("incumbent"): self.labels[0],
            Counter.labels("candidate"): self.labels[1],
            Counter.due("incumbent"): due[0],
            Counter.due("candidate"): due[1],
            Counter.hit("incumbent", self.k): self.hits[0],
            Counter.hit("candidate", self.k): self.hits[1],
            Counter.PAIR_DUE: sum(self.pair_hits),
            **{
                f"pair.hit{self.k}.{ab}": n
                for ab, n in zip(("00", "01", "10", "11"), self.pair_hits, strict=True)
            },
            **self.more,
        }

    def seen(self, *more: "World", first: bool = False) -> Seen:
        """What a judge reads; `more` are further strata, `first` counts keys."""
        total = Counts({})
        for one in (self, *more):
            raw = {f"-|{one.stratum}|{name}": n for name, n in one.counts.items()}
            if first:
                raw |= {f"-|{one.stratum}|first.{name}": n for name, n in one.counts.items()}
            total += read(raw)
        return Seen(self.stage, total, total)


def healthy(stage: Stage, n: int = 20_000) -> World:
    """A stage in which nothing is wrong: the candidate is as good as the incumbent."""
    ab = stage.mode == "ab"
    candidate = round(n * stage.weight / 100) if ab else 0
    pairs = round(n * (stage.shadow_sample if ab else stage.weight) / 100)
    labels = (n - candidate, candidate)
    return World(
        stage,
        incumbent=n - candidate,
        candidate=candidate,
        pairs=pairs,
        labels=labels,
        hits=(labels[0] * 6 // 10, labels[1] * 6 // 10),
        pair_hits=(pairs // 4, pairs // 20, pairs // 20, pairs // 2),
    )


def look(
    *seen: Seen,
    plan: Plan = DEFAULT_PLAN,
    elapsed_s: float = WEEK,
    guard_high: float = 0.0,
    marks: tuple[str, ...] = ("budget",),
) -> Judgement:
    """Judge the last stage of `seen`."""
    return judge(plan, seen, elapsed_s, marks=marks, guard_high=guard_high)


def kinds(found: Judgement) -> dict[str, str]:
    """Give the kind of each check of the gate that decides."""
    return {check.name: check.kind for check in found.gate.checks if check.decides}
