"""The controller from outside: one call of its HTTP interface, and what became of it.

A call that does not succeed raises `CallError`, whose `code` is what the command line exits with.
"""

import json
from typing import Any, Final, TypeVar

import httpx2
from pydantic import TypeAdapter, ValidationError

from rollout.options import Asking
from rollout.verdict import Verdict

REFUSED: Final = 1
USAGE: Final = 2
UNKNOWN: Final = 3
TIMEOUT_S: Final = 30.0
_SERVER_ERROR: Final = 500
_UNPROCESSABLE: Final = 422
_OK: Final = 300
_T = TypeVar("_T")


class CallError(Exception):
    """A call that did not succeed. `text` is the controller's answer as it came, if one came."""

    def __init__(
        self, code: int, message: str, *, text: str | None = None, verdict: Verdict | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.text = text
        self.verdict = verdict


def get(asking: Asking, path: str, params: dict[str, str] | None = None) -> httpx2.Response:
    """Ask a question. Raises CallError."""
    return _call(asking, "GET", path, params=params)


def post(asking: Asking, path: str, body: dict[str, Any]) -> httpx2.Response:
    """Send a command. Raises CallError."""
    return _call(asking, "POST", path, body=body)


def read(answer: httpx2.Response, kind: type[_T]) -> _T:
    """Read an answer. Raises CallError when it is none of this version's."""
    try:
        return TypeAdapter(kind).validate_json(answer.content)
    except ValidationError as error:
        raise CallError(
            UNKNOWN,
            f"the controller's answer cannot be read (is it of another version?): {error}; "
            "--json prints it as it is",
            text=answer.text,
        ) from None


def _call(
    asking: Asking,
    method: str,
    path: str,
    *,
    body: dict[str, Any] | None = None,
    params: dict[str, str] | None = None,
) -> httpx2.Response:
    url = asking.url
    headers = {"authorization": f"Bearer {asking.token}"} if asking.token else {}
    try:
        answer = httpx2.request(
            method,
            f"{url.rstrip('/')}{path}",
            json=body,
            params=params,
            headers=headers,
            timeout=TIMEOUT_S,
        )
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        raise CallError(USAGE, f"the controller's URL {url!r} is none: {error}") from None
    except UnicodeEncodeError:
        raise CallError(USAGE, "the token is none: an API key has ASCII characters alone") from None
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        raise CallError(
            UNKNOWN,
            f"no controller at {url} ({error}): nothing was changed; "
            "`turnout up` starts one, --url or TURNOUT_CONTROLLER_URL names another",
        ) from None
    except httpx2.HTTPError as error:
        again = (
            f" or send it again with --idempotency-key {body['idempotency_key']}" if body else ""
        )
        raise CallError(
            UNKNOWN,
            f"the controller at {url} gave no answer ({type(error).__name__}): the outcome is "
            f"unknown; look at `turnout rollout status`{again}",
        ) from None
    if answer.status_code >= _OK:
        raise _refusal(answer)
    return answer


def _refusal(answer: httpx2.Response) -> CallError:
    code = REFUSED
    if answer.status_code >= _SERVER_ERROR:
        code = UNKNOWN
    elif answer.status_code == _UNPROCESSABLE:
        code = USAGE
    try:
        told = json.loads(answer.content)
        message = str(told["error"])
        verdict = Verdict.model_validate(told["verdict"]) if told.get("verdict") else None
    except (ValueError, KeyError, TypeError, AttributeError):
        message = f"the controller answered {answer.status_code}: {answer.text[:200]}"
        verdict = None
    return CallError(code, message, text=answer.text, verdict=verdict)
