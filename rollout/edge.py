"""What stands around the API's routes: who is let in, what is too long, how an error is written."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from backends.serving.access import Right
from rollout.errors import OutcomeUnknown, RolloutError
from rollout.orders import FrozenStart, Refused
from rollout.planfile import PlanError
from rollout.roles import right_for

MAX_BODY: Final = 1024 * 1024


def needed(scope: Scope, *, open_metrics: bool) -> tuple[Right, ...]:
    """List the rights that a request needs: one, or none for what is open."""
    right = right_for(scope["method"], scope["path"], open_metrics=open_metrics)
    return () if right is None else (right,)


class RefuseLong:
    """Plain ASGI: a body announced as too long is refused in JSON, before it is read.

    Without this the framework answers it in plain text. Bodies that announce nothing are left to
    the framework, which stops to read at the limit and raises.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI scope; other kinds than HTTP pass untouched."""
        announced = (
            Headers(scope=scope).get("content-length", "") if scope["type"] == "http" else ""
        )
        if announced.isdecimal() and int(announced) > MAX_BODY:
            message = f"the body has {announced} bytes: this server reads at most {MAX_BODY}"
            await JSONResponse({"error": message}, 413)(scope, receive, send)
            return
        await self.app(scope, receive, send)


# --- errors --------------------------------------------------------------------------------------


async def rollout_error(_: Request, error: Exception) -> Response:
    """Write one of our errors."""
    assert isinstance(error, RolloutError)  # noqa: S101 - registered for this type alone
    body: dict[str, Any] = {"error": str(error)}
    if isinstance(error, PlanError):
        body["errors"] = [fault._asdict() for fault in error.errors]
    if isinstance(error, Refused):
        body["verdict"] = error.verdict.model_dump(mode="json")
    if isinstance(error, FrozenStart):
        body["forecast"] = error.forecast.model_dump(mode="json")
    if isinstance(error, OutcomeUnknown):
        body["outcome"] = "unknown"
    return JSONResponse(body, error.status)


async def malformed(_: Request, error: Exception) -> Response:
    """Write every fault of a malformed request."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type alone
    faults = [_fault(detail) for detail in error.errors()]
    told = "; ".join(f"{fault['path']}: {fault['message']}" for fault in faults)
    return JSONResponse({"error": f"the request is malformed: {told}", "errors": faults}, 422)


async def http_error(_: Request, error: Exception) -> Response:
    """Write an error of the framework."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type alone
    return JSONResponse({"error": str(error.detail)}, error.status_code, headers=error.headers)


def _fault(detail: Mapping[str, Any]) -> dict[str, str]:
    path = ".".join(map(str, detail["loc"][1:]))
    if detail["type"] == "json_invalid":
        reason = f"is no JSON: {detail['ctx']['error']} at character {path}"
        return {"path": "body", "message": reason}
    if not path:
        reason = "must be a JSON object, sent with content-type: application/json"
        return {"path": "body", "message": reason}
    return {"path": path, "message": str(detail["msg"])}
