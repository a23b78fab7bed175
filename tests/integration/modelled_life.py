"""One rollout once more, small and slow: what the real one's record must agree with.

Written from docs/rollout.md, sharing nothing with `rollout.machine` but the plan, which is input.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rollout.plan import Plan

Where = tuple[str, int, str]
"""Rollout, evidence epoch, stage."""
LIVE = frozenset({"running", "waiting", "paused", "held"})
TABLE: dict[str, tuple[frozenset[str], str]] = {
    "advance": (frozenset({"running"}), "running"),
    "finish": (frozenset({"running"}), "succeeded"),
    "promote": (LIVE - {"paused"}, "running"),
    "complete": (LIVE - {"paused"}, "succeeded"),
    "ask": (frozenset({"running"}), "waiting"),
    "approve": (frozenset({"running", "waiting"}), "running"),
    "reopen": (frozenset({"held"}), "running"),
    "lapse": (frozenset({"waiting"}), "held"),
    "pause": (LIVE - {"paused"}, "paused"),
    "resume": (frozenset({"paused"}), "running"),
    "release": (frozenset({"held"}), "running"),
    "hold": (frozenset({"running", "waiting"}), "held"),
    "void": (LIVE, "held"),
    "identify": (LIVE, "same"),
    "settle": (LIVE, "same"),
    "rollback": (LIVE, "rolled_back"),
    "abort": (LIVE, "aborted"),
    "undo": (frozenset({"succeeded"}), "undone"),
}
"""Event -> from which states, and to which."""
MEANS = {
    "advance": ("advance", "finish"), "promote": ("promote", "complete"),
    "approve": ("approve", "reopen"), "resume": ("resume", "release"),
    "pause": ("pause",), "abort": ("abort",), "undo": ("undo",),
}  # fmt: skip


class No(Exception):  # noqa: N818 - it is the answer
    """What is asked is refused; `kind` is the error's name."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True)
class Stay:
    """A stretch of time in one stage."""

    stage: str
    since: float
    epoch: int = 1
    until: float | None = None
    settled: float | None = None


@dataclass(frozen=True)
class Life:
    """A rollout."""

    id: str
    salt: str
    plan: Plan
    before: frozenset[str]
    """The tiers that were active before it."""
    began: float
    stays: tuple[Stay, ...]
    state: str = "running"
    at: int = 0
    epoch: int = 1
    approval: str | None = None
    asked: float | None = None
    hold: str | None = None
    extended: bool = False
    known: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left_on: Mapping[str, str] = field(default_factory=dict)
    attempt: int = 1
    retry_of: str | None = None
    ended: float | None = None

    @property
    def live(self) -> bool:
        return self.state in LIVE

    @property
    def last(self) -> bool:
        return self.at == len(self.plan.stages) - 1

    @property
    def settled(self) -> bool:
        return self.stays[-1].settled is not None

    @property
    def where(self) -> Where:
        return (self.id, self.epoch, self.plan.stages[self.at].name)

    def allows(self, event: str) -> bool:
        if event in ("advance", "promote") and self.last:
            return False
        if event in ("finish", "complete") and not self.last:
            return False
        if event == "reopen" and self.hold != "approval":
            return False
        if event == "settle" and self.settled:
            return False
        return self.state in TABLE[event][0]

    def means(self, command: str) -> str:
        for event in MEANS[command]:
            if self.allows(event):
                return event
        raise No("IllegalTransition")

    def active(self) -> frozenset[str]:
        """Say which tiers are active now."""
        if self.state != "succeeded":
            return self.before
        new = frozenset({self.plan.candidate})
        return new if self.plan.scope == "all" else self.before | new

    def after(  # noqa: C901, PLR0911 - one branch for each event reads as the table that it is
        self,
        event: str,
        now: float,
        *,
        actor: str = "",
        verdict: str | None = None,
        cause: str | None = None,
        identities: Mapping[str, tuple[str, ...]] | None = None,
        to: int | None = None,
    ) -> "Life":
        seen = identities or {}
        state = TABLE[event][1]
        new = replace(self, state=self.state if state == "same" else state)
        *left, stay = self.stays
        if verdict is not None:
            new = replace(new, left_on={**self.left_on, stay.stage: verdict})
        fresh = replace(new, approval=None, asked=None, hold=None, extended=False)
        gone = (*left, replace(stay, until=now))
        match event:
            case "advance" | "promote":
                at = self.at + 1 if to is None else to
                stage = Stay(self.plan.stages[at].name, now, self.epoch)
                return replace(fresh, at=at, stays=(*gone, stage))
            case "finish" | "complete" | "rollback" | "abort":
                return replace(fresh, stays=gone, ended=now)
            case "ask":
                return replace(new, asked=now)
            case "approve" | "reopen":
                return replace(new, approval=actor, asked=None, hold=None)
            case "pause":
                return replace(new, asked=None)
            case "resume" | "release":
                past = self.extended or self.hold == "limit"
                return replace(new, hold=None, extended=past, known={**self.known, **seen})
            case "lapse" | "hold":
                return replace(new, hold=cause, asked=None)
            case "identify":
                return replace(new, known={**self.known, **seen})
            case "settle":
                return replace(new, stays=(*left, replace(stay, settled=now)))
            case "void":
                again = Stay(stay.stage, now, self.epoch + 1)
                return replace(
                    fresh,
                    state="paused" if self.state == "paused" else "held",
                    epoch=self.epoch + 1,
                    stays=(*gone, again),
                    known={**self.known, **seen},
                    hold="model",
                )
            case _:
                return new
