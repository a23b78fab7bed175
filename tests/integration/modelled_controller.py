"""A rollout's controllers once more, small and slow: commands and ticks over `ModelledStore`.

Written from docs/rollout.md, and sharing nothing with `rollout.controller` and `rollout.tick` but
the plan, which is input. What is decided is a `Draft`, which is then applied, or refused, as a
whole.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from modelled_life import Life, No, Stay, Where
from modelled_store import BUDGET_S, DAY_S, Answer, Draft, Entry, ModelledStore

from rollout.plan import Plan

RETRIED = frozenset({"aborted", "rolled_back", "undone"})
AGAIN = frozenset({"pause", "abort"})
"""Commands that mean the same whatever happened meanwhile: tried again, five times in all."""


@dataclass(frozen=True)
class Command:
    """What a person asks."""

    verb: str
    target: str = "current"
    plan: Plan | None = None
    actor: str = "ann"
    reason: str = "why"
    key: str | None = None
    expected: str | None = None
    dry: bool = False
    full: bool = False


class Model(ModelledStore):
    """The store, and the controllers that act on it."""

    def __init__(self, now: float, tiers: frozenset[str]) -> None:
        super().__init__(now)
        self.tiers = tiers
        self.gate = "INCONCLUSIVE"
        self.guard = "PASS"
        self.begun: Callable[[], tuple[str, str]] = lambda: ("?", "?")
        """Gives the id and the salt that a new rollout drew."""

    # --- commands --------------------------------------------------------------------------------

    def carry_out(  # noqa: PLR0911 - one return for each way in which a command ends
        self, command: Command, commit: Callable[[Draft], str]
    ) -> tuple[str, Answer | None]:
        """Say how a command ends: its outcome and answer, or an error's name."""
        drawn = command.key or self._drawn()
        meant = command.target
        try:
            for left in reversed(range(5 if command.verb in AGAIN else 1)):
                if kept := self.kept(drawn):
                    return self._repeated(command, *kept)
                draft = self.decide(replace(command, target=meant), drawn)
                meant = draft.answer.rollout if command.verb in AGAIN and draft.life else meant
                if command.dry:
                    return "dry_run", draft.answer
                outcome = commit(draft)
                if outcome == "Applied":
                    return "applied", draft.answer
                if outcome == "Repeated":
                    found = self.kept(drawn)
                    assert found is not None
                    return self._repeated(command, *found)
                if outcome == "Late":
                    return "TooLate", None
                if outcome == "OutcomeUnknown":
                    return outcome, None
                if not left or (command.expected and outcome == "Moved"):
                    return "Conflict", None
        except No as error:
            return error.kind, None
        raise AssertionError("unreachable")

    _keys = 0

    def _drawn(self) -> str:
        self._keys += 1
        return f"drawn {self._keys}"

    def _repeated(
        self, command: Command, asked: tuple[str, ...], answer: Answer
    ) -> tuple[str, Answer | None]:
        if self.asked(command, answer.rollout) != asked:
            return "Conflict", None
        return "repeated", answer

    @staticmethod
    def asked(command: Command, met: str) -> tuple[str, ...]:
        if command.verb == "start":
            assert command.plan is not None
            return ("start", command.plan.model_dump_json())
        named = command.target
        if named == "current" and command.verb != "retry":
            named = met
        return (command.verb, named, "--full" if command.full else "")

    def decide(self, command: Command, key: str) -> Draft:  # noqa: C901 - one refusal after the other
        held, verb = self.held, command.verb
        place = f"{held.place[0]}.{held.place[1]}" if held.place else None
        if command.expected and command.expected != place:
            raise No("Conflict")
        if self.lost and verb != "abort":
            gone = self.furthest and self.furthest.applied
            free = gone and gone.rollout is None and not (held.life and held.life.live)
            if not (free and verb in ("start", "retry")):
                raise No("MemoryLost")
        if verb in ("start", "retry"):
            return self._begin(command, key)
        if verb == "abort" and (orphan := self._orphan(command, key)):
            return orphan
        life = held.life
        if life is None or command.target not in ("current", life.id):
            raise No("NoRollout")
        event = life.means(verb)
        verdict, to = None, None
        if verb in ("advance", "promote"):
            self._thawed(life.plan)
            verdict = self.gate
        if verb == "advance":
            stage = life.plan.stages[life.at]
            if verdict != "PASS" or (stage.approval and life.approval is None):
                raise No("Refused")
        elif verb == "promote" and command.full and not life.last:
            to = len(life.plan.stages) - 1
        seen = {arm: names for arm, names in self.identities().items() if arm in life.known}
        after = life.after(
            event, self.now, actor=command.actor, verdict=verdict, identities=seen, to=to
        )
        active = after.active()
        if self.lost and self.furthest and self.furthest.applied:
            active = frozenset(t.arm for t in self.furthest.applied.tiers if t.active)
        return self._draft(command, key, life, after, active)

    def _begin(self, command: Command, key: str) -> Draft:
        held, life = self.held, self.held.life
        again, plan = None, command.plan
        if command.verb == "retry":
            if life is None:
                raise No("NoRollout")
            again = life if command.target == "current" else held.lives.get(command.target)
            if again is None:
                raise No("NoRollout")
            if again.state not in RETRIED or again.attempt > again.plan.max_retries:
                raise No("IllegalTransition")
            plan = again.plan
        assert plan is not None
        if life and life.live:
            raise No("IllegalTransition")
        before = held.active if held.place else self.tiers
        if self.lost and self.furthest and self.furthest.applied:
            before = frozenset(t.arm for t in self.furthest.applied.tiers if t.active)
        if plan.candidate in before:
            raise No("CannotStart")
        self._thawed(plan, "FrozenStart")
        id_, salt = self.begun()
        new = Life(
            id_, salt, plan, before, self.now, (Stay(plan.stages[0].name, self.now),),
            attempt=again.attempt + 1 if again else 1, retry_of=again.id if again else None,
        )  # fmt: skip
        return self._draft(command, key, None, new, before)

    def _orphan(self, command: Command, key: str) -> Draft | None:
        seen = self.furthest.applied if self.lost and self.furthest else None
        if seen is None or seen.rollout is None or (self.held.life and self.held.life.live):
            return None
        split = seen.rollout
        if command.target not in ("current", split.id):
            return None
        active = frozenset(t.arm for t in seen.tiers if t.active)
        stages = (split.stage, split.stage)
        return self._made(command, key, split.id, ("unknown", "aborted"), stages, None, active)

    def _draft(
        self, command: Command, key: str, life: Life | None, after: Life, active: frozenset[str]
    ) -> Draft:
        states = (life.state if life else "none", after.state)
        stages = (life.stays[-1].stage if life else "-", after.stays[-1].stage)
        return self._made(command, key, after.id, states, stages, after, active)

    def _made(
        self,
        command: Command,
        key: str,
        rollout: str,
        states: tuple[str, str],
        stages: tuple[str, str],
        life: Life | None,
        active: frozenset[str],
    ) -> Draft:
        place = self.next
        answer = Answer(command.verb, f"{place[0]}.{place[1]}", rollout, states[1], stages[1])
        entry = Entry(
            self.now, command.actor, command.verb, command.reason, rollout, states, stages, place
        )
        asked = self.asked(command, rollout)
        deadline = self.now + BUDGET_S
        return Draft(self.held.place, deadline, place, key, asked, entry, answer, life, active)

    def _thawed(self, plan: Plan, refusal: str = "FrozenNow") -> None:
        if self.frozen(plan):
            raise No(refusal)

    def frozen(self, plan: Plan) -> bool:
        """Say whether one of the plan's windows holds: here they are all daily, of whole hours."""
        hour = int(self.now % DAY_S) // 3600
        return any(int(w.begins[:2]) <= hour < int(w.ends[:2]) for w in plan.freeze)

    # --- by itself -------------------------------------------------------------------------------

    def tick(self, lease: tuple[str, int]) -> Draft | None:
        """Say what a look leads to, if to anything."""
        life = self.held.life
        if life is None or not life.live or self.lost:
            return None
        found = self._event(life)
        if found is None:
            return None
        event, detail = found
        after = life.after(event, self.now, **detail)
        place = self.held.place
        key = f"tick:{life.id}:{place and place[0]}.{place and place[1]}"
        command = Command(event, life.id, actor="controller", reason="")
        draft = self._draft(command, key, life, after, after.active())
        return replace(draft, lease=lease)

    def _event(self, life: Life) -> tuple[str, dict[str, Any]] | None:  # noqa: C901, PLR0911, PLR0912 - the rules in their order
        plan, stage = life.plan, life.plan.stages[life.at]
        seen = self.identities()
        arms = [arm for arm in ("phase1", plan.candidate) if arm in seen]
        changed = {
            arm: seen[arm]
            for arm in arms
            if arm in life.known and not set(seen[arm]) <= set(life.known[arm])
        }
        if changed:
            return "void", {"identities": changed}
        if learned := {arm: seen[arm] for arm in arms if arm not in life.known}:
            return "identify", {"identities": learned}
        if self.guard == "FAIL" and plan.on_fail == "rollback":
            return "rollback", {"verdict": self.gate}
        if self.guard == "FAIL" and life.state not in ("held", "paused"):
            return "hold", {"cause": "evidence"}
        caught_up = self.alive and all(beat.place == self.held.place for beat in self.alive)
        if not life.settled and caught_up:
            return "settle", {}
        if life.state == "waiting":
            waited = self.now - (life.asked or 0)
            return ("lapse", {"cause": "approval"}) if waited >= stage.approval_timeout_s else None
        if life.state != "running":
            return None
        if self.gate != "PASS" and self._limit(life):
            if plan.on_inconclusive == "rollback":
                return "rollback", {"verdict": self.gate}
            return "hold", {"cause": "limit"}
        if self.gate == "ERROR" and plan.on_error == "hold":
            return "hold", {"cause": "error"}
        if self.gate != "PASS" or self.frozen(plan):
            return None
        if stage.approval and life.approval is None:
            return "ask", {}
        if plan.on_pass != "advance" or not caught_up:  # noqa: S105 - no password
            return None
        return "finish" if life.last else "advance", {"verdict": "PASS"}

    def _limit(self, life: Life) -> bool:
        stage = life.plan.stages[life.at]
        if life.extended:
            return False
        if stage.max_requests is not None and self.requests(life.where) >= stage.max_requests:
            return True
        spent = self.now - life.stays[-1].since
        return stage.max_duration_s is not None and spent >= stage.max_duration_s

    def requests(self, where: Where) -> int:
        counts = self.held.counts.get(where, Counter())
        return counts["assigned.incumbent"] + counts["assigned.candidate"]
