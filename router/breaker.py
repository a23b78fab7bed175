"""The health of one replica: whether requests are sent to it. Pure: time comes in.

A circuit as Envoy's outlier detection has it, with a trial at the end. It opens after several
failures in a row, or when too large a share of what ended lately had failed; it stays open for a
time that grows with each opening; then one request is let through on trial, and its end decides.

| state | what happens | next |
|---|---|---|
| closed | too many failures | open |
| open | the time is over | half-open |
| half-open | the trial succeeded | closed |
| half-open | the trial failed | open, for longer |

What is ejected is a replica, never an arm's last resort: `able` picks from an arm's replicas, and
who has nobody to fall back on gets all of them when too few are well (Envoy's panic threshold).
Assignment knows nothing of any of this.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Circuit(StrEnum):
    """Whether requests are sent: the closed set of the metric's label."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


_CLOSED: Final = Circuit.CLOSED  # until Python 3.12, a member's name costs a call
_HALF_OPEN: Final = Circuit.HALF_OPEN


class Change(StrEnum):
    """What can happen to a circuit."""

    TRIPPED = "tripped"
    WAITED = "waited"
    RECOVERED = "recovered"
    RELAPSED = "relapsed"


TRANSITIONS: Final[Mapping[tuple[Circuit, Change], Circuit]] = {
    (Circuit.CLOSED, Change.TRIPPED): Circuit.OPEN,
    (Circuit.OPEN, Change.WAITED): Circuit.HALF_OPEN,
    (Circuit.HALF_OPEN, Change.RECOVERED): Circuit.CLOSED,
    (Circuit.HALF_OPEN, Change.RELAPSED): Circuit.OPEN,
}


@dataclass(frozen=True, slots=True)
class Rules:
    """When a circuit opens, and for how long. Durations in seconds."""

    in_a_row: int = 5
    """Failures with no success between them that open it."""
    share: float = 0.5
    """Of the requests that ended in one window, what must have failed to open it ..."""
    volume: int = 20
    """... where at least so many ended."""
    window_s: float = 10.0
    open_s: float = 5.0
    """The first opening; each further one lasts as much longer, up to `most_s`."""
    most_s: float = 60.0
    fair_s: float = 0.25
    """A replica that did not answer within less was not given the time to."""


class Breaker:
    """One replica's circuit. Used on one event loop; `now` is in monotonic seconds."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.state = Circuit.CLOSED
        self._rules = rules or Rules()
        self._in_a_row = 0
        self._openings = 0
        self._until = 0.0
        self._trial = False
        self._window_ends = 0.0
        self._ended = 0
        self._failed = 0

    @property
    def until(self) -> float:
        """When an open circuit lets its trial through, in monotonic seconds."""
        return self._until

    def __repr__(self) -> str:
        if self.state is Circuit.OPEN:
            return f"<Breaker open until {self._until:.1f}, opening {self._openings}>"
        return f"<Breaker {self.state}, {self._in_a_row} failures in a row>"

    def lets(self, now: float) -> bool:
        """Whether a request may be sent. Changes nothing but the state of one that has waited."""
        if self.state is _CLOSED:
            return True
        if self.state is Circuit.OPEN and now >= self._until:
            self._change(Change.WAITED)
        return self.state is Circuit.HALF_OPEN and not self._trial

    def sent(self) -> None:
        """Note that a request was sent: for a half-open circuit it is the trial."""
        self._trial = self.state is _HALF_OPEN

    def succeeded(self, now: float) -> None:
        """Note that the replica answered, were it to say that the request is wrong."""
        self._in_a_row = 0
        self._count(now, failed=0)
        if self.state is _HALF_OPEN:
            self._trial = False
            self._change(Change.RECOVERED)
            self._ended = self._failed = 0

    def failed(self, now: float) -> None:
        """Note that the replica did not answer, or not with an answer."""
        self._in_a_row += 1
        self._count(now, failed=1)
        if self.state is Circuit.HALF_OPEN:
            self._open(Change.RELAPSED, now)
        elif self.state is Circuit.CLOSED and self._too_many():
            self._open(Change.TRIPPED, now)

    def late(self, now: float, waited_s: float) -> None:
        """Note that there was no answer within `waited_s`: a failure, if that was a fair time."""
        if waited_s < self._rules.fair_s:
            self.untold()
        else:
            self.failed(now)

    def untold(self) -> None:
        """Note an end that says nothing: the client left, or the replica has too much to do."""
        self._trial = False

    def _too_many(self) -> bool:
        rules = self._rules
        often = self._ended >= rules.volume and self._failed >= rules.share * self._ended
        return often or self._in_a_row >= rules.in_a_row

    def _count(self, now: float, *, failed: int) -> None:
        if now >= self._window_ends:
            if not self._failed and self._openings:
                self._openings -= 1  # a window without a failure forgives an opening
            self._window_ends = now + self._rules.window_s
            self._ended = self._failed = 0
        self._ended += 1
        self._failed += failed

    def _open(self, change: Change, now: float) -> None:
        self._change(change)
        self._trial = False
        self._openings += 1
        self._until = now + min(self._rules.open_s * self._openings, self._rules.most_s)

    def _change(self, change: Change) -> None:
        self.state = TRANSITIONS[self.state, change]


PANIC: Final = 0.5
"""With less than this share of its replicas well, an arm that must answer uses all of them."""


def able(breakers: Mapping[str, Breaker], now: float, *, must_answer: bool) -> tuple[str, ...]:
    """List the replicas of an arm that may get a request at `now`, by the names in `breakers`.

    `must_answer`: nobody else could answer instead, as for the incumbent. Such an arm is never
    without a replica, and where fewer than `PANIC` of them are well, they are not left to carry
    everybody's requests. Otherwise the list may be empty, and the fallback answers.
    """
    well = tuple(name for name, breaker in breakers.items() if breaker.lets(now))
    if must_answer and len(well) < PANIC * len(breakers):
        return tuple(breakers)
    return well if well or not must_answer else tuple(breakers)
