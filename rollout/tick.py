"""What a rollout does by itself: one look at the evidence, at most one event. Pure.

The rules stand in the order in which they are asked; the first that speaks decides. What protects
comes before what promotes: a model that changed and the rollback guard are looked at in every live
state, also while a person has paused; only then does anything ask whether it may go on.

No rule promotes on silence. To go on by itself a rollout needs a gate that passed on counts, at
least one live gateway, and every live gateway at the present version. Each tick takes one step at
most, and a stage that was entered has its own minimum duration and sample to reach: so a controller
that comes back after an outage skips no gate and makes up for nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rollout.freeze import frozen
from rollout.machine import Detail, Event, Identities, Record
from rollout.verdict import Judgement
from rollout.wording import span


@dataclass(frozen=True, slots=True)
class Facts:
    """What a tick knows of the gateways. Only those with a fresh heartbeat are counted."""

    gateways: int = 0
    behind: int = 0
    """Live gateways that have not applied the present version."""
    identities: Identities = field(default_factory=dict)
    """Arm -> the models that live gateways see there now; an arm that nobody knows is left out."""
    requests: int = 0
    """In scope, in the present stage."""
    store_lost: bool = False
    """Whether the store stands behind what a gateway has applied."""


@dataclass(frozen=True, slots=True)
class Act:
    """An event that happens now."""

    event: Event
    reason: str
    detail: Detail = field(default_factory=Detail)


@dataclass(frozen=True, slots=True)
class Stay:
    """Nothing happens now, and why."""

    reason: str


Move = Act | Stay


def tick(record: Record, judgement: Judgement, now: float, facts: Facts) -> Move:
    """Decide what happens by itself at Unix second `now`. At most one step."""
    if record.ended:
        return Stay(f"the rollout has ended: {record.state}")
    if facts.store_lost:
        return Stay("the store lost its memory: nothing but an abort is safe")
    return (
        _models(record, facts)
        or _guard(record, judgement)
        or _settle(record, facts)
        or _still(record, now)
        or _limit(record, judgement, now, facts)
        or _gate(record, judgement, now, facts)
    )


# --- what protects -------------------------------------------------------------------------------


def _models(record: Record, facts: Facts) -> Move | None:
    """Compare the models that the evidence is about with those that are there."""
    arms = (record.incumbent, record.plan.candidate)
    seen = {arm: facts.identities[arm] for arm in arms if facts.identities.get(arm)}
    changed = {
        arm: now
        for arm, now in seen.items()
        if arm in record.identities and not set(now) <= set(record.identities[arm])
    }
    if changed:
        told = "; ".join(
            f"{arm} was {_short(record.identities[arm])} and is {_short(now)}"
            for arm, now in changed.items()
        )
        reason = f"a model changed under the rollout ({told}): the evidence so far counts no more"
        return Act("void", reason, Detail(reason=reason, identities=changed))
    learned = {arm: now for arm, now in seen.items() if arm not in record.identities}
    if learned:
        told = ", ".join(f"{arm} is {_short(now)}" for arm, now in learned.items())
        return Act("identify", f"the models under trial: {told}", Detail(identities=learned))
    return None


def _guard(record: Record, judgement: Judgement) -> Move | None:
    guard = judgement.guard
    if guard.kind != "FAIL":
        return None
    if record.plan.on_fail == "rollback":
        return Act("rollback", guard.reason, _left_on(judgement))
    if record.state in ("held", "paused"):
        return None
    return Act("hold", guard.reason, Detail(cause="evidence", reason=guard.reason))


def _settle(record: Record, facts: Facts) -> Move | None:
    """Let the stage's requests count, in every live state, once nobody acts on an older version."""
    if record.visits[-1].settled_at is not None or _silence(facts):
        return None
    return Act(
        "settle",
        f"every live gateway ({facts.gateways}) has applied the stage {record.stage.name}: its "
        "requests are evidence from now on",
    )


