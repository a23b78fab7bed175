"""The one door to a backend: HTTP out, typed answers and typed failures in.

A question goes out in the binary form, as far as its floats have arrived, with its name, the time
that is left, a mark when it is a mirror's copy, and its trace where tracing is on. Whatever goes
wrong is translated here, where it is caught: into an UpstreamError with its kind when the arm
failed, into a RefusedError when the backend says that the request itself is wrong. A client that
sends slowly is no failure of an arm: an attempt's own time begins when the floats are all there.

An arm has one replica or several. Each has a connection pool of its own, so that a slow one cannot
starve another.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import orjson
from prometheus_client import Histogram

from backends import protocol, tracing
from backends.content import KIB
from backends.idruns import IdRuns
from backends.protocol import TIMEOUT_HEADER, Floats, Prediction, ProtocolError
from router.address import read_address
from router.body import Piece, Question
from router.errors import (
    LateBodyError,
    RefusedError,
    UpstreamConnectionError,
    UpstreamError,
    UpstreamInvalidError,
    UpstreamStatusError,
    UpstreamTimeoutError,
)
from router.record import Attempt
from router.replicas import choose
from router.transport import Reply, Stream, Transport, TransportError

CLIENT_FAULTS: Final = frozenset({400, 413, 422})
"""What a backend may say about a request. Other 4xx (404, 415, 429) are not the client's fault."""
PROBE_S: Final = 2.0
LIST_S: Final = 10.0
_MODEL: Final = f"/v2/models/{protocol.MODEL}"
_OK: Final = 200
SHORT: Final = 64 * KIB
"""Bytes of floats that are sent in one piece with what stands before them."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A backend's prediction, and how long the arm took over it, in seconds."""

    prediction: Prediction
    seconds: float


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an attempt may take. Its own time begins when all floats have arrived."""

    deadline: float = math.inf
    """Monotonic seconds: the end of everything."""
    share: float = 1.0
    """Of what is left until then, from 0 to 1."""
    most_s: float = math.inf

    def left(self, now: float, *, whole: bool) -> float:
        """Seconds that are left at `now`."""
        left = self.deadline - now
        return min(self.share * left, self.most_s) if whole else left


class Replica:
    """One backend of an arm, and how many requests are with it."""

    def __init__(self, url: str, *, connections: int, ca_file: Path | None) -> None:
        self.url = url
        self.address = read_address(url)
        self.transport = Transport(self.address, connections=connections, ca_file=ca_file)
        self.load = 0

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | Stream | None
    ) -> Reply:
        """Send one request, and count it while it is under way. Raises TransportError."""
        self.load += 1
        try:
            return await self.transport.send(method, path, headers, body)
        finally:
            self.load -= 1


class Upstream:
    """Clients for the backends of all arms. `backends` maps an arm to its replicas' addresses.

    `shadow` marks every request as a mirror's copy. `connections` are those of one replica.
    `ca_file` holds the authorities that https backends' certificates must come from, in place of
    the system's. `seconds`, a histogram with the labels arm and outcome, is told about each
    attempt.
    """

    def __init__(
        self,
        backends: Mapping[str, Sequence[str]],
        *,
        shadow: bool = False,
        connections: int = 100,
        ca_file: Path | None = None,
        seconds: Histogram | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shadow = shadow
        self._marks = {protocol.SHADOW_HEADER: "1"} if shadow else {}
        self._seconds = seconds
        self._clock = clock
        self._replicas = {
            arm: {url: Replica(url, connections=connections, ca_file=ca_file) for url in addresses}
            for arm, addresses in backends.items()
        }

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that have a backend."""
        return tuple(self._replicas)

    async def close(self) -> None:
        """Close all connections."""
        replicas = [one for arm in self._replicas.values() for one in arm.values()]
        await asyncio.gather(*(one.transport.close() for one in replicas))

    async def attempt(
        self, arm: str, question: Question, *, patience: Patience, request_id: str
    ) -> Attempt:
        """Let `arm` try a request: `infer`, with its errors as values, but for LateBodyError."""
        started = self._clock()
        try:
            answer = await self.infer(arm, question, patience=patience, request_id=request_id)
        except (UpstreamError, RefusedError) as error:
            attempt = Attempt(arm, self._clock() - started, error=error)
        else:
            attempt = Attempt(arm, answer.seconds, prediction=answer.prediction)
        if self._seconds is not None:
            self._seconds.labels(arm, attempt.outcome).observe(attempt.seconds)
        return attempt

    async def infer(
        self, arm: str, question: Question, *, patience: Patience, request_id: str
    ) -> Answer:
        """Ask `arm` for a prediction.

        Raises UpstreamError, of its kind, when the arm fails; RefusedError when it refuses;
        LateBodyError when the time is up before the client has sent all floats.
        """
        started = self._clock()
        body = question.body
        left_s = patience.left(started, whole=body.whole)
        headers = {
            "content-type": "application/octet-stream",
            "content-length": str(len(question.head) + body.size),
            protocol.HEADER_LENGTH: str(len(question.head)),
            **self._marks,
            "x-request-id": request_id,
        }
        if left_s < math.inf:
            headers[TIMEOUT_HEADER] = str(max(1, math.floor(1e3 * left_s)))
        limit = _Limit(left_s)
        if not body.whole:
            body.when_whole(lambda: limit.reset(patience.left(self._clock(), whole=True)))
        try:
            reply = await self._send(
                arm,
                "POST",
                f"{_MODEL}/infer",
                limit=limit,
                headers=headers,
                body=_content(question),
                key=question.terms.key,
            )
        except UpstreamTimeoutError:
            if not body.whole:
                raise LateBodyError("the time was up before the body had arrived") from None
            raise
        try:
            prediction = protocol.read_answer(reply.body, reply.headers.get(protocol.HEADER_LENGTH))
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
        response = await self._send(
            arm, "POST", f"{_MODEL}/lookup", limit=_Limit(timeout_s), body=body
        )
        found = _document(arm, response).get("id")
        if found is not None and (isinstance(found, bool) or not isinstance(found, int)):
            raise UpstreamInvalidError(f"the {arm} backend's lookup gave {found!r} for an id")
        return found

    async def ids(self, arm: str, *, timeout_s: float = LIST_S) -> IdRuns:
        """List the ids of the arm's bank. Raises UpstreamError, also where it lists none."""
        response = await self._send(arm, "GET", f"{_MODEL}/ids", limit=_Limit(timeout_s))
        try:
            return IdRuns.read(response.body)
        except ValueError as error:
            raise UpstreamInvalidError(f"the {arm} backend lists no ids: {error}") from error

    async def ready(self, arm: str) -> bool:
        """Whether the arm says that it can answer, within two seconds."""
        try:
            await self._send(arm, "GET", "/v2/health/ready", limit=_Limit(PROBE_S))
        except (UpstreamError, RefusedError):
            return False
        return True

    async def identity(self, arm: str) -> dict[str, str]:
        """Ask for the sha256 of the arm's checkpoint and bank. Raises UpstreamError."""
        document = _document(arm, await self._send(arm, "GET", _MODEL, limit=_Limit(PROBE_S)))
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
        limit: "_Limit",
        headers: Mapping[str, str] | None = None,
        body: bytes | Stream | None = None,
        key: str | None = None,
    ) -> Reply:
        """Send one request and read its answer, all within `limit`; translate what fails."""
        replica = self._choose(arm, key)
        where = replica.address
        with tracing.calling(
            method, where.host, where.port, path, arm=arm, shadow=self._shadow
        ) as span:
            try:
                async with limit.running():
                    reply = await replica.send(
                        method, path, {**(headers or {}), **span.headers}, body
                    )
            except TimeoutError as error:
                raise UpstreamTimeoutError(
                    f"the {arm} backend did not answer within {max(limit.seconds, 0):.3f} s"
                ) from error
            except TransportError as error:
                raise UpstreamConnectionError(
                    f"the connection to the {arm} backend failed: {error}"
                ) from error
            span.answered(reply.status)
            if reply.status != _OK:
                _refuse(arm, reply)
        return reply

    def _choose(self, arm: str, key: str | None) -> Replica:
        replicas = self._replicas.get(arm)
        if replicas is None:
            raise UpstreamConnectionError(f"no URL is set for the {arm} backend: ROUTER_BACKENDS")
        if len(replicas) == 1:
            return next(iter(replicas.values()))
        loads = {url: replica.load for url, replica in replicas.items()}
        return replicas[choose(tuple(replicas), key, loads, replicas.keys())]


