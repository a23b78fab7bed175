"""The shortest way from a request to its handler, for the two endpoints that nearly all ask for.

FastAPI's application costs a tenth of a millisecond before a handler runs: its middleware, and the
search for a route. So what is posted to exactly one of `paths` goes to its route's own ASGI
application at once; everything else takes FastAPI's way, where the same routes stand too (with
versioned paths, wrong methods, and for the document).

What a handler raises is answered here as FastAPI's exception handlers answer it: by `refuse`.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from backends.serving.rawroute import RawRoute

POST: Final = "POST"
Refuse = Callable[[Request, Exception], Awaitable[Response]]


class HotPath:
    """Plain ASGI: `routes` by exact path, before `app`. `errors` are what `refuse` answers."""

    def __init__(
        self,
        app: ASGIApp,
        routes: Mapping[str, tuple[RawRoute, Mapping[str, str]]],
        *,
        errors: tuple[type[Exception], ...],
        refuse: Refuse,
    ) -> None:
        self.app = app
        self._routes = routes
        self._errors = errors
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI scope."""
        found = self._routes.get(scope["path"]) if scope["type"] == "http" else None
        if found is None or scope["method"] != POST:
            await self.app(scope, receive, send)
            return
        scope["route"], scope["path_params"] = found
        try:
            await found[0].app(scope, receive, send)
        except self._errors as error:
            response = await self._refuse(Request(scope, receive), error)
            await response(scope, receive, send)
