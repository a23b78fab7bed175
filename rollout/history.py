"""Looking back: what a report is made of, and how much traffic there was. Reads the store alone."""

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from rollout.background import Background, background, place, tiers_in_scope
from rollout.errors import StoreUnavailable
from rollout.forecast import DAY_S, Traffic, Unmeasured
from rollout.gates import LatencyQuantile
from rollout.machine import Record
from rollout.marks import quantiles
from rollout.plan import Plan
from rollout.snapshot import KEPT_SAMPLES, Arm, Counter, Role, Sample, Scope, Tier, warm_up
from rollout.store.port import Journal, Observations, Store
from rollout.tally import StageTally
from rollout.trace import Point, due, point
from rollout.verdict import Judgement
from rollout.wording import count, span

RECENT_S: Final = 30 * 86_400.0
"""Traffic that is older says nothing about the next stage."""


@dataclass(frozen=True, slots=True)
class History:
    """All that is known of one rollout: what a report is made of."""

    record: Record
    observations: Observations
    journal: Journal
    now: float
    warm_up: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    """Raw totals by stage, of what was counted before every gateway had applied it."""
    judged: Judgement | None = None
    """What the judge says of the present stage, or of the last one."""
    trace: tuple[Point, ...] = ()
    """What the evidence was over time; empty where no controller acted by itself."""


async def gather(
    store: Store, record: Record, now: float, judged: Judgement | None = None
) -> History:
    """Read everything about one rollout: each stage under the last evidence epoch that it had."""
    epochs = {visit.stage: visit.evidence_epoch for visit in record.visits}
    counts: dict[str, dict[str, int]] = {}
    warm: dict[str, dict[str, int]] = {}
    samples: tuple[Sample, ...] = ()
    truths: dict[str, int] = {}
    for epoch in sorted(set(epochs.values())):
        stages = [stage for stage, last in epochs.items() if last == epoch]
        early = [warm_up(stage) for stage in stages]
        seen = await store.observations(record.id, epoch, [*stages, *early], samples=KEPT_SAMPLES)
        counts |= {stage: dict(seen.counts[stage]) for stage in stages}
        warm |= {stage: dict(seen.counts[warm_up(stage)]) for stage in stages}
        samples += tuple(one for one in seen.samples if one.stage in stages)  # no warm-up
        truths |= seen.truths
    ordered = {visit.stage: counts[visit.stage] for visit in record.visits}
    return History(
        record,
        Observations(ordered, samples, truths),
        await store.journal(),
        now,
        warm_up=warm,
        judged=judged,
        trace=await store.trace(record.id),
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


async def lately(
    store: Store, plan: Plan, tiers: tuple[Tier, ...], now: float, arm: str | None = None
) -> Background:
    """Gather what was seen in the plan's scope outside rollouts, since the last one, for a day.

    `arm` asks for what that one answered; by default, all. Raises StoreUnavailable.
    """
    arms = [tier.arm for tier in tiers] if arm is None else [arm]
    inside = tiers_in_scope(tiers, plan.candidate, plan.scope)
    places = [place(tier, one) for tier in inside for one in arms]
    ended = [record.ended_at or 0.0 for record in await store.past()]
    return background(await store.background(places, now), now, max((now - DAY_S, *ended)))


async def recent_traffic(
    store: Store, plan: Plan, tiers: tuple[Tier, ...], now: float
) -> Traffic | Unmeasured:
    """Find the traffic in a plan's scope, lately, or say why nothing is known of it.

    First what gateways saw outside rollouts since the last one, once that is a minute; else the
    newest rollout that saw any, whose requests were its own.
    """
    seen = await lately(store, plan, tiers, now)
    if seen.per_s:
        source = f"no rollout, the last {span(seen.seconds)}"
        return Traffic(
            requests_per_s=seen.per_s,
            keyed_percent=100 * seen.keyed / seen.requests,
            source=source,
        )
    if found := await _traffic_on_trial(store, plan.scope, now):
        return found
    if seen.requests:
        return Unmeasured(
            told=f"only {span(seen.seconds)} of traffic in scope was seen so far "
            f"({count(seen.requests)} requests), too short for a rate"
        )
    return Unmeasured()


async def _traffic_on_trial(store: Store, scope: Scope, now: float) -> Traffic | None:
    for record in await store.past():
        if record.plan.scope != scope or record.visits[-1].entered_at < now - RECENT_S:
            continue
        visit = record.visits[-1]
        seen = await store.observations(record.id, visit.evidence_epoch, [visit.stage])
        if traffic := _traffic(seen.counts[visit.stage], record, (visit.left_at or now)):
            return traffic
    return None


async def recent_latency(
    store: Store, plan: Plan, tiers: tuple[Tier, ...], arm: Arm, now: float
) -> dict[LatencyQuantile, float]:
    """Find the quantiles (seconds) of what clients of `arm` waited for in a plan's scope, lately.

    First outside rollouts, since the last one; else in the newest rollout that served enough.
    """
    if found := quantiles((await lately(store, plan, tiers, now, arm=arm)).bins):
        return found
    return await _latency_on_trial(store, plan.scope, arm, now)


async def _latency_on_trial(
    store: Store, scope: Scope, arm: Arm, now: float
) -> dict[LatencyQuantile, float]:
    for record in await store.past():
        role: Role = "candidate" if arm == record.plan.candidate else "incumbent"
        if record.plan.scope != scope or (role == "incumbent" and arm != record.incumbent):
            continue
        for visit in reversed(record.visits):
            if visit.entered_at < now - RECENT_S:
                break
            seen = await store.observations(record.id, visit.evidence_epoch, [visit.stage])
            if found := quantiles(_latencies(seen.counts[visit.stage], role)):
                return found
    return {}


def _latencies(counts: Mapping[str, int], role: Role) -> dict[int, int]:
    prefix, bins = f"latency.{role}.", dict[int, int]()
    for field, value in counts.items():
        name = field.rpartition("|")[2]
        if name.startswith(prefix) and (tail := name.removeprefix(prefix)).isdecimal():
            bins[int(tail)] = bins.get(int(tail), 0) + value
    return bins


def _traffic(counts: Mapping[str, int], record: Record, until: float) -> Traffic | None:
    """Say what a record's last stage saw, until Unix second `until`. By request, no keys count."""
    visit = record.visits[-1]
    lasted_s = until - visit.entered_at
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
    return Traffic(
        requests_per_s=seen / lasted_s,
        keyed_percent=100 * assigned / seen if record.plan.unit == "key" else None,
        source=f"{record.id}, {visit.stage}",
    )
