"""What a new rollout is, before anything is written: decided from a plan and the store. Reads."""

from collections.abc import Callable

from rollout import history
from rollout.errors import FrozenNow
from rollout.forecast import forecast
from rollout.machine import IllegalTransition, Record, begin
from rollout.marks import marks_of, unknown_marks
from rollout.orders import FrozenStart
from rollout.plan import Plan
from rollout.snapshot import Tier
from rollout.store.port import Store, Stored
from rollout.tick import barred
from rollout.tiers import CannotStart, incumbent_of, merge_tiers, table_changes
from rollout.transition import UNCHANGED, Decision


async def begun(
    store: Store,
    settings: tuple[Tier, ...],
    plan: Plan,
    stored: Stored,
    *,
    new_token: Callable[[], str],
    before: Record | None = None,
) -> Decision:
    """Decide about a new rollout; `settings` is their tier table, `before` the one tried again.

    Raises IllegalTransition, CannotStart, FrozenNow.
    """
    held = stored.record
    if held and not held.ended:
        raise IllegalTransition(
            f"start is illegal: {held.id} is {held.state} in its stage "
            f"{held.stage.name!r}, and one rollout runs at a time"
        )
    known = stored.furthest.applied if stored.lost and stored.furthest else stored.snapshot
    held_tiers = known.tiers if known else ()
    tiers = merge_tiers(settings, held_tiers)
    incumbent = incumbent_of(plan.candidate, tiers)
    latency = await history.recent_latency(store, plan, tiers, incumbent, stored.now)
    marks = marks_of(plan, latency)
    if missing := unknown_marks(plan, marks):
        raise CannotStart(
            f"the plan {plan.name!r} requires latency_relative, and the recent "
            f"{' and '.join(missing)} of {incumbent} in its scope is not known: a rollout that "
            "does not require it measures it"
        )
    record = begin(
        plan,
        tiers,
        id_=f"{plan.name}-{new_token()[:8]}",
        salt=new_token(),
        now=stored.now,
        retry_of=before,
        marks=marks,
    )
    traffic = await history.recent_traffic(store, plan, tiers, stored.now)
    takes = forecast(plan, traffic)
    if told := _frost(record, stored.now):
        raise FrozenStart(told, takes)
    changes = table_changes(held_tiers, tiers) if held_tiers else ()
    return Decision.of(
        None,
        record,
        forecast=takes,
        also="; ".join([f"the tier table changes: {', '.join(changes)}"] if changes else []),
    )


def thawed(record: Record, now: float) -> None:
    """Raise FrozenNow in a freeze window of a record's plan."""
    if told := _frost(record, now):
        raise FrozenNow(told)


def _frost(record: Record, now: float) -> str | None:
    told = barred(record, now)
    return f"the plan {record.plan.name!r} is {told}: {UNCHANGED}" if told else None
