"""How a model server's errors are answered: the one place where they become HTTP. Pure.

Every error is `{"error": "<sentence>"}` (the Open Inference Protocol's), as application/json.
"""

from typing import Final, NamedTuple

from backends.errors import BackendError, BodyTooLargeError
from backends.protocol import ProtocolError, write_error

JSON: Final = "application/json"
KINDS: Final = {
    400: "bad_request",
    404: "not_found",
    413: "body_too_large",
    415: "bad_encoding",
}
"""What an HTTP status is counted as where the error itself does not say it."""


class Refusal(NamedTuple):
    """A status, what it is counted as, headers beside `content-type`, and the body."""

    status: int
    kind: str
    headers: dict[str, str]
    body: bytes


def refusal_of(error: BackendError | ProtocolError) -> Refusal:
    """Say how an error is answered."""
    body = write_error(str(error))
    if isinstance(error, ProtocolError):
        return Refusal(error.status, kind_of(error.status), {}, body)
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    if error.status == BodyTooLargeError.status:
        headers["connection"] = "close"
    return Refusal(error.status, error.kind, headers, body)


def kind_of(status: int) -> str:
    """Name what an HTTP status is counted as."""
    return KINDS.get(status, "bad_request")
