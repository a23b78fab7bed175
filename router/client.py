"""A client of the gateway, for programs in Python, with asyncio or without.

    from router.client import Client

    with Client("http://127.0.0.1:8080") as client:
        answer = client.predict(vectors, top_k=5)      # float32 [n, 768], oldest first
        print(answer.arm, answer.neighbors)
        client.feedback(answer.request_id, target_id=17)

Vectors travel in the binary form. What fails in passing is tried again within the deadline:
`router/calling.py` says what and when, and holds the errors. Nothing of a server is imported.
"""

import asyncio
import random
import time
from types import TracebackType
from typing import Final, Self

import httpx2
from numpy.typing import ArrayLike

from backends.protocol import KEPT_NEIGHBORS
from router.calling import (
    DEADLINE_S,
    AccessError,
    Answer,
    AnswerError,
    Call,
    ClientError,
    DeadlineError,
    Neighbor,
    Reply,
    RequestError,
    Send,
    UnavailableError,
    UnreachableError,
    Wait,
    check,
    check_url,
    feedback_call,
    header_value,
    predict_call,
    read_prediction,
    steps,
)

__all__ = [
    "AccessError",
    "Answer",
    "AnswerError",
    "AsyncClient",
    "Client",
    "ClientError",
    "DeadlineError",
    "Neighbor",
    "RequestError",
    "UnavailableError",
    "UnreachableError",
]

HERE: Final = "http://127.0.0.1:8080"


def _headers(api_key: str | None) -> dict[str, str]:
    if api_key is None:
        return {}
    return {"authorization": f"Bearer {header_value('the API key', api_key)}"}


class Client:
    """Calls a gateway and waits. May be shared between threads.

    `api_key` is needed where the gateway wants one; `timeout_s` bounds each call, tries included,
    and may be set for each. Raises ValueError for a `url` or an `api_key` that cannot be one.
    """

    def __init__(
        self, url: str = HERE, *, api_key: str | None = None, timeout_s: float = DEADLINE_S
    ) -> None:
        self._timeout_s = timeout_s
        self._http = httpx2.Client(
            base_url=check_url(url), headers=_headers(api_key), follow_redirects=False
        )

    def __repr__(self) -> str:
        return f"<Client of {self._http.base_url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(
        self,
        context: ArrayLike,
        *,
        top_k: int = KEPT_NEIGHBORS,
        key: str | None = None,
        exclude_context: bool = True,
        arm: str | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Predict the next vector of a context `[n, 768]`, oldest first.

        `key` is the routing key: equal keys stay with one model while a rollout is under way.
        `exclude_context` leaves the context's own vectors out of the neighbours. `arm` names the
        model that must answer, which needs the right `override`. Raises ValueError for a wrong
        context, and ClientError.
        """
        call = predict_call(
            context,
            top_k=top_k,
            key=key,
            exclude_context=exclude_context,
            arm=arm,
            timeout_s=timeout_s or self._timeout_s,
        )
        return read_prediction(self._call(call))

    def feedback(
        self,
        request_id: str,
        *,
        target_id: int | None = None,
        target: ArrayLike | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Tell the truth of an earlier prediction, by its id in the bank or as its vector `[768]`.

        A repeat changes nothing. Raises ValueError unless there is one target, and ClientError.
        """
        limit = timeout_s or self._timeout_s
        self._call(feedback_call(request_id, target_id=target_id, target=target, timeout_s=limit))

    def _call(self, call: Call) -> Reply:
        going = steps(call, clock=time.monotonic, chance=random.random, now=time.time)
        came: Reply | None = None
        try:
            while True:
                match going.send(came):
                    case Wait(seconds):
                        time.sleep(seconds)
                        came = None
                    case Send() as send:
                        came = self._send(call, send)
        except StopIteration as end:
            reply: Reply = end.value
        check(call, reply, time.time())
        return reply

    def _send(self, call: Call, send: Send) -> Reply:
        # httpx bounds each wait on the socket, not their sum: the deadline that the gateway is
        # told about ends the whole.
        try:
            response = self._http.post(
                call.path, content=call.body, headers=dict(send.headers), timeout=send.within_s
            )
        except httpx2.TimeoutException:
            return Reply(failure="timeout", late=True)
        except httpx2.TransportError as error:
            return Reply(failure=str(error) or type(error).__name__)
        return _reply(response)


class AsyncClient:
    """Calls a gateway under asyncio: `Client`, with `await`."""

    def __init__(
        self, url: str = HERE, *, api_key: str | None = None, timeout_s: float = DEADLINE_S
    ) -> None:
        self._timeout_s = timeout_s
        self._http = httpx2.AsyncClient(
            base_url=check_url(url), headers=_headers(api_key), follow_redirects=False, timeout=None
        )

    def __repr__(self) -> str:
        return f"<AsyncClient of {self._http.base_url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def predict(
        self,
        context: ArrayLike,
        *,
        top_k: int = KEPT_NEIGHBORS,
        key: str | None = None,
        exclude_context: bool = True,
        arm: str | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Predict: see `Client.predict`."""
        call = predict_call(
            context,
            top_k=top_k,
            key=key,
            exclude_context=exclude_context,
            arm=arm,
            timeout_s=timeout_s or self._timeout_s,
        )
        return read_prediction(await self._call(call))

    async def feedback(
        self,
        request_id: str,
        *,
        target_id: int | None = None,
        target: ArrayLike | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Tell the truth: see `Client.feedback`."""
        limit = timeout_s or self._timeout_s
        await self._call(
            feedback_call(request_id, target_id=target_id, target=target, timeout_s=limit)
        )

    async def _call(self, call: Call) -> Reply:
        going = steps(call, clock=time.monotonic, chance=random.random, now=time.time)
        came: Reply | None = None
        try:
            while True:
                match going.send(came):
                    case Wait(seconds):
                        await asyncio.sleep(seconds)
                        came = None
                    case Send() as send:
                        came = await self._send(call, send)
        except StopIteration as end:
            reply: Reply = end.value
        check(call, reply, time.time())
        return reply

    async def _send(self, call: Call, send: Send) -> Reply:
        try:
            async with asyncio.timeout(send.within_s):
                response = await self._http.post(
                    call.path, content=call.body, headers=dict(send.headers)
                )
        except TimeoutError:
            return Reply(failure="timeout", late=True)
        except httpx2.TransportError as error:
            return Reply(failure=str(error) or type(error).__name__)
        return _reply(response)


def _reply(response: httpx2.Response) -> Reply:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Reply(response.status_code, headers, response.content)
