"""Judge a rollout on all that a store has of it, and say what it was judged by. Reads the store.

Besides what the store holds, two things are kept from look to look: how high the guard has been,
which never falls, and the stages that were read before (`rollout.shown`). Both can be lost: the
first is also in the record at every transition, the second is read again.
"""

from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from rollout.judging.judge import Judgement, judge, unreadable
from rollout.judging.nearness import Nearness, nearness
from rollout.machine import Record
from rollout.minutes import Horizon
from rollout.pace import Lately, Pace, pace
from rollout.shown import Reader, Shown
from rollout.store.port import Observations, Store
from rollout.tally import CountsError, StageTally, summarise
from rollout.trace import PER_LIFE, of_visit


class Measured(NamedTuple):
    """A judgement, and what it was made of."""

    figures: StageTally | None
    """None where the counts cannot be read."""
    judgement: Judgement
    horizon: Horizon
    """How far the judge looked."""
    found: Observations
    shown: Shown | None
    """The present stage, or the last one."""


class Measurer:
    """Judges rollouts, one look after the other."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reader = Reader()
        self._latched: dict[tuple[str, int], float] = {}
        """How high the guard has been (ln), by rollout and evidence epoch."""

    async def judged(self, record: Record, now: float) -> tuple[StageTally | None, Judgement]:
        """Judge the stage that `record` is in, or was left in, on all that its epoch has shown."""
        seen = await self.measured(record, now)
        return seen.figures, seen.judgement

    async def measured(self, record: Record, now: float, lately_s: float = 0.0) -> Measured:
        """Judge, and give what it was judged by; with the minutes of the last `lately_s`."""
        plan = record.plan
        visits = [one for one in record.visits if one.evidence_epoch == record.evidence_epoch]
        by_name = {stage.name: stage for stage in plan.stages}
        horizon = Horizon(
            now=now,
            watermark_s=plan.watermark_s,
            label_window_s=plan.label_window_s,
            wait_for_labels=plan.labels == "closed",
        )
        found = await self._store.observations(
            record.id,
            record.evidence_epoch,
            [one.stage for one in visits],
            horizon=replace(horizon, watermark_s=max(plan.watermark_s, lately_s)),
        )
        epoch = (record.id, record.evidence_epoch)
        stages = [by_name[name] for name in dict.fromkeys(one.stage for one in visits)]
        try:
            read = found.within(horizon) if lately_s > plan.watermark_s else found
            shown = self._reader.read(epoch, stages, read)
        except CountsError as error:
            return Measured(None, Judgement.of(unreadable(str(error))), horizon, found, None)
        judgement = judge(
            plan,
            [one.seen for one in shown],
            (visits[-1].left_at or now) - visits[-1].entered_at,
            marks=record.marks,
            guard_high=max(record.guard_high, self._latched.get(epoch, 0.0)),
        )
        self._latched = {epoch: judgement.guard_high}
        figures = summarise(record.stage, shown[-1].counts.total, plan.stratum_names)
        return Measured(figures, judgement, horizon, found, shown[-1])

    async def pace(self, record: Record, seen: Measured) -> Pace | None:
        """Measure what comes in; None where the counts cannot be read."""
        if seen.shown is None:
            return None
        visit, name = record.visits[-1], record.stage.name
        lately = Lately(
            stage=record.stage,
            counts=seen.shown.counts,
            recent=seen.found.recent[name],
            unclosed=seen.found.unclosed[name],
            horizon=seen.horizon,
            settled_at=visit.settled_at,
            trace=tuple(of_visit(await self._store.trace(record.id, newest=PER_LIFE), visit)),
        )
        with suppress(CountsError):  # of a minute that the judge has no need to know by itself
            return pace(seen.horizon.now, record.plan, lately)
        return None


def nearness_of(record: Record, seen: Measured) -> Nearness | None:
    """Say how near the arms came to the truth; None where the counts cannot be read."""
    if seen.shown is None:
        return None
    return nearness(seen.shown.counts.total.total, by_key=record.plan.unit == "key")
