"""What every HTTP handler of the gateway needs: bounded bodies, deadlines, errors as JSON."""

import contextlib
from collections.abc import AsyncIterator
from typing import Final, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from backends.protocol import ProtocolError, write_error
from backends.serving.content import in_words
from backends.serving.direct import Answer
from backends.serving.sparing import Sparing
from router import answers
from router.errors import BodyTooLongError, ClientLeftError, RouterError

SERVER_ERROR: Final = 500
T = TypeVar("T")

_lines = Sparing("router")


async def read_body(request: Request, limit: int) -> list[bytes]:
    """Read a body of at most `limit` bytes, in the pieces that it came in.

    One that is announced as too long is refused before any of it is read. The server reads the rest
    of a refused body away, so that the client gets its answer. Raises BodyTooLongError.
    """
    announced = request.headers.get("content-length", "0")  # a number: the server has seen to it
    if int(announced) > limit:
        raise _too_long(limit)
    chunks: list[bytes] = []
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > limit:
            raise _too_long(limit)
        chunks.append(chunk)
    return chunks


def _too_long(limit: int) -> BodyTooLongError:
    return BodyTooLongError(f"the body is longer than {in_words(limit)}: no more is read here")


@contextlib.asynccontextmanager
async def reading_out(request: Request, limit: int) -> AsyncIterator[None]:
    """Let a refusal wait until the body has been read and thrown away, within twice `limit`."""
    try:
        yield
    except (RouterError, ProtocolError):
        total = 0
        async for chunk in request.stream():
            total += len(chunk)
            if total > 2 * limit:
                break
        raise


async def write_refusal(request: Request, error: Exception) -> Response:
    """Write any error that a handler raised as `{"error": "<sentence>"}`."""
    headers: dict[str, str] = {}
    match error:
        case RouterError() | ProtocolError():
            if error.status >= SERVER_ERROR:
                name = request.scope["state"]["request_id"]
                _lines.warning(
                    "not answered", request_id=name, status=error.status, error=str(error)
                )
            return as_response(answers.of_refusal(error))
        case HTTPException():
            status = error.status_code
            text = f"{error.detail}: {request.method} {request.url.path[:80]}"
            if request.url.path == "/":
                text += "; what there is stands in /docs"
            headers = dict(error.headers or {})
        case ClientDisconnect():
            status, text = ClientLeftError.status, "the client left before its body had arrived"
        case _:
            raise error
    return Response(write_error(text), status, headers, "application/json")


def as_response(answer: Answer) -> Response:
    """Give an answer of `router.answers` the form of the framework."""
    lines = (line.split(": ", 1) for line in answer.head.decode("latin-1").splitlines())
    return Response(answer.body, answer.status, dict(lines))