def _still(record: Record, now: float) -> Move | None:
    """Stand still for a person."""
    if record.state == "paused":
        return Stay("a person has paused it: `resume` goes on; the rollback guard is armed")
    if record.state == "held":
        why = record.hold.reason if record.hold else "the controller holds it"
        lapsed = record.hold is not None and record.hold.cause == "approval"
        return Stay(f"held: {why}; `{'approve' if lapsed else 'resume'}` goes on")
    if record.state != "waiting":
        return None
    waited = now - (record.asked_at or now)
    limit = record.stage.approval_timeout_s
    if waited >= limit:
        reason = f"nobody approved within {span(limit)}"
        return Act("lapse", reason, Detail(cause="approval", reason=reason))
    return Stay(f"the gate has passed, and an approval is awaited, for {span(limit - waited)} more")


# --- what ends a stage that decides nothing ------------------------------------------------------


def _limit(record: Record, judgement: Judgement, now: float, facts: Facts) -> Move | None:
    gate = judgement.gate
    if gate.kind == "PASS" or (reached := _reached(record, now, facts)) is None:
        return None
    reason = f"{reached}, and the gate says {gate.kind}: {gate.reason}"
    if record.plan.on_inconclusive == "rollback":
        return Act("rollback", reason, _left_on(judgement))
    return Act("hold", reason, Detail(cause="limit", reason=reason))


def _reached(record: Record, now: float, facts: Facts) -> str | None:
    """Say which limit of the stage is reached, unless a person let it go on past that."""
    if record.extended:
        return None
    stage = record.stage
    if stage.max_requests is not None and facts.requests >= stage.max_requests:
        return f"{facts.requests} of at most {stage.max_requests} requests were seen"
    spent = now - record.visits[-1].entered_at
    if stage.max_duration_s is not None and spent >= stage.max_duration_s:
        return f"the stage has lasted {span(spent)} of at most {span(stage.max_duration_s)}"
    return None


# --- what promotes -------------------------------------------------------------------------------


def _gate(record: Record, judgement: Judgement, now: float, facts: Facts) -> Move:
    gate = judgement.gate
    if gate.kind == "ERROR" and record.plan.on_error == "hold":
        return Act("hold", gate.reason, Detail(cause="error", reason=gate.reason))
    if gate.kind != "PASS":
        return Stay(gate.reason)
    barrier = barred(record, now)
    if barrier is None and record.stage.approval and record.approval is None:
        return Act("ask", "the gate has passed, and this stage needs an approval")
    if barrier is None and record.plan.on_pass != "advance":  # noqa: S105 - no password
        barrier = "a person decides: `advance` goes on"
    if barrier := barrier or _silence(facts):
        return Stay(f"the gate has passed, but {barrier}")
    return Act("finish" if record.last else "advance", gate.reason, _left_on(judgement))


def _left_on(judgement: Judgement) -> Detail:
    return Detail(verdict=judgement.gate, guard=judgement.guard)


def _silence(facts: Facts) -> str | None:
    if not facts.gateways:
        return "no gateway is alive"
    if facts.behind:
        return f"{facts.behind} of {facts.gateways} gateways have not applied this version"
    return None


def barred(record: Record, now: float) -> str | None:
    """Say which freeze window keeps everything from going on now; None when there is none."""
    frost = frozen(record.plan.freeze, now)
    return frost.told if frost else None


def _short(identities: tuple[str, ...]) -> str:
    return " and ".join(identity[:12] for identity in identities)


def models(reported: Iterable[Mapping[str, str]]) -> Identities:
    """Gather what each gateway sees (arm -> identity) into arm -> identities."""
    found: dict[str, set[str]] = {}
    for seen in reported:
        for arm, identity in seen.items():
            found.setdefault(arm, set()).add(identity)
    return {arm: tuple(sorted(identities)) for arm, identities in found.items()}
