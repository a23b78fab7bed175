"""The error tree of this package. `status` hints the HTTP status; nothing here knows a framework.

Every error says, in one sentence, what was found and what would be right; and whether anything
changed. Only `OutcomeUnknown` leaves that open, because it is open.
"""

from typing import ClassVar


class RolloutError(Exception):
    """What a caller of this package may want to catch."""

    status: ClassVar[int] = 500


class StoreUnavailable(RolloutError):  # noqa: N818 - a state of the world, not a mistake
    """The store did not answer a question. Nothing was changed."""

    status: ClassVar[int] = 503


class TooLate(RolloutError):  # noqa: N818 - a state of the world, not a mistake
    """The store got a transition after its deadline, and did nothing. Nothing was changed."""

    status: ClassVar[int] = 503


class OutcomeUnknown(RolloutError):  # noqa: N818 - a state of the world, not a mistake
    """The store was lost while a transition was under way: read again to learn what happened."""

    status: ClassVar[int] = 503


class Conflict(RolloutError):  # noqa: N818 - the name of the HTTP status
    """The store is not at the version that was expected. Nothing was changed."""

    status: ClassVar[int] = 409


class NoRollout(RolloutError):  # noqa: N818 - a state of the world, not a mistake
    """There is no such rollout."""

    status: ClassVar[int] = 404


class MemoryLost(RolloutError):  # noqa: N818 - a state of the world, not a mistake
    """The store stands behind what a gateway has applied, and the command builds on it."""

    status: ClassVar[int] = 409


class FrozenNow(RolloutError):  # noqa: N818 - a state of the world, not a mistake
    """A freeze window of the plan holds. Nothing was changed."""

    status: ClassVar[int] = 409
