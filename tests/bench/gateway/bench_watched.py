"""Our gateway, unchanged, with a watch on its event loop: what it reports at `/bench/stall`.

A task of the watch wakes every millisecond; how much later than that it wakes is how long the loop
stood still. `/bench/stall` answers with the longest such time since it was last asked, in seconds.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import router.__main__ as gateway
from backends.serving import process

TICK_S: Final = 0.001

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Watched:
    """An ASGI application around another."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self._app = app
        self._longest = 0.0
        self._watch: asyncio.Task[None] | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer `/bench/stall`; hand everything else on."""
        if scope["type"] == "lifespan":
            self._watch = asyncio.create_task(self._tick())
        if scope["type"] == "http" and scope["path"] == "/bench/stall":
            body = json.dumps(self._longest).encode()
            self._longest = 0.0
            headers = [(b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await self._app(scope, receive, send)

    async def _tick(self) -> None:
        while True:
            before = time.perf_counter()  # the loop's own clock stands still with it
            await asyncio.sleep(TICK_S)
            self._longest = max(self._longest, time.perf_counter() - before - TICK_S)


def main() -> None:
    """Run the gateway as `python -m router` does."""
    serve = process.serve

    def serve_watched(app: Any, *places: Any, **more: Any) -> None:
        serve(Watched(app), *places, **more)

    process.serve = serve_watched
    gateway.main()


if __name__ == "__main__":
    main()
