"""Why a rollout is held, or failed, or went on: one document, for people and programs alike. Pure.

It is made of what the tick itself goes by: the record, the verdicts of gate and guard, the counts
of the present stage, the gateways' heartbeats and the audit. So it never says anything that the
controller would not act on, and the report, the audit and this document agree on every figure.

`because` is the answer in sentences, the most important one first. `notices` are the conditions
that keep a rollout from going on, or its evidence from coming in, each with a name from a closed
set. `missing` is what the stage's gate still waits for, with the time that it takes at the rate of
the last minutes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rollout.advice import advice
from rollout.explanation import (
    Acted,
    Explanation,
    Gateways,
    Missing,
    Notice,
    Traffic,
    Waiting,
)
from rollout.freeze import frozen
from rollout.judging.nearness import Nearness
from rollout.machine import AuditEntry, Record, State
from rollout.outlook import earliest, missing
from rollout.pace import PATIENCE_S, Pace
from rollout.snapshot import Heartbeat, Position
from rollout.stakes import guard_of
from rollout.tally import StageTally, percent
from rollout.tick import Act, Move
from rollout.verdict import Judgement, Verdict
from rollout.wording import count, span, write
from rollout.wording import percent as written_percent


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
    pace: Pace | None = None
    """Of the present stage; None where the rollout has ended, or its counts cannot be read."""
    nearness: Nearness | None = None


def explain(seen: Situation) -> Explanation:
    """Say why a rollout is where it is, what is missing, and what comes next."""
    record, judgement = seen.record, seen.judgement
    traffic = _traffic(seen)
    lacking = _missing(seen)
    notices = () if record.ended else tuple(_notices(seen, traffic))
    last = _acted(seen.entries)
    guard, high = guard_of(record, judgement) or (None, None)
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
        because=tuple(_because(seen, last, lacking)),
        notices=notices,
        verdict=_verdict(record, judgement),
        guard=guard,
        guard_high=high,
        missing=lacking,
        earliest_s=earliest(lacking),
        next=_next(seen),
        leader=seen.leader,
        last=last,
        last_person=_acted([entry for entry in seen.entries if entry.actor != seen.ticker]),
        traffic=traffic,
        nearness=seen.nearness,
        gateways=_gateways(seen),
    )


def _missing(seen: Situation) -> tuple[Missing, ...]:
    if seen.record.ended or seen.judgement is None:
        return ()
    return tuple(missing(seen.judgement.gate, seen.pace))


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


def _because(seen: Situation, last: Acted | None, lacking: Sequence[Missing]) -> Iterator[str]:
    record = seen.record
    if seen.store_lost:
        yield seen.store_lost
    if record.ended:
        yield _ended(record, seen.judgement, last)
        return
    if record.hold:
        yield f"The controller holds it for {span(seen.now - record.hold.at)}: {record.hold.reason}"
    if record.state == "paused" and last:
        yield f"{last.actor} paused it: {last.reason}"
    if seen.judgement:
        yield f"The gate says {seen.judgement.gate.kind}: {seen.judgement.gate.reason}"
        yield from advice(seen.judgement.gate)
        if seen.judgement.guard.kind == "FAIL":
            yield f"The rollback guard says FAIL: {seen.judgement.guard.reason}"
    if entered := _entry_into(seen):
        told = f" ({entered.note})" if entered.note not in entered.reason else ""
        yield (
            f"The stage was entered by {entered.actor}, {span(seen.now - entered.at)} ago: "
            f"{entered.command}, {entered.reason}{told}"
        )
    yield from (need.told for need in lacking)
    following = _next(seen)
    if following and not (seen.judgement and following == seen.judgement.gate.reason):
        yield f"Next: {following}"


def _ended(record: Record, judgement: Judgement | None, last: Acted | None) -> str:
    name = record.stage.name
    left_on = record.verdicts.get(name)
    verdict, when = (left_on, "said") if left_on else (judgement and judgement.gate, "says now")
    judged = ""
    if verdict:
        why = "" if last and verdict.reason in (last.note, last.reason) else f": {verdict.reason}"
        judged = f"; the gate of {name} {when} {verdict.kind}{why}"
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


# --- what is seen --------------------------------------------------------------------------------


def _traffic(seen: Situation) -> Traffic | None:
    figures, pace = seen.figures, seen.pace
    if figures is None:
        return None
    return Traffic(
        requests=figures.requests,
        requests_per_s=pace.per_s["requests"] if pace else None,
        seconds=pace.seconds if pace else 0.0,
        pairs=figures.pairs,
        labels=figures.incumbent.labels + figures.candidate.labels,
        keyless=figures.keyless,
        keyless_percent=percent(figures.keyless, figures.keyless + figures.requests),
        read=dict(pace.visible) if pace else {},
        waiting=_waiting(pace) if pace else None,
        quiet_s=pace.quiet_s if pace else 0.0,
        unlabelled_s=pace.unlabelled_s if pace else 0.0,
    )


def _waiting(pace: Pace) -> Waiting:
    requests, labels = pace.requests_wait, pace.labels_wait
    return Waiting(
        requests=requests.number,
        requests_from=requests.first_at,
        requests_until=requests.last_at,
        labels=labels.number,
        labels_from=labels.first_at,
        labels_until=labels.last_at,
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
    yield from _waits(seen, traffic)
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
    yield from _stopped(traffic)
    if traffic.keyless and seen.record.plan.unit == "key" and traffic.keyless_percent is not None:
        yield Notice(
            name="keyless",
            told=f"{written_percent(traffic.keyless_percent)} of the requests in scope have no "
            "routing key: they stay with the incumbent, outside the statistics",
        )


def _stopped(traffic: Traffic) -> Iterator[Notice]:
    if traffic.quiet_s:
        yield Notice(
            name="traffic_stopped",
            told=f"no request in scope has come for {span(traffic.quiet_s)}, after "
            f"{count(traffic.requests)} in this stage: are the gateways reached?",
        )
    if traffic.unlabelled_s:
        yield Notice(
            name="labels_stopped",
            told=f"no label has arrived for {span(traffic.unlabelled_s)}, after "
            f"{count(traffic.labels)} in this stage: is feedback still sent?",
        )


def _waits(seen: Situation, traffic: Traffic) -> Iterator[Notice]:
    """Say what is not read yet, where that is more than what is."""
    waiting = traffic.waiting
    if waiting is None or seen.judgement is None or seen.judgement.gate.kind == "PASS":
        return
    told = []
    if 2 * waiting.requests > traffic.requests:
        told.append(
            f"{count(waiting.requests)} of {count(traffic.requests)} requests wait for the "
            f"watermark of {span(seen.record.plan.watermark_s)} "
            f"({_readable(waiting.requests_from, waiting.requests_until)})"
        )
    if 2 * waiting.labels > traffic.labels:
        told.append(
            f"{count(waiting.labels)} of {count(traffic.labels)} labels wait for their label "
            f"window of {span(seen.record.plan.label_window_s)} to close "
            f"({_readable(waiting.labels_from, waiting.labels_until)})"
        )
    if told:
        yield Notice(name="waiting", told=f"the judge does not read all yet: {'; '.join(told)}")


def _readable(first: float | None, last: float | None) -> str:
    if first is None or last is None or first == last:
        return f"until {write(last, 'when')}"
    return f"the first until {write(first, 'when')}, all until {write(last, 'when')}"
