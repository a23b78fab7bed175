"""`python -m deploy.broken`: a model server's double that spoils what passes through it.

The demo puts it in front of the candidate, so that a rollback can be seen. It passes everything on
and changes only predictions, in one of three ways that really happen:

| fault | what it is like |
|---|---|
| `errors` | three in ten predictions are answered with status 500 |
| `slow` | every prediction takes seconds longer |
| `wrong` | the features of every vector arrive in reverse order: good answers to another question |

Metadata and health are those of the server behind it, so nothing but the predictions gives it away.
"""

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Final

import httpx2
import numpy as np
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backends.protocol import DIMENSION, HEADER_LENGTH, write_error
from backends.serving import process, telemetry

DELAY_S: Final = 3.0
FAILING_OF_TEN: Final = 3
_STRIPPED: Final = frozenset({"host", "connection", "content-length", "transfer-encoding", "date"})
_METHODS: Final = ("GET", "HEAD", "POST")


class Fault(StrEnum):
    """How predictions are spoiled."""

    ERRORS = "errors"
    SLOW = "slow"
    WRONG = "wrong"


class Settings(BaseSettings):
    """Frozen settings of one double."""

    model_config = SettingsConfigDict(env_prefix="BROKEN_", frozen=True, extra="forbid")

    url: str = Field(description="The model server that answers in truth.")
    fault: Fault = Field(description="How predictions are spoiled.")
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(ge=0, le=65535, description="Port to listen on.")


def fails(request_id: str) -> bool:
    """Whether a request is one of the three in ten: the same one always."""
    return zlib.crc32(request_id.encode()) % 10 < FAILING_OF_TEN


def reverse_features(body: bytes, head: int) -> bytes:
    """Reverse each vector of a binary request, whose JSON takes the first `head` bytes."""
    tensor = np.frombuffer(body, "<f4", offset=head).reshape(-1, DIMENSION)
    return body[:head] + tensor[:, ::-1].tobytes()


class Broken:
    """The double. `app` is the ASGI application."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._http = httpx2.AsyncClient(base_url=settings.url, timeout=60, trust_env=False)
        routes = [Route("/{path:path}", self.answer, methods=list(_METHODS))]
        self.app = Starlette(routes=routes, lifespan=self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        await self._http.aclose()

    async def answer(self, request: Request) -> Response:
        """Pass one request on; spoil it when it is a prediction."""
        body = await request.body()
        if request.url.path.endswith("/infer"):
            name = request.headers.get("x-request-id", "")
            match self._settings.fault:
                case Fault.ERRORS if fails(name):
                    text = write_error("this model server is broken on purpose")
                    return Response(text, 500, media_type="application/json")
                case Fault.SLOW:
                    await asyncio.sleep(DELAY_S)
                case Fault.WRONG:
                    body = reverse_features(body, int(request.headers[HEADER_LENGTH]))
        kept = {name: value for name, value in request.headers.items() if name not in _STRIPPED}
        try:
            reply = await self._http.request(
                request.method, request.url.path, content=body, headers=kept
            )
        except httpx2.TransportError as error:
            return Response(write_error(f"behind this double: {error}"), 502)
        told = {name: value for name, value in reply.headers.items() if name not in _STRIPPED}
        return Response(reply.content, reply.status_code, told)


def main() -> None:
    """Run one double until it is told to stop."""
    settings = Settings()
    telemetry.configure_logging("broken")
    process.serve(Broken(settings).app, settings.host, settings.port)


if __name__ == "__main__":
    main()
