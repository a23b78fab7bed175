"""From what a store holds to what the judge reads, stage by stage. Pure.

Most stages are stages that were left: at each look their counts are the ones of the look before.
They are then handed on as they were, and the judge is spared its arithmetic.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rollout.judging.readings import Seen
from rollout.plan import Stage
from rollout.store.port import Observations
from rollout.tally import StageCounts

Raw = tuple[Mapping[str, int], Mapping[str, int], Mapping[str, int]]
"""A stage's totals, recent minutes and unclosed labels."""


class Shown(NamedTuple):
    """One stage's counts, and what a judge may see of them."""

    raw: Raw
    counts: StageCounts
    seen: Seen


class Reader:
    """Reads the stages of one rollout under one evidence epoch, again and again."""

    def __init__(self) -> None:
        self._of: object = None
        self._shown: dict[str, Shown] = {}

    def read(self, of: object, stages: Sequence[Stage], found: Observations) -> tuple[Shown, ...]:
        """Read `stages`, the visited ones in order, of the rollout and epoch `of`.

        Raises CountsError.
        """
        if of != self._of:
            self._of, self._shown = of, {}
        return tuple(self._stage(stage, found) for stage in stages)

    def _stage(self, stage: Stage, found: Observations) -> Shown:
        name = stage.name
        raw = (found.counts[name], found.recent.get(name, {}), found.unclosed.get(name, {}))
        held = self._shown.get(name)
        if held is None or held.raw != raw or held.seen.stage != stage:
            counts = found.stage(name)
            held = Shown(raw, counts, Seen(stage, counts.counts, counts.labels))
            self._shown[name] = held
        return held
