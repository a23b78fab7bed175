"""The gate of a server: plain ASGI middleware that lets a request in, or says why not.

It stands before every route. A refusal is answered without reading the body: the server reads what
still comes and throws it away.
"""

from collections.abc import Callable
from typing import Final

import structlog
from prometheus_client import Counter
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from backends.protocol import write_error
from backends.serving.access import FORBIDDEN, Refusal, Right, authorize, is_plain
from backends.serving.direct import Call, Take, Work
from backends.serving.keyfile import KeyFile

BAD_REQUEST: Final = 400
ACTOR: Final = "actor"
"""In a request's state: the name of the key that it showed."""


class Gate:
    """Lets in by key. Without `keys`, everybody may do everything.

    `needed` lists the rights that a request needs, given its scope and headers. `refused` counts by
    status. `logger` names who speaks in the log.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: KeyFile | None,
        needed: Callable[[Scope, Headers], tuple[Right, ...]],
        refused: Counter,
        logger: str,
    ) -> None:
        self.app = app
        self._keys = keys
        self._needed = needed
        self._refused = refused
        self._log = structlog.stdlib.get_logger(logger)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI scope; other kinds than HTTP pass untouched."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self.app(scope, receive, send)
            return
        self._refused.labels(str(refusal.status)).inc()
        if refusal.status == FORBIDDEN:
            # Somebody known: worth a line each. Anybody may send a wrong key, as often as they
            # like: the metric counts those.
            self._log.warning("refused", reason=refusal.message)
        headers = {"www-authenticate": refusal.challenge} if refusal.challenge else {}
        response = Response(
            write_error(refusal.message), refusal.status, headers, "application/json"
        )
        await response(scope, receive, send)

    def direct(self, path: str, take: Take) -> Take:
        """Let what the gate would refuse take the long way, where it is."""
        if self._keys is None:
            return take

        def let_in(call: Call) -> Work | None:
            scope = {"type": "http", "path": path, "headers": call.headers}
            return take(call) if self._refusal(scope) is None else None

        return let_in

    def _refusal(self, scope: Scope) -> Refusal | None:
        if not is_plain(scope["path"]):
            return Refusal(BAD_REQUEST, "the path holds a control character", "")
        if self._keys is None:
            return None
        headers = Headers(scope=scope)
        for right in self._needed(scope, headers):
            ruling = authorize(self._keys.keys, headers.get("authorization"), right)
            if isinstance(ruling, Refusal):
                return ruling
            scope.setdefault("state", {})[ACTOR] = ruling.name
        return None
