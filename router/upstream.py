"""The one door to a backend: HTTP out, typed answers and typed failures in.

A question goes out in the binary form, as far as its floats have arrived, with its name, the time
that is left, a mark when it is a mirror's copy, and its trace where tracing is on. Whatever goes
wrong is translated here, where it is caught: into an UpstreamError with its kind when the arm
failed, into a RefusedError when the backend says that the request itself is wrong. A client that
sends slowly is no failure of an arm: an attempt's own time begins when the floats are all there.

An arm has one replica or several (`router/fleet.py`). What is safe to try again is tried again, on
another replica where one is well, within the one deadline of the arm's attempt and a budget that
all its requests share (`router/retries.py`). A failure that a retry mended is no error of the arm,
since its client saw none; the metrics tell of it.
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from backends import answer, protocol
from backends.idruns import IdRuns
from backends.protocol import TIMEOUT_HEADER, Floats, Prediction, ProtocolError
from router.body import Body, Piece, Question
from router.deadlines import Deadlines, Limit
from router.errors import (
    LateBodyError,
    RefusedError,
    UpstreamConnectionError,
    UpstreamError,
    UpstreamInvalidError,
    UpstreamStatusError,
    UpstreamTimeoutError,
)
from router.exchange import document, exchange
from router.fleet import Arm, Models, Replica
from router.metrics import Metrics
from router.record import Attempt
from router.retries import Policy, Retried, is_safe, pause
from router.transport import Reply, Stream

PROBE_S: Final = 2.0
LIST_S: Final = 10.0
_MODEL: Final = f"/v2/models/{protocol.MODEL}"
_INFER: Final = f"{_MODEL}/infer"
_HEADERS: Final = (
    "content-type: application/octet-stream\r\n"
    f"content-length: %d\r\n{protocol.HEADER_LENGTH}: %d\r\nx-request-id: %b\r\n"
).encode()
_SHADOW: Final = f"{protocol.SHADOW_HEADER}: 1\r\n".encode()
_TIMEOUT: Final = f"{TIMEOUT_HEADER}: %d\r\n".encode()


class Patience(NamedTuple):
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


class Upstream:
    """Clients for the backends of all arms. `backends` maps an arm to its replicas' addresses.

    `shadow` marks every request as a mirror's copy: it is tried once, and not where no replica is
    well. `connections` are those of one replica. `ca_file` holds the authorities that https
    backends' certificates must come from, in place of the system's. `models` is told who answers
    with what. `random` gives numbers from 0 to 1.
    """

    def __init__(
        self,
        backends: Mapping[str, Sequence[str]],
        *,
        shadow: bool = False,
        connections: int = 100,
        ca_file: Path | None = None,
        metrics: Metrics | None = None,
        models: Models | None = None,
        policy: Policy | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._shadow = shadow
        self._marks = (_SHADOW if shadow else b"") + _HEADERS
        self._deadlines = Deadlines()
        self._metrics = metrics
        self._models = models or Models()
        self._policy = Policy(retries=0) if shadow else policy or Policy()
        self._clock = clock
        self._random = random
        self._arms = {
            name: Arm(
                name,
                urls,
                connections=connections,
                ca_file=ca_file,
                shadow=shadow,
                metrics=metrics.fleet if metrics else None,
            )
            for name, urls in backends.items()
        }

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that have a backend."""
        return tuple(self._arms)

    async def close(self) -> None:
        """Close all connections."""
        replicas = [one for arm in self._arms.values() for one in arm.replicas.values()]
        await asyncio.gather(*(one.transport.close() for one in replicas))

    async def attempt(
        self,
        arm: str,
        question: Question,
        *,
        patience: Patience,
        request_id: str,
        must_answer: bool = True,
    ) -> Attempt:
        """Let `arm` try a request, again where that is safe and may help; give what came of it.

        Without `must_answer`, when somebody else can answer in its place, an arm whose replicas are
        all ejected fails at once. Raises LateBodyError when the time is up before the client has
        sent all floats.
        """
        started = self._clock()
        body = question.body
        try:
            fleet = self._arm(arm)
            limit = self._deadlines.limit(patience.left(started, whole=body.whole))
            if not body.whole:
                await self._admit(fleet, body, limit, patience)
            fleet.budget.active += 1
            try:
                call = _Call(question, request_id, limit)
                prediction = await self._infer(fleet, call, must_answer=must_answer)
            finally:
                fleet.budget.active -= 1
                fleet.release(body)
        except (UpstreamError, RefusedError) as error:
            attempt = Attempt(arm, self._clock() - started, None, error)
        else:
            attempt = Attempt(arm, self._clock() - started, prediction)
        if self._metrics is not None:
            seconds = self._metrics.upstream_seconds.labels(arm, attempt.outcome)
            seconds.observe(attempt.seconds)
        return attempt

    async def _admit(self, fleet: Arm, body: Body, limit: Limit, patience: Patience) -> None:
        """Wait until a body that is still arriving may be sent. Raises LateBodyError."""
        body.when_whole(lambda: limit.reset(patience.left(self._clock(), whole=True)))
        try:
            with limit:
                await fleet.admit(body)
        except TimeoutError:
            raise _late_body() from None

    async def _infer(self, arm: Arm, call: "_Call", *, must_answer: bool) -> Prediction:
        """Try until there is an answer, or trying again is not worth it."""
        key = call.question.terms.key
        must_answer = must_answer and not self._shadow
        replica = arm.choose(key, self._clock(), must_answer=must_answer)
        if replica is None:
            raise UpstreamConnectionError(
                f"the {arm.name} backend is not asked for now: its last requests failed"
            )
        tried: set[str] = set()
        while True:
            try:
                prediction = await self._try(arm, replica, call)
            except UpstreamError as error:
                failed = error
            else:
                if tried:
                    self._count_retry(arm, Retried.MENDED)
                return prediction
            finally:
                if tried:
                    arm.budget.give()
            if tried:
                self._count_retry(arm, Retried.FAILED)
            tried.add(replica.url)
            call.retries += 1
            if not is_safe(failed) or call.retries > self._policy.retries:
                raise failed
            following = await self._again(arm, call, failed, tried)
            if isinstance(following, Retried):
                self._count_retry(arm, following)
                raise failed
            replica = following

    async def _again(
        self, arm: Arm, call: "_Call", failed: UpstreamError, tried: Collection[str]
    ) -> Replica | Retried:
        """Wait before a retry, and say who gets it; or why there is none.

        A place in the budget is taken with it.
        """
        key = call.question.terms.key
        busy = isinstance(failed, UpstreamStatusError) and failed.busy
        if arm.choose_again(key, self._clock(), tried=tried, busy=busy) is None:
            return Retried.NOBODY
        wait_s = pause(self._policy, call.retries, self._random())
        if wait_s >= call.limit.left:
            return Retried.TIME
        if not arm.budget.take():
            return Retried.BUDGET
        found: Replica | None = None
        try:
            await asyncio.sleep(wait_s)
            # Others have failed meanwhile, or come back.
            found = arm.choose_again(key, self._clock(), tried=tried, busy=busy)
        finally:
            if found is None:
                arm.budget.give()
        return found or Retried.NOBODY

    async def _try(self, arm: Arm, replica: Replica, call: "_Call") -> Prediction:
        """Send the question to one replica, and note how that ends."""
        question, body = call.question, call.question.body
        left_s = call.limit.left
        replica.breaker.sent()
        try:
            reply = await exchange(
                arm.name,
                replica,
                "POST",
                _INFER,
                limit=call.limit,
                headers=self._headers(question, call.request_id, left_s),
                body=_content(question),
                shadow=self._shadow,
            )
            prediction = _prediction(arm.name, reply)
        except UpstreamTimeoutError as error:
            if not body.whole:
                arm.left(replica, self._clock())
                raise _late_body() from None
            arm.failed(replica, error, self._clock(), min(left_s, call.limit.seconds))
            raise
        except UpstreamError as error:
            arm.failed(replica, error, self._clock(), left_s)
            raise
        except RefusedError:
            arm.answered(replica, self._clock())
            raise
        except BaseException:  # the client left, or something broke here
            arm.left(replica, self._clock())
            raise
        arm.answered(replica, self._clock())
        self._models.note(arm.name, replica.url, prediction.checkpoint, prediction.bank)
        return prediction

    def _headers(self, question: Question, request_id: str, left_s: float) -> bytes:
        """Write a question's header lines; `request_id` is one of ours."""
        head = len(question.head)
        lines = self._marks % (head + question.body.size, head, request_id.encode())
        if left_s < math.inf:
            lines += _TIMEOUT % max(1, math.floor(1e3 * left_s))
        return lines

    def _count_retry(self, arm: Arm, outcome: Retried) -> None:
        if self._metrics is not None:
            self._metrics.fleet.retries.labels(arm.name, outcome).inc()

    async def lookup(self, arm: str, vector: Floats, *, timeout_s: float = PROBE_S) -> int | None:
        """Find the id of the bank's vector that equals `vector` `[768]`, or None.

        Raises UpstreamError when the arm fails.
        """
        body = orjson.dumps({"vector": vector}, option=orjson.OPT_SERIALIZE_NUMPY)
        response = await self._ask(arm, "POST", f"{_MODEL}/lookup", timeout_s, body)
        found = document(arm, response).get("id")
        if found is not None and (isinstance(found, bool) or not isinstance(found, int)):
            raise UpstreamInvalidError(f"the {arm} backend's lookup gave {found!r} for an id")
        return found

    async def vector(self, arm: str, id_: int, *, timeout_s: float = PROBE_S) -> Floats | None:
        """Give the bank's vector `[768]` of an id, or None.

        Raises UpstreamError when the arm fails, RefusedError when it knows of no such question.
        """
        response = await self._ask(arm, "GET", f"{_MODEL}/vectors/{id_}", timeout_s)
        listed = document(arm, response).get("vector")
        if listed is None:
            return None
        try:
            return protocol.read_lookup(orjson.dumps({"vector": listed}))
        except (ProtocolError, TypeError) as error:
            raise UpstreamInvalidError(f"the {arm} backend gave no vector: {error}") from error

    async def ids(self, arm: str, *, timeout_s: float = LIST_S) -> IdRuns:
        """List the ids of the arm's bank. Raises UpstreamError, also where it lists none."""
        response = await self._ask(arm, "GET", f"{_MODEL}/ids", timeout_s)
        try:
            return IdRuns.read(response.body)
        except ValueError as error:
            raise UpstreamInvalidError(f"the {arm} backend lists no ids: {error}") from error

    async def ready(self, arm: str) -> bool:
        """Whether a replica of the arm says within two seconds that it can answer."""

        async def is_ready(replica: Replica) -> bool:
            try:
                await self._probe(arm, replica, "/v2/health/ready")
            except (UpstreamError, RefusedError):
                return False
            return True

        asking = [asyncio.create_task(is_ready(one)) for one in self._arm(arm).replicas.values()]
        try:
            for answer in asyncio.as_completed(asking):
                if await answer:
                    return True
        finally:
            for task in asking:
                task.cancel()
        return False

    async def identity(self, arm: str) -> dict[str, str]:
        """Ask for the sha256 of the arm's checkpoint and bank. Raises UpstreamError."""
        return await self._identify(arm, self._well(arm))

    async def identify(self) -> None:
        """Ask every replica what it computes with; who does not answer is left out."""
        await asyncio.gather(
            *(
                self._identify(name, replica)
                for name, arm in self._arms.items()
                for replica in arm.replicas.values()
            ),
            return_exceptions=True,
        )

    async def _identify(self, arm: str, replica: Replica) -> dict[str, str]:
        facts = document(arm, await self._probe(arm, replica, _MODEL)).get("parameters")
        found = {
            name: facts.get(name) if isinstance(facts, dict) else None
            for name in ("checkpoint", "bank")
        }
        if not all(isinstance(value, str) for value in found.values()):
            raise UpstreamInvalidError(f"the {arm} backend's metadata lacks its identity")
        identity = {name: str(value) for name, value in found.items()}
        self._models.note(arm, replica.url, **identity)
        return identity

    async def _probe(self, arm: str, replica: Replica, path: str) -> Reply:
        return await self._send(self._arm(arm), replica, "GET", path, PROBE_S)

    async def _ask(
        self, arm: str, method: str, path: str, timeout_s: float, body: bytes | None = None
    ) -> Reply:
        """Ask a replica that is well something besides a prediction."""
        return await self._send(self._arm(arm), self._well(arm), method, path, timeout_s, body=body)

    async def _send(
        self,
        arm: Arm,
        replica: Replica,
        method: str,
        path: str,
        timeout_s: float,
        *,
        body: bytes | None = None,
    ) -> Reply:
        return await exchange(
            arm.name,
            replica,
            method,
            path,
            limit=self._deadlines.limit(timeout_s),
            headers={},
            body=body,
            shadow=self._shadow,
        )

    def _arm(self, name: str) -> Arm:
        arm = self._arms.get(name)
        if arm is None:
            raise UpstreamConnectionError(f"no URL is set for the {name} backend: ROUTER_BACKENDS")
        return arm

    def _well(self, arm: str) -> Replica:
        """Choose a replica that is well, or any where none is."""
        fleet = self._arm(arm)
        found = fleet.choose(None, self._clock(), must_answer=True)
        return found or next(iter(fleet.replicas.values()))


@dataclass(slots=True)
class _Call:
    """One request to an arm, over all its tries."""

    question: Question
    request_id: str
    limit: Limit
    retries: int = 0


def _late_body() -> LateBodyError:
    return LateBodyError("the time was up before the body had arrived")


def _prediction(arm: str, reply: Reply) -> Prediction:
    try:
        return answer.read_answer(reply.body, reply.headers.get(protocol.HEADER_LENGTH))
    except (ProtocolError, ValueError, TypeError) as error:
        raise UpstreamInvalidError(f"the {arm} backend gave an invalid answer: {error}") from error


def _content(question: Question) -> tuple[Piece, ...] | Stream:
    """Give all of it where it has arrived, else a stream of it."""
    body = question.body
    if body.whole:
        return (question.head, *body.pieces())
    return lambda: _pieces(question)


async def _pieces(question: Question) -> AsyncIterator[Piece]:
    yield question.head
    async for piece in question.body.read():
        yield piece
