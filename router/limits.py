"""How much may be under way at once, and how much again. Pure: clocks come in as arguments.

These objects are used on one event loop and hold no lock.
"""

from typing import Literal

Full = Literal["full", "bytes"]


class Budget:
    """So many things in flight, of so many bytes together."""

    def __init__(self, *, in_flight: int, bytes_: int) -> None:
        self._in_flight_limit = in_flight
        self._bytes_limit = bytes_
        self.in_flight = 0
        self.bytes = 0

    def __repr__(self) -> str:
        return (
            f"<Budget {self.in_flight}/{self._in_flight_limit} in flight, "
            f"{self.bytes}/{self._bytes_limit} bytes>"
        )

    def take(self, bytes_: int) -> Full | None:
        """Take a place for `bytes_`, or say which limit leaves none."""
        if self.in_flight >= self._in_flight_limit:
            return "full"
        if self.bytes + bytes_ > self._bytes_limit:
            return "bytes"
        self.in_flight += 1
        self.bytes += bytes_
        return None

    def give(self, bytes_: int) -> None:
        """Give back what was taken."""
        self.in_flight -= 1
        self.bytes -= bytes_


class Places:
    """So many requests under way, and no more."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0

    def __repr__(self) -> str:
        return f"<Places {self.taken}/{self.most} taken>"

    @property
    def full(self) -> bool:
        """Whether there is no place for one more."""
        return self.taken >= self.most

    def take(self) -> None:
        """Take a place: also beyond the last, for a request that was let in before it was full."""
        self.taken += 1

    def give(self) -> None:
        """Give a place back."""
        self.taken -= 1


class Rate:
    """At most `per_s` a second, and at most one second's worth at once: a token bucket."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._tokens = per_s
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """Whether one more may pass at `now` (monotonic seconds)."""
        if self._at is not None:
            self._tokens = min(self._per_s, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class RetryBudget:
    """How many retries may be under way: a share of the requests under way (Envoy's retry budget).

    A budget, rather than a number for each request: when everything fails, retries add at most
    `share` to the load, whatever the number of layers that retry. `least` are always allowed, so
    that a quiet service can retry at all.
    """

    def __init__(self, *, share: float = 0.2, least: int = 3) -> None:
        self._share = share
        self._least = least
        self.active = 0
        """Requests under way, each counted once."""
        self.retrying = 0

    def __repr__(self) -> str:
        return f"<RetryBudget {self.retrying} retrying of {self.active} active>"

    def take(self) -> bool:
        """Take a place for a retry, if there is one; `give` it back when the retry ends."""
        if self.retrying >= max(self._least, self._share * self.active):
            return False
        self.retrying += 1
        return True

    def give(self) -> None:
        """Give a retry's place back."""
        self.retrying -= 1
