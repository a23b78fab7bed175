"""How a client calls a gateway: what it sends, when it tries again, what an answer means. Pure.

A call is a generator: it yields what to do next, `Send` or `Wait`, is sent what came of it, and
returns the reply to keep. So the two clients, with and without asyncio, share every decision:
`router/client.py`.

**Trying again.** A prediction and a feedback may be repeated without harm. 429, 502 and 503 are
tried again, and connections that fail, up to `TRIES` times in all, after what Retry-After says or
else after a random part of 0.1 s, then 0.2 s (full jitter: clients that failed together must not
come back together). Never beyond the deadline: an error now is better than the same error later.
The gateway is told what is left of the deadline each time.
"""

import email.utils
import itertools
import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
import orjson
from numpy.typing import ArrayLike

from backends import answer, protocol
from backends.protocol import (
    DIMENSION,
    HEADER_LENGTH,
    TIMEOUT_HEADER,
    Floats,
    Ids,
    ProtocolError,
    Request,
)
from router.access import ARM_HEADER

TRIES: Final = 3
BACKOFF_S: Final = 0.1
DEADLINE_S: Final = 30.0
AGAIN: Final = frozenset({429, 502, 503})
INFER: Final = f"/v2/models/{protocol.MODEL}/infer"
FEEDBACK: Final = "/v1/feedback"
_OK: Final = frozenset({200, 202})
_GATEWAY_TIMEOUT: Final = 504
_SERVER: Final = 500
_ID_LIMIT: Final = 2**63


class ClientError(Exception):
    """Why a call came to nothing. `status` is the gateway's, if it answered at all."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class RequestError(ClientError):
    """The gateway calls the request wrong (4xx): sent again as it is, it fails again."""


class AccessError(RequestError):
    """No API key, an unknown one, or one without the right (401, 403)."""


class UnavailableError(ClientError):
    """The gateway, or what stands behind it, cannot answer now (429, 5xx)."""


class DeadlineError(ClientError):
    """No answer before the deadline."""


class UnreachableError(ClientError):
    """The gateway was not reached, or the connection was cut."""


class AnswerError(ClientError):
    """What came is no answer of a gateway."""


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One vector of the bank that is near the prediction."""

    id: int
    score: float


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """A prediction: `vector` float32 `[768]`, `ids` int64 `[k]` and `scores` float32 `[k]`."""

    request_id: str
    """The server's name of the request: what feedback is given by."""
    vector: Floats
    ids: Ids
    scores: Floats
    arm: str
    """The model that answered."""
    assigned: str
    """The model that was to answer: another one when it failed and `arm` stood in for it."""
    reason: str
    """Why it was this one that was to answer."""
    stage: str
    """The rollout's stage, for a request in its scope; else `-`."""
    version: str
    """The configuration that decided, as `epoch.version`."""
    length: int
    """Vectors in the context."""
    window: int
    """How many of them, the newest, the model read."""
    checkpoint: str
    """The sha256 of the model."""
    bank: str
    """The sha256 of the bank."""

    def __repr__(self) -> str:
        return f"<Answer {self.request_id} by {self.arm}, {self.ids.size} neighbours>"

    @property
    def truncated(self) -> bool:
        """Whether the model read only the newest vectors."""
        return self.window < self.length

    @property
    def fell_back(self) -> bool:
        """Whether another model answered than the one that was to."""
        return bool(self.assigned) and self.assigned != self.arm

    @property
    def neighbors(self) -> list[Neighbor]:
        """The neighbours, nearest first."""
        pairs = zip(self.ids.tolist(), self.scores.tolist(), strict=True)
        return [Neighbor(id_, score) for id_, score in pairs]


# --- what is sent -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """One request that may be sent more than once."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    timeout_s: float