class _Limit:
    """A timeout that may be set anew while it runs."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._timeout: asyncio.Timeout | None = None

    def running(self) -> asyncio.Timeout:
        self._timeout = asyncio.timeout(self.seconds if self.seconds < math.inf else None)
        return self._timeout

    def reset(self, seconds: float) -> None:
        """Give it `seconds` from now on, unless it is over."""
        self.seconds = seconds
        if self._timeout is not None and not self._timeout.expired():
            with contextlib.suppress(RuntimeError):  # it has ended in time
                self._timeout.reschedule(asyncio.get_running_loop().time() + seconds)


def _content(question: Question) -> bytes | Stream:
    """Join what is short and there; stream the rest."""
    body = question.body
    if body.whole and body.size <= SHORT:
        return b"".join((question.head, *body.pieces()))
    return lambda: _pieces(question)


async def _pieces(question: Question) -> AsyncIterator[Piece]:
    yield question.head
    async for piece in question.body.read():
        yield piece


def _refuse(arm: str, reply: Reply) -> NoReturn:
    if reply.status in CLIENT_FAULTS:
        message = _document(arm, reply).get("error")
        raise RefusedError(str(message), reply.status)
    raise UpstreamStatusError(f"the {arm} backend answered with status {reply.status}")


def _document(arm: str, reply: Reply) -> dict[str, Any]:
    try:
        document = orjson.loads(reply.body)
    except orjson.JSONDecodeError as error:
        raise UpstreamInvalidError(f"the {arm} backend's answer is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise UpstreamInvalidError(f"the {arm} backend's answer is no JSON object")
    return document
