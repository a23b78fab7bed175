"""The one door to a backend: HTTP out, typed answers and typed failures in.

A request goes out in the binary form, with its name, the time that is left, a mark when it is a
mirror's copy, and its trace where tracing is on. Whatever goes wrong is translated here, where it
is caught: into an UpstreamError with its kind when the arm failed, into a RefusedError when the
backend says that the request itself is wrong. Redirects are not followed, and no proxy of the
environment is used.

Each arm has a connection pool of its own, so that a slow arm cannot starve another.
"""

import asyncio
import functools
import math
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import httpx2
import orjson
from prometheus_client import Histogram

from backends import protocol, tracing
from backends.idruns import IdRuns
from backends.protocol import TIMEOUT_HEADER, Floats, Prediction, ProtocolError, Request
from router.errors import (
    RefusedError,
    UpstreamConnectionError,
    UpstreamError,
    UpstreamInvalidError,
    UpstreamStatusError,
    UpstreamTimeoutError,
)
from router.record import Attempt

CLIENT_FAULTS: Final = frozenset({400, 413, 422})
"""What a backend may say about a request. Other 4xx (404, 415, 429) are not the client's fault."""
PROBE_S: Final = 2.0
LIST_S: Final = 10.0
_MODEL: Final = f"/v2/models/{protocol.MODEL}"
_OK: Final = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """A backend's prediction, and how long the arm took over it, in seconds."""

    prediction: Prediction
    seconds: float


