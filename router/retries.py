"""Whether a failed try is worth another one, and after which pause. Pure: time and chance come in.

Safe to try again is what the replica did not answer: a connection that failed or broke, and the
statuses of something between (502, 503, 504). A prediction changes nothing, so asking twice is the
same as asking once. An answer that makes no sense, any other status, and silence until the time was
up are not tried again: the next try would most likely end in the same way, at the same cost.

The pause is Envoy's: a random part of `base_s (2^n - 1)` before the n-th retry, `most_s` at most
("fully jittered"), so that those who failed together do not come back together.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from router.errors import UpstreamConnectionError, UpstreamError, UpstreamStatusError

SAFE_STATUSES: Final = frozenset({502, 503, 504})


class Retried(StrEnum):
    """What came of a retry, or why there was none: the closed set of the metric's label."""

    MENDED = "mended"
    """The retry was answered."""
    FAILED = "failed"
    """The retry failed too."""
    TIME = "time"
    """None: the deadline leaves no time."""
    BUDGET = "budget"
    """None: too many retries are under way."""
    NOBODY = "nobody"
    """None: no replica is well, or none has room."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How often, and how soon. Durations in seconds."""

    retries: int = 2
    """Of one arm for one request."""
    base_s: float = 0.025
    most_s: float = 0.25


def is_safe(error: UpstreamError) -> bool:
    """Whether what failed in this way may be tried again."""
    if isinstance(error, UpstreamStatusError):
        return error.answered in SAFE_STATUSES
    return isinstance(error, UpstreamConnectionError)


def pause(policy: Policy, retry: int, chance: float) -> float:
    """Seconds before the `retry`-th retry (from 1), for a random `chance` from 0 to 1."""
    return chance * min(policy.most_s, policy.base_s * ((1 << retry) - 1))
