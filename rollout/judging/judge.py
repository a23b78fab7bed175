"""Counts and a plan in, a judgement with its reasons out. Pure.

Two questions are answered at every look, by e-processes, which are valid at every look:

- the *gate*: has this stage shown what the plan requires of it? Every required test must reach
  1/alpha_promote (`checks`), the minima must be met, and the measuring must be sound;
- the *guard*: is the candidate proven worse than the plan allows, anywhere? One weighted average
  of e-values, latched, against 1/alpha_rollback (`guard`).

No data never passes: an e-value of nothing is 1. Nothing passes either when the counts contradict
each other or traffic is not split as intended; that is ERROR, could-not-measure.
"""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Final

from rollout.judging import checks
from rollout.judging.guard import guard
from rollout.judging.readings import Seen
from rollout.judging.trials import LN_E_RATIO, Trial
from rollout.plan import Plan
from rollout.verdict import Check, Evidence, Judgement, Kind, Verdict, combine, unreadable

__all__ = [
    "LN_E_RATIO", "Check", "Evidence", "Judgement", "Kind", "Seen", "Verdict", "combine", "judge",
    "unreadable",
]  # fmt: skip


def judge(
    plan: Plan,
    seen: Sequence[Seen],
    elapsed_s: float,
    *,
    marks: Collection[str] = ("budget",),
    guard_high: float = 0.0,
) -> Judgement:
    """Say whether the gate of the last stage of `seen` is open, and whether the guard fires.

    `seen` holds the stages visited under the present evidence epoch, in order; the last one is the
    present one and was entered `elapsed_s` seconds ago. `marks` names the latency marks that were
    frozen at `start`; `guard_high` is the `Judgement.guard_high` of the last look.
    """
    trials = tuple(_trial(one, plan) for one in seen)
    present = trials[-1]
    required = present.stage.required
    found: list[Check] = [
        *checks.enough(present, elapsed_s),
        *checks.sound(present, plan, marks),
    ]
    tested = () if present.contradictions else checks.tests(plan, trials, marks)
    for name, check in (*checks.coverage(present, plan), *tested):
        needs = name in required or (name == "label_coverage" and "hits" in required)
        found.append(check if needs else check.model_copy(update={"decides": False}))
    fires, high = guard(plan, trials, guard_high)
    return Judgement(gate=combine(tuple(found)), guard=fires, guard_high=high)


KEPT_TRIALS: Final = 32
"""The stages that were judged last: more than a rollout has."""
_TRIALS: Final[OrderedDict[Seen, Trial]] = OrderedDict()


def _trial(seen: Seen, plan: Plan) -> Trial:
    """Make a stage ready to be tested, or find it as it was: one that was left changes no more."""
    found = _TRIALS.pop(seen, None)
    if found is None or found.plan != plan:
        found = Trial(seen, plan)
    _TRIALS[seen] = found
    if len(_TRIALS) > KEPT_TRIALS:
        _TRIALS.popitem(last=False)
    return found
