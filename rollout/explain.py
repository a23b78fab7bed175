"""Why a rollout is held, or failed, or went on: one document, for people and programs alike. Pure.

It is made of what the tick itself goes by: the record, the verdicts of gate and guard, the counts
of the present stage, the gateways' heartbeats and the audit. So it never says anything that the
controller would not act on, and the report, the audit and this document agree on every figure.

`because` is the answer in sentences, the most important one first. `notices` are the conditions
that keep a rollout from going on, or its evidence from coming in, each with a name from a closed
set. `missing` is what the stage's gate still waits for, with the time that it takes at the mean
rate of this stage.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rollout.explanation import Acted, Explanation, Gateways, Missing, Notice, Traffic
from rollout.freeze import frozen
from rollout.machine import AuditEntry, Record, State
from rollout.plan import Stage
from rollout.snapshot import HITS, Heartbeat, Position
from rollout.tally import StageTally, percent
from rollout.tick import Act, Move
from rollout.verdict import Judgement, Per, Verdict
from rollout.wording import count, span
from rollout.wording import percent as written_percent

PATIENCE_S: Final = 60.0
"""How long a stage may be without traffic, or without labels, before that is worth a notice."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What there is to explain. `move`: None where the rollout has ended."""

    record: Record
    now: float
    position: Position | None
    alive: tuple[Heartbeat, ...]
    leader: str | None
    store_lost: str | None
    figures: StageTally | None
    judgement: Judgement | None
    move: Move | None
    entries: tuple[AuditEntry, ...]
    """Of this rollout, oldest first."""
    ticker: str
    """Who acts, in the audit, when nobody asked."""


def explain(seen: Situation) -> Explanation:
    """Say why a rollout is where it is, what is missing, and what comes next."""
    record, judgement = seen.record, seen.judgement
    traffic = _traffic(seen)
    missing = () if record.ended else tuple(_missing(seen, traffic))
    notices = () if record.ended else tuple(_notices(seen, traffic))
    last = _acted(seen.entries)
    return Explanation(
        now=seen.now,
        version=str(seen.position) if seen.position else None,
        rollout=record.id,
        state=record.state,
        candidate=record.plan.candidate,
        incumbent=record.incumbent,
        stage=record.stage.name,
        stage_number=record.stage_index + 1,
        stages=len(record.plan.stages),
        mode=record.stage.mode,
        weight=0.0 if record.ended else record.stage.weight,
        visit=record.visits[-1],
        evidence_epoch=record.evidence_epoch,
        headline=_headline(seen),
        because=tuple(_because(seen, last, missing)),
        notices=notices,
        verdict=_verdict(record, judgement),
        guard=judgement.guard if judgement and not record.ended else None,
        guard_high=judgement.guard_high if judgement and not record.ended else None,
        missing=missing,
        earliest_s=_earliest(missing),
        next=_next(seen),
        leader=seen.leader,
        last=last,
        last_person=_acted([entry for entry in seen.entries if entry.actor != seen.ticker]),
        traffic=traffic,
        gateways=_gateways(seen),
    )


def _verdict(record: Record, judgement: Judgement | None) -> Verdict | None:
    """Give what the last stage was left on, else what its gate says now, as the report does."""
    left_on = record.verdicts.get(record.stage.name) if record.ended else None
    return left_on or (judgement.gate if judgement else None)


# --- the answer in sentences ---------------------------------------------------------------------

_HEADLINES: Final[dict[State, str]] = {
    "running": "runs in the stage {stage} ({number} of {stages})",
    "waiting": "waits for an approval in the stage {stage} ({number} of {stages})",
    "paused": "is paused in the stage {stage} ({number} of {stages})",
    "held": "is held in the stage {stage} ({number} of {stages})",
    "succeeded": "has succeeded: {candidate} is active",
    "aborted": "was aborted in the stage {stage} ({number} of {stages})",
    "rolled_back": "was rolled back in the stage {stage} ({number} of {stages})",
    "undone": "was undone after its success",
}


def _headline(seen: Situation) -> str:
    record = seen.record
    told = _HEADLINES[record.state].format(
        stage=record.stage.name,
        number=record.stage_index + 1,
        stages=len(record.plan.stages),
        candidate=record.plan.candidate,
    )
    return f"{record.id} {told}"


