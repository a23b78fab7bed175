"""Looking back: what a report is made of, and how much traffic there was. Reads the store alone."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from rollout.errors import StoreUnavailable
from rollout.forecast import Traffic
from rollout.machine import Record
from rollout.snapshot import KEPT_SAMPLES, Counter, Sample, Scope
from rollout.store.port import Journal, Observations, Store
from rollout.tally import StageTally
from rollout.trace import Point, due, point
from rollout.verdict import Judgement

RECENT_S: Final = 30 * 86_400.0
"""Traffic that is older says nothing about the next stage."""


@dataclass(frozen=True, slots=True)
class History:
    """All that is known of one rollout: what a report is made of."""

    record: Record
    observations: Observations
    journal: Journal
    now: float
    trace: tuple[Point, ...] = ()
    """What the evidence was over time; empty where no controller acted by itself."""


async def gather(store: Store, record: Record, now: float) -> History:
    """Read everything about one rollout: each stage under the last evidence epoch that it had."""
    epochs = {visit.stage: visit.evidence_epoch for visit in record.visits}
    counts: dict[str, dict[str, int]] = {}
    samples: tuple[Sample, ...] = ()
    for epoch in sorted(set(epochs.values())):
        stages = [stage for stage, last in epochs.items() if last == epoch]
        seen = await store.observations(record.id, epoch, stages, samples=KEPT_SAMPLES)
        counts |= {stage: dict(seen.counts[stage]) for stage in stages}
        samples += seen.samples
    ordered = {visit.stage: counts[visit.stage] for visit in record.visits}
    return History(
        record,
        Observations(ordered, samples),
        await store.journal(),
        now,
        await store.trace(record.id),
    )


async def keep_look(
    store: Store,
    record: Record,
    figures: StageTally | None,
    judged: Judgement,
    now: float,
    *,
    acts: bool,
) -> None:
    """Add a look to the rollout's trace, if it is worth keeping (`rollout.trace`).

    A store that is lost meanwhile costs a chart one point, and hides nothing that was done.
    """
    with suppress(StoreUnavailable):
        last = next(iter(await store.trace(record.id, newest=1)), None)
        if due(last, record, now, acts=acts):
            await store.keep(record.id, point(record, figures, judged, now))


async def recent_traffic(store: Store, scope: Scope, now: float) -> Traffic | None:
    """Find the traffic in `scope` in the newest rollout that saw any; None where there is none.

    Traffic outside a rollout is not counted by stage, so this is the only record of it.
    """
    for record in await store.past():
        if record.plan.scope != scope or record.visits[-1].entered_at < now - RECENT_S:
            continue
        visit = record.visits[-1]
        seen = await store.observations(record.id, visit.evidence_epoch, [visit.stage])
        lasted = (visit.left_at or now) - visit.entered_at
        if traffic := _traffic(seen.counts[visit.stage], lasted, f"{record.id}, {visit.stage}"):
            return traffic
    return None


def _traffic(counts: Mapping[str, int], lasted_s: float, source: str) -> Traffic | None:
    totals: dict[str, int] = {}
    for field, value in counts.items():
        name = field.rpartition("|")[2]
        totals[name] = totals.get(name, 0) + value
    assigned = totals.get(Counter.assigned("incumbent"), 0) + totals.get(
        Counter.assigned("candidate"), 0
    )
    keyless = totals.get(Counter.KEYLESS, 0)
    seen = assigned + keyless
    if not seen or lasted_s <= 0:
        return None
    keyed = 100 * assigned / seen if keyless else None
    return Traffic(requests_per_s=seen / lasted_s, keyed_percent=keyed, source=source)
