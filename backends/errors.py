"""What can go wrong in a model server: one tree. A broken contract is protocol.ProtocolError.

Every error hints its HTTP status and names its kind, a label from a closed set; none knows a web
framework. Its text is one sentence for whoever reads the answer or the log.
"""

from typing import ClassVar


class BackendError(Exception):
    """Root of the tree."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "internal"
    retry_after_s: ClassVar[int | None] = None


class LoadError(BackendError):
    """The server cannot start with what it was given."""

    kind = "load"


class CheckpointError(LoadError):
    """A checkpoint file is missing, malformed, or holds another model."""


class BankError(LoadError):
    """A bank file is missing, malformed, or of another dimension."""


class NotReadyError(BackendError):
    """The model is still being loaded."""

    status = 503
    kind = "not_ready"
    retry_after_s = 1


class OverloadedError(BackendError):
    """The queue is full."""

    status = 503
    kind = "overloaded"
    retry_after_s = 1


class StoppingError(BackendError):
    """The server stops: it takes no more requests."""

    status = 503
    kind = "stopping"
    retry_after_s = 1


class DeadlineError(BackendError):
    """The client's deadline passed before there was an answer."""

    status = 504
    kind = "deadline"


class ClientLeftError(BackendError):
    """The client closed the connection; nobody reads this error's status."""

    status = 499
    kind = "client_left"


class UnknownModelError(BackendError):
    """The request names a model that this server does not have."""

    status = 404
    kind = "unknown_model"


class ScatteredIdsError(BackendError):
    """The bank's ids make a list that is too long to give."""

    status = 404
    kind = "scattered_ids"


class BodyTooLargeError(BackendError):
    """The request's body is longer than the server reads."""

    status = 413
    kind = "body_too_large"


class NotFiniteError(BackendError):
    """The model's answer to a finite context is not finite: the arm's failure, not the client's."""

    kind = "not_finite"