def _because(seen: Situation, last: Acted | None, missing: Sequence[Missing]) -> Iterator[str]:
    record = seen.record
    if seen.store_lost:
        yield seen.store_lost
    if record.ended:
        yield _ended(record, last)
        return
    if record.hold:
        yield f"The controller holds it for {span(seen.now - record.hold.at)}: {record.hold.reason}"
    if record.state == "paused" and last:
        yield f"{last.actor} paused it: {last.reason}"
    if seen.judgement:
        yield f"The gate says {seen.judgement.gate.kind}: {seen.judgement.gate.reason}"
        if seen.judgement.guard.kind == "FAIL":
            yield f"The rollback guard says FAIL: {seen.judgement.guard.reason}"
    if entered := _entry_into(seen):
        told = f" ({entered.note})" if entered.note else ""
        yield (
            f"The stage was entered by {entered.actor}, {span(seen.now - entered.at)} ago: "
            f"{entered.command}, {entered.reason}{told}"
        )
    yield from (need.told for need in missing)
    following = _next(seen)
    if following and not (seen.judgement and following == seen.judgement.gate.reason):
        yield f"Next: {following}"


def _ended(record: Record, last: Acted | None) -> str:
    verdict = record.verdicts.get(record.stage.name)
    judged = f"; the gate of {record.stage.name} said {verdict.kind}" if verdict else ""
    if last is None:
        return f"It has ended ({record.state}); the audit remembers it no more{judged}"
    told = last.note or last.reason
    also = f" ({last.reason})" if last.note and last.reason not in last.note else ""
    return f"{last.actor} did it ({last.command}): {told}{also}{judged}"


def _entry_into(seen: Situation) -> AuditEntry | None:
    """Find the transition that led into the present stage."""
    stage = seen.record.stage.name
    found = [
        entry
        for entry in seen.entries
        if entry.stage_after == stage and entry.stage_before != stage
    ]
    return found[-1] if found else None


def _next(seen: Situation) -> str | None:
    if seen.record.ended or seen.move is None:
        return None
    if isinstance(seen.move, Act):
        return f"{seen.move.event}, at the next look: {seen.move.reason}"
    return seen.move.reason


def _acted(entries: Sequence[AuditEntry]) -> Acted | None:
    if not entries:
        return None
    entry = entries[-1]
    return Acted(
        at=entry.at,
        actor=entry.actor,
        command=entry.command,
        reason=entry.reason,
        note=entry.note,
        version=f"{entry.epoch}.{entry.version}",
        state_after=entry.state_after,
        stage_after=entry.stage_after,
    )


# --- what is missing -----------------------------------------------------------------------------


def _missing(seen: Situation, traffic: Traffic | None) -> Iterator[Missing]:
    stage = seen.record.stage
    spent = seen.now - seen.record.visits[-1].entered_at
    if spent < stage.min_duration_s:
        left = stage.min_duration_s - spent
        told = f"{span(left)} more until the least duration of {span(stage.min_duration_s)}"
        yield Missing(
            check="minimum duration", quantity="seconds", needed=left, seconds=left, told=told
        )
    if traffic is None or seen.figures is None:
        return
    rates = _rates(stage, seen.figures, traffic.requests_per_s or 0.0)
    minima: tuple[tuple[Per, int, int], ...] = (
        ("requests", traffic.requests, max(1, stage.min_requests)),
        ("pairs", traffic.pairs, stage.min_pairs),
    )
    for quantity, have, least in minima:
        if have < least:
            yield _more(f"minimum {quantity}", quantity, least - have, rates)
    for check in seen.judgement.gate.checks if seen.judgement else ():
        proof = check.evidence
        if check.kind != "INCONCLUSIVE" or not check.decides or proof is None:
            continue
        if proof.needed is not None:
            yield _more(check.name, proof.per, proof.needed, rates)
        else:
            told = f"no decision of the check {check.name!r} is in sight yet"
            yield Missing(
                check=check.name, quantity=proof.per, needed=None, seconds=None, told=told
            )


def _rates(stage: Stage, figures: StageTally, per_s: float) -> dict[Per, float]:
    """Give what comes in per second; of what was not seen yet, the share that is intended.

    No truth is intended: of labels only those that came tell how many come.
    """
    mirrored = stage.weight if stage.mode == "shadow" else stage.shadow_sample
    served = stage.weight if stage.mode == "ab" else 0.0
    each = per_s / figures.requests if figures.requests else 0.0
    candidate = figures.candidate.assigned
    return {
        "requests": per_s,
        "candidate requests": each * candidate if candidate else per_s * served / 100,
        "pairs": each * figures.pairs if figures.pairs else per_s * mirrored / 100,
        "labelled requests": each * (figures.incumbent.labels + figures.candidate.labels),
        "labelled candidate requests": each * figures.candidate.labels,
        "labelled pairs": each * sum(figures.pair_hits[HITS[0]].values()),
    }


