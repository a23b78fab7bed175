"""One request to one replica and its answer, within a limit: what fails is translated here.

Into an UpstreamError with its kind when the replica failed, into a RefusedError when it says that
the request itself is wrong.
"""

from collections.abc import Coroutine, Mapping
from typing import Any, Final, NoReturn

import orjson

from backends.serving import tracing
from router.deadlines import Limit
from router.errors import (
    RefusedError,
    UpstreamConnectionError,
    UpstreamInvalidError,
    UpstreamStatusError,
    UpstreamTimeoutError,
)
from router.fleet import Replica
from router.transport import Content, Reply, TransportError, write_lines

CLIENT_FAULTS: Final = frozenset({400, 413, 422})
"""What a backend may say about a request. Other 4xx (404, 415, 429) are not the client's fault."""
MOST_RETRY_AFTER_S: Final = 60
MOST_DIGITS: Final = 9
SHOWN_S: Final = 0.001
"""The shortest wait that is told as one."""
_OK: Final = 200


def exchange(
    arm: str,
    replica: Replica,
    method: str,
    path: str,
    *,
    limit: Limit,
    headers: Mapping[str, str] | bytes = b"",
    body: Content | None = None,
    shadow: bool,
) -> Coroutine[Any, Any, Reply]:
    """Send one request and read its answer, all within `limit`.

    `headers` as `Transport.send` takes them. Raises UpstreamTimeoutError, UpstreamConnectionError,
    UpstreamStatusError, RefusedError.
    """
    if tracing.is_on():
        return _traced(arm, replica, method, path, limit, headers, body, shadow=shadow)
    return _exchange(arm, replica, method, path, limit, headers, body)


async def _traced(
    arm: str,
    replica: Replica,
    method: str,
    path: str,
    limit: Limit,
    headers: Mapping[str, str] | bytes,
    body: Content | None,
    *,
    shadow: bool,
) -> Reply:
    where = replica.address
    with tracing.calling(method, where.host, where.port, path, arm=arm, shadow=shadow) as span:
        if isinstance(headers, bytes):
            handed_on: Mapping[str, str] | bytes = headers + write_lines(span.headers)
        else:
            handed_on = {**headers, **span.headers}
        return await _exchange(arm, replica, method, path, limit, handed_on, body, span)


async def _exchange(
    arm: str,
    replica: Replica,
    method: str,
    path: str,
    limit: Limit,
    headers: Mapping[str, str] | bytes,
    body: Content | None,
    span: tracing.Traced = tracing.NOTHING,
) -> Reply:
    try:
        with limit:
            reply = await replica.transport.send(method, path, headers, body)
    except TimeoutError as error:
        raise UpstreamTimeoutError(late(arm, limit.seconds)) from error
    except TransportError as error:
        raise UpstreamConnectionError(
            f"the connection to the {arm} backend failed: {error}"
        ) from error
    span.answered(reply.status)
    if reply.status != _OK:
        _refuse(arm, reply)
    return reply


def late(arm: str, seconds: float) -> str:
    """Say that a backend did not answer within `seconds`."""
    if seconds < SHOWN_S:
        return f"no time was left for the {arm} backend to answer"
    return f"the {arm} backend did not answer within {seconds:.3f} s"


def _refuse(arm: str, reply: Reply) -> NoReturn:
    if reply.status in CLIENT_FAULTS:
        message = document(arm, reply).get("error")
        raise RefusedError(str(message), reply.status)
    raise UpstreamStatusError(
        f"the {arm} backend answered with status {reply.status}",
        reply.status,
        _retry_after(reply.headers.get("retry-after")),
    )


def _retry_after(text: str | None) -> int | None:
    """Read a Retry-After in seconds, within bounds; one that is a date counts as a second."""
    if text is None:
        return None
    seconds = int(text) if text.isdecimal() and len(text) <= MOST_DIGITS else 1
    return min(max(seconds, 1), MOST_RETRY_AFTER_S)


def document(arm: str, reply: Reply) -> dict[str, Any]:
    """Read an answer that is a JSON object. Raises UpstreamInvalidError."""
    try:
        document = orjson.loads(reply.body)
    except orjson.JSONDecodeError as error:
        raise UpstreamInvalidError(f"the {arm} backend's answer is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise UpstreamInvalidError(f"the {arm} backend's answer is no JSON object")
    return document
