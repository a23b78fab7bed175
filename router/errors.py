"""What can go wrong in the gateway: one tree. `status` hints the HTTP status, without a framework.

The message of every error is the sentence that the client reads.
"""

from enum import StrEnum
from typing import ClassVar


class RouterError(Exception):
    """The root of the tree."""

    status: int = 500


class BadRequestError(RouterError):
    """A header or a body that breaks the contract."""

    status = 400


class UnknownArmError(BadRequestError):
    """An override that names no arm of the table, or one without a backend."""


class UnknownRequestError(RouterError):
    """Feedback for a request that this service never answered."""

    status = 404


class UnknownModelError(RouterError):
    """A path that names another model than the one there is, or another version."""

    status = 404


class ClientLeftError(RouterError):
    """The client closed its connection: nobody reads the answer."""

    status = 499  # nginx's: it stands in the metrics only


class LateBodyError(RouterError):
    """The request's time was up while its body was still arriving."""

    status = 408


class ContradictionError(RouterError):
    """Feedback that names another truth than the one before it."""

    status = 409


class HeldError(RouterError):
    """An override to the candidate, while an operator keeps all traffic off it."""

    status = 409


class ExpiredError(RouterError):
    """Feedback that comes after the label window."""

    status = 410


class TooLongError(RouterError):
    """More than is accepted: a context, under the policy `reject`, or a body."""

    status = 413


class BodyTooLongError(TooLongError):
    """A body that was not read to its end."""


class BusyError(RouterError):
    """Something that works at other times: a full queue, no store, no backend to ask."""

    status = 503


class NoStoreError(RouterError):
    """What a gateway without a store cannot do, now or later: nothing to come again for."""

    status = 503


# --- backends -----------------------------------------------------------------------------------


class FailureKind(StrEnum):
    """How an arm failed. The closed set of the metrics' and the counters' labels."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    STATUS = "status"
    INVALID = "invalid"
    REFUSED = "refused"
    """The arm called a request wrong that the other arm, asked too, did not."""


class UpstreamError(RouterError):
    """An arm failed to answer: an error of the arm, whatever the client sent."""

    status = 502
    kind: ClassVar[FailureKind]


class UpstreamTimeoutError(UpstreamError):
    """No answer before the deadline."""

    status = 504
    kind = FailureKind.TIMEOUT


class UpstreamConnectionError(UpstreamError):
    """Not reached, or cut off in mid-answer."""

    kind = FailureKind.CONNECTION


class UpstreamStatusError(UpstreamError):
    """An HTTP status that is neither an answer nor the client's mistake.

    `answered` is the backend's status. A 503 that says when to come again (`retry_after_s`) is not
    a broken backend but one with more work than it can do, and is passed on as such.
    """

    kind = FailureKind.STATUS

    def __init__(self, message: str, answered: int, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.answered = answered
        self.retry_after_s = retry_after_s
        if self.busy:
            self.status = BusyError.status

    @property
    def busy(self) -> bool:
        """Whether the backend has too much to do, and says so."""
        return self.answered == BusyError.status and self.retry_after_s is not None


class UpstreamInvalidError(UpstreamError):
    """An answer that is not one."""

    kind = FailureKind.INVALID


class RefusedError(RouterError):
    """A backend says that the request itself is wrong: the client's error, passed on."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