def _more(check: str, quantity: Per, needed: int, rates: Mapping[Per, float]) -> Missing:
    rate = rates[quantity]
    seconds = needed / rate if rate > 0 else None
    took = "never at this rate" if seconds is None else f"about {span(seconds)} at this rate"
    return Missing(
        check=check,
        quantity=quantity,
        needed=needed,
        seconds=seconds,
        told=f"{count(needed)} more {quantity} for the check {check!r}: {took}",
    )


def _earliest(missing: Sequence[Missing]) -> float | None:
    """Give the time until the last of them is there; 0 when nothing is missing."""
    longest = max((math.inf if m.seconds is None else m.seconds for m in missing), default=0.0)
    return longest if math.isfinite(longest) else None


# --- what is seen --------------------------------------------------------------------------------


def _traffic(seen: Situation) -> Traffic | None:
    figures, visit = seen.figures, seen.record.visits[-1]
    if figures is None:
        return None
    lasted = (visit.left_at or seen.now) - (visit.settled_at or visit.entered_at)
    return Traffic(
        requests=figures.requests,
        requests_per_s=figures.requests / lasted if lasted > 0 else None,
        pairs=figures.pairs,
        labels=figures.incumbent.labels + figures.candidate.labels,
        keyless=figures.keyless,
        keyless_percent=percent(figures.keyless, figures.keyless + figures.requests),
    )


def _gateways(seen: Situation) -> Gateways:
    return Gateways(
        alive=len(seen.alive),
        behind=tuple(beat.boot for beat in seen.alive if beat.position != seen.position),
        held=tuple(beat.boot for beat in seen.alive if beat.held),
        dropped=sum(beat.dropped for beat in seen.alive),
    )


def _notices(seen: Situation, traffic: Traffic | None) -> Iterator[Notice]:
    if seen.store_lost:
        yield Notice(name="store_lost", told=f"{seen.store_lost}; only an abort is safe")
    if seen.leader is None:
        yield Notice(
            name="no_leader", told="no controller leads: nothing happens by itself, commands work"
        )
    yield from _gateway_notices(seen)
    if frost := frozen(seen.record.plan.freeze, seen.now):
        yield Notice(name="frozen", told=f"{frost.told}: nothing advances, an abort works")
    if traffic:
        yield from _traffic_notices(seen, traffic)


def _gateway_notices(seen: Situation) -> Iterator[Notice]:
    gateways = _gateways(seen)
    alive = gateways.alive
    if not alive:
        yield Notice(name="no_gateway", told="no gateway is alive: no heartbeat for 10 s or more")
    if gateways.behind:
        names = ", ".join(gateways.behind)
        yield Notice(
            name="gateway_behind",
            told=f"{len(gateways.behind)} of {alive} gateways have not applied version "
            f"{seen.position}: {names}",
        )
    if gateways.held:
        yield Notice(
            name="held_locally",
            told=f"{len(gateways.held)} of {alive} gateways send nothing to the candidate, by "
            f"their file hold-at-incumbent: {', '.join(gateways.held)}",
        )
    if gateways.dropped:
        yield Notice(
            name="counts_dropped",
            told=f"{count(gateways.dropped)} counts were lost in full spools since the gateways "
            "started",
        )


def _traffic_notices(seen: Situation, traffic: Traffic) -> Iterator[Notice]:
    visit = seen.record.visits[-1]
    if visit.settled_at is None:
        yield Notice(
            name="warm_up",
            told="no request counts yet: not every live gateway has applied this stage",
        )
        return
    spent = seen.now - visit.settled_at
    if spent < PATIENCE_S:
        return
    if not traffic.requests:
        yield Notice(
            name="no_traffic", told=f"no request in scope was counted in {span(spent)} of the stage"
        )
    elif not traffic.labels:
        yield Notice(
            name="no_labels",
            told=f"no label has arrived for {count(traffic.requests)} requests: Hit@k cannot be "
            "judged without feedback",
        )
    if traffic.keyless and seen.record.plan.unit == "key" and traffic.keyless_percent is not None:
        yield Notice(
            name="keyless",
            told=f"{written_percent(traffic.keyless_percent)} of the requests in scope have no "
            "routing key: they stay with the incumbent, outside the statistics",
        )