class Upstream:
    """Clients for the backends of all arms. `backends` maps an arm to its base URL.

    `shadow` marks every request as a mirror's copy. `seconds`, a histogram with the labels arm and
    outcome, is told about each attempt.
    """

    def __init__(
        self,
        backends: Mapping[str, str],
        *,
        shadow: bool = False,
        connections: int = 100,
        seconds: Histogram | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shadow = shadow
        self._marks = {protocol.SHADOW_HEADER: "1"} if shadow else {}
        self._seconds = seconds
        self._clock = clock
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._clients = {
            arm: httpx2.AsyncClient(
                base_url=url,
                timeout=None,  # every call is under asyncio.timeout
                limits=limits,
                follow_redirects=False,
                trust_env=False,
                verify=_trust(),
            )
            for arm, url in backends.items()
        }

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that have a backend."""
        return tuple(self._clients)

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(client.aclose() for client in self._clients.values()))

    async def attempt(
        self, arm: str, request: Request, *, deadline: float, request_id: str
    ) -> Attempt:
        """Let `arm` try a request: `infer`, with its errors as values."""
        started = self._clock()
        try:
            answer = await self.infer(arm, request, deadline=deadline, request_id=request_id)
        except (UpstreamError, RefusedError) as error:
            attempt = Attempt(arm, self._clock() - started, error=error)
        else:
            attempt = Attempt(arm, answer.seconds, prediction=answer.prediction)
        if self._seconds is not None:
            self._seconds.labels(arm, attempt.outcome).observe(attempt.seconds)
        return attempt

    async def infer(
        self, arm: str, request: Request, *, deadline: float, request_id: str
    ) -> Answer:
        """Ask `arm` for a prediction until `deadline` (monotonic seconds).

        Raises UpstreamError, of its kind, when the arm fails; RefusedError when it refuses.
        """
        started = self._clock()
        remaining = deadline - started
        message = protocol.write_request(request)
        headers = {
            **message.headers,
            **self._marks,
            "x-request-id": request_id,
            TIMEOUT_HEADER: str(max(1, math.floor(1e3 * remaining))),
        }
        response = await self._send(
            arm, "POST", f"{_MODEL}/infer", timeout_s=remaining, headers=headers, body=message.body
        )
        try:
            prediction = protocol.read_answer(
                response.content, response.headers.get(protocol.HEADER_LENGTH)
            )
        except (ProtocolError, ValueError, TypeError) as error:
            raise UpstreamInvalidError(
                f"the {arm} backend gave an invalid answer: {error}"
            ) from error
        return Answer(prediction, self._clock() - started)

    async def lookup(self, arm: str, vector: Floats, *, timeout_s: float = PROBE_S) -> int | None:
        """Find the id of the bank's vector that equals `vector` `[768]`, or None.

        Raises UpstreamError when the arm fails.
        """
        body = orjson.dumps({"vector": vector}, option=orjson.OPT_SERIALIZE_NUMPY)
        response = await self._send(arm, "POST", f"{_MODEL}/lookup", timeout_s=timeout_s, body=body)
        found = _document(arm, response).get("id")
        if found is not None and (isinstance(found, bool) or not isinstance(found, int)):
            raise UpstreamInvalidError(f"the {arm} backend's lookup gave {found!r} for an id")
        return found

    async def ids(self, arm: str, *, timeout_s: float = LIST_S) -> IdRuns:
        """List the ids of the arm's bank. Raises UpstreamError, also where it lists none."""
        response = await self._send(arm, "GET", f"{_MODEL}/ids", timeout_s=timeout_s)
        try:
            return IdRuns.read(response.content)
        except ValueError as error:
            raise UpstreamInvalidError(f"the {arm} backend lists no ids: {error}") from error

    async def ready(self, arm: str) -> bool:
        """Whether the arm says that it can answer, within two seconds."""
        try:
            await self._send(arm, "GET", "/v2/health/ready", timeout_s=PROBE_S)
        except (UpstreamError, RefusedError):
            return False
        return True

    async def identity(self, arm: str) -> dict[str, str]:
        """Ask for the sha256 of the arm's checkpoint and bank. Raises UpstreamError."""
        document = _document(arm, await self._send(arm, "GET", _MODEL, timeout_s=PROBE_S))
        facts = document.get("parameters")
        found = {
            name: facts.get(name) if isinstance(facts, dict) else None
            for name in ("checkpoint", "bank")
        }
        if not all(isinstance(value, str) for value in found.values()):
            raise UpstreamInvalidError(f"the {arm} backend's metadata lacks its identity")
        return {name: str(value) for name, value in found.items()}

    async def _send(
        self,
        arm: str,
        method: str,
        path: str,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> httpx2.Response:
        """Send one request and read its answer, all within `timeout_s`; translate what fails."""
        client = self._clients.get(arm)
        if client is None:
            raise UpstreamConnectionError(f"no URL is set for the {arm} backend: ROUTER_BACKENDS")
        url = client.base_url
        with tracing.calling(
            method, url.host, url.port, path, arm=arm, shadow=self._shadow
        ) as span:
            try:
                async with asyncio.timeout(timeout_s):
                    response = await client.request(
                        method, path, headers={**(headers or {}), **span.headers}, content=body
                    )
            except TimeoutError as error:
                raise UpstreamTimeoutError(
                    f"the {arm} backend did not answer within {max(timeout_s, 0):.3f} s"
                ) from error
            except (httpx2.RequestError, OSError) as error:
                raise UpstreamConnectionError(
                    f"the connection to the {arm} backend failed: {error or type(error).__name__}"
                ) from error
            span.answered(response.status_code)
            if response.status_code != _OK:
                _refuse(arm, response)
        return response


@functools.cache
def _trust() -> ssl.SSLContext:
    """Read the system's certificates, once: it takes longer than all the rest of a start."""
    return ssl.create_default_context()


def _refuse(arm: str, response: httpx2.Response) -> NoReturn:
    if response.status_code in CLIENT_FAULTS:
        message = _document(arm, response).get("error")
        raise RefusedError(str(message), response.status_code)
    raise UpstreamStatusError(f"the {arm} backend answered with status {response.status_code}")


def _document(arm: str, response: httpx2.Response) -> dict[str, Any]:
    try:
        document = orjson.loads(response.content)
    except orjson.JSONDecodeError as error:
        raise UpstreamInvalidError(f"the {arm} backend's answer is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise UpstreamInvalidError(f"the {arm} backend's answer is no JSON object")
    return document
