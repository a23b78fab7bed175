"""The gateway's gate: plain ASGI middleware that lets a request in, or says why not.

It stands before every route. A refusal is answered without reading the body: the server reads what
still comes and throws it away.
"""

from typing import Final

import structlog
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from backends.access import FORBIDDEN, Refusal, authorize, is_plain
from backends.keyfile import KeyFile
from backends.protocol import write_error
from router.access import ARM_HEADER, rights_for
from router.metrics import Metrics

BAD_REQUEST: Final = 400

log = structlog.stdlib.get_logger("router.access")


class Gate:
    """Without `keys`, everybody may do everything."""

    def __init__(
        self, app: ASGIApp, *, keys: KeyFile | None, open_metrics: bool, metrics: Metrics
    ) -> None:
        self.app = app
        self._keys = keys
        self._open_metrics = open_metrics
        self._refused = metrics.access_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI scope; other kinds than HTTP pass untouched."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self.app(scope, receive, send)
            return
        self._refused.labels(str(refusal.status)).inc()
        headers = {"www-authenticate": refusal.challenge} if refusal.challenge else {}
        response = Response(
            write_error(refusal.message), refusal.status, headers, "application/json"
        )
        await response(scope, receive, send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        path: str = scope["path"]
        if not is_plain(path):
            return Refusal(BAD_REQUEST, "the path holds a control character", "")
        if self._keys is None:
            return None
        headers = Headers(scope=scope)
        needed = rights_for(path, override=ARM_HEADER in headers, open_metrics=self._open_metrics)
        for right in needed:
            ruling = authorize(self._keys.keys, headers.get("authorization"), right)
            if isinstance(ruling, Refusal):
                _tell(ruling)
                return ruling
        return None


def _tell(refusal: Refusal) -> None:
    # A wrong right is somebody known: worth a line each. Anybody may send a wrong key, as often as
    # they like: the metric counts those.
    if refusal.status == FORBIDDEN:
        log.warning("refused", reason=refusal.message)