def predict_call(
    context: ArrayLike,
    *,
    top_k: int = protocol.KEPT_NEIGHBORS,
    key: str | None = None,
    exclude_context: bool = True,
    arm: str | None = None,
    timeout_s: float = DEADLINE_S,
) -> Call:
    """Write a prediction request in the binary form.

    Raises ValueError for a wrong context, and for a key or an arm that no request can carry.
    """
    if key is not None:
        _check_text("key", key)
    request = Request(
        context=_vectors(context), key=key, top_k=top_k, exclude_context=exclude_context
    )
    message = protocol.write_request(request)
    override = {} if arm is None else {ARM_HEADER: header_value("arm", arm)}
    return Call(INFER, message.body, {**message.headers, **override}, _seconds(timeout_s))


def feedback_call(
    request_id: str,
    *,
    target_id: int | None = None,
    target: ArrayLike | None = None,
    timeout_s: float = DEADLINE_S,
) -> Call:
    """Write the truth of an earlier prediction.

    Raises ValueError unless there is one target, and for an id that no bank can have.
    """
    if (target_id is None) == (target is None):
        raise ValueError("give one of target_id and target: the truth, as an id or a vector")
    if target_id is not None and not -_ID_LIMIT <= target_id < _ID_LIMIT:
        raise ValueError(f"target_id is {target_id}: ids are whole numbers of 64 bits")
    _check_text("the request id", request_id)
    truth: dict[str, Any] = (
        {"target_id": target_id} if target is None else {"target": _vectors(target)[0]}
    )
    body = orjson.dumps({"id": request_id, **truth}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Call(FEEDBACK, body, {"content-type": "application/json"}, _seconds(timeout_s))


def _vectors(given: ArrayLike) -> Floats:
    with np.errstate(over="ignore"):  # what overflows float32 is found as not finite
        vectors = np.asarray(given, dtype=np.float32)
    if vectors.ndim == 1:
        vectors = vectors[None]
    if vectors.ndim != 2 or vectors.shape[0] < 1 or vectors.shape[1] != DIMENSION:  # noqa: PLR2004 - rows and columns
        raise ValueError(
            f"vectors of {DIMENSION} numbers are wanted, as [n, {DIMENSION}] or [{DIMENSION}]: "
            f"these have the shape {list(np.shape(given))}"
        )
    if not np.isfinite(vectors).all():
        raise ValueError("the vectors hold numbers that are not finite in float32")
    return vectors


def check_url(url: str) -> str:
    """Return a gateway's address. Raises ValueError where it is none, saying what is missing."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ValueError(f"{url!r} is no address of a gateway: write http://{url}")
    if scheme.lower() not in {"http", "https"} or not rest.strip("/"):
        raise ValueError(f"{url!r} is no address of a gateway: it must be http(s)://host:port")
    try:
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0:
            raise ValueError("it names no host, or the port 0")  # noqa: TRY301 - told as those of urlsplit are
    except ValueError as error:
        raise ValueError(f"{url!r} is no address of a gateway: {error}") from None
    return url


def header_value(name: str, value: str) -> str:
    """Return what a header can carry. Raises ValueError; the value itself is not told."""
    if not value.isascii() or not value.isprintable():
        raise ValueError(
            f"{name} holds characters that no header carries: printable ASCII is wanted"
        )
    return value


def _check_text(name: str, value: str) -> None:
    """Raise ValueError for what is no text in UTF-8, as bytes of a command line may be."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is no text in UTF-8") from None


def _seconds(timeout_s: float) -> float:
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise ValueError(f"timeout_s must be a number of seconds above 0, not {timeout_s}")
    return timeout_s


# --- what comes back ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of sending a request once: an HTTP answer, or how it failed."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""
    body: bytes = b""
    failure: str | None = None
    """Why the gateway was not reached."""
    late: bool = False
    """Whether the deadline passed while waiting."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send the request, with these headers besides its own, and wait so many seconds."""

    headers: Mapping[str, str]
    within_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for so many seconds."""

    seconds: float


Steps = Generator[Send | Wait, Reply | None, Reply]


def steps(
    call: Call,
    *,
    clock: Callable[[], float],
    chance: Callable[[], float],
    now: Callable[[], float],
) -> Steps:
    """Go through the tries of a call and return the reply to keep.

    `clock` is monotonic seconds, `chance` a number from 0 to 1, `now` Unix seconds. Raises
    DeadlineError.
    """
    deadline = clock() + call.timeout_s
    for tried in itertools.count(1):
        left = deadline - clock()
        if left <= 0:
            raise DeadlineError(_late(call))
        told = {TIMEOUT_HEADER: str(max(1, math.floor(1e3 * left)))}
        reply = yield Send({**call.headers, **told}, left)
        if reply is None:
            raise TypeError("a Send must be answered with a Reply")
        wait = wait_before_again(reply, tried, left=deadline - clock(), chance=chance(), now=now())
        if wait is None:
            return reply
        yield Wait(wait)
    raise AssertionError  # pragma: no cover - the loop does not end


def wait_before_again(
    reply: Reply, tried: int, *, left: float, chance: float, now: float
) -> float | None:
    """Say how long to wait before the next try; None for no other try.

    `tried` counts the tries so far, `left` is what is left of the deadline, in seconds.
    """
    again = reply.status in AGAIN or (reply.failure is not None and not reply.late)
    if not again or tried >= TRIES:
        return None
    asked = retry_after_s(reply.headers.get("retry-after"), now)
    wait = chance * BACKOFF_S * 2 ** (tried - 1) if asked is None else asked
    return wait if wait < left else None


def retry_after_s(text: str | None, now: float) -> float | None:
    """Read Retry-After, seconds or a date (RFC 9110, section 10.2.3); None where it says nothing.

    `now` is Unix seconds.
    """
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def check(call: Call, reply: Reply, now: float) -> None:
    """Raise the ClientError that a reply stands for, unless it is good."""
    if reply.late:
        raise DeadlineError(_late(call))
    if reply.failure is not None:
        raise UnreachableError(f"the gateway was not reached: {reply.failure}")
    if reply.status in _OK:
        return
    raise _kind(reply.status)(
        _sentence(reply),
        status=reply.status,
        request_id=reply.headers.get("x-request-id"),
        retry_after_s=retry_after_s(reply.headers.get("retry-after"), now),
    )


def read_prediction(reply: Reply) -> Answer:
    """Read a good reply to a prediction. Raises AnswerError."""
    try:
        found = answer.read_answer(reply.body, reply.headers.get(HEADER_LENGTH))
    except (ProtocolError, ValueError, TypeError) as error:
        raise AnswerError(f"this is no gateway's answer: {error}", status=reply.status) from error
    told = reply.headers
    return Answer(
        request_id=told.get("x-request-id", ""),
        vector=found.vector,
        ids=found.ids,
        scores=found.scores,
        arm=told.get(ARM_HEADER, ""),
        assigned=told.get("x-turnout-assigned", ""),
        reason=told.get("x-turnout-reason", ""),
        stage=told.get("x-turnout-stage", ""),
        version=told.get("x-turnout-version", ""),
        length=found.length,
        window=found.window,
        checkpoint=found.checkpoint,
        bank=found.bank,
    )


def _kind(status: int) -> type[ClientError]:
    if status in {401, 403}:
        return AccessError
    if status == _GATEWAY_TIMEOUT:
        return DeadlineError
    if status >= _SERVER or status in AGAIN:
        return UnavailableError
    return RequestError


def _sentence(reply: Reply) -> str:
    """Return the error's own words, or what can be said without them."""
    try:
        document = orjson.loads(reply.body)
        said = document["error"] if isinstance(document, dict) else None
    except (orjson.JSONDecodeError, KeyError):
        said = None
    return said if isinstance(said, str) else f"the answer has the status {reply.status}"


def _late(call: Call) -> str:
    return f"no answer within {call.timeout_s:g} s"
