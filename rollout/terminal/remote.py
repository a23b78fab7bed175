"""The controller from outside: one call of its HTTP interface, and what became of it.

A call that does not succeed raises `CallError`, whose `code` is what the command line exits with,
and whose `document` is what `--json` prints: always an object with `error` and `errors`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import httpx2
from pydantic import TypeAdapter, ValidationError

from rollout.forecast import Forecast
from rollout.terminal.options import Asking
from rollout.verdict import Verdict

REFUSED: Final = 1
USAGE: Final = 2
UNKNOWN: Final = 3
TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 6.0
"""Of what takes traffic off: just longer than a controller itself waits for its store (5 s).

Whoever is in a hurry must learn soon that another way is needed."""
_UNAUTHORIZED: Final = 401
_SERVER_ERROR: Final = 500
_UNPROCESSABLE: Final = 422
_OK: Final = 300
_T = TypeVar("_T")


class CallError(Exception):
    """A call that did not succeed. `told` is what the controller answered, if it did."""

    def __init__(
        self,
        code: int,
        message: str,
        told: Mapping[str, Any] | None = None,
        faults: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.faults = faults
        """What stands before the message where a person reads: a line for each fault of a plan."""
        self.document: dict[str, Any] = {"errors": [], **(told or {}), "error": message}
        """What a program reads: `error`, `errors`, and what else the controller said."""

    @property
    def verdict(self) -> Verdict | None:
        """What the gate said, if it was the gate that refused."""
        told = self.document.get("verdict")
        return Verdict.model_validate(told) if told else None

    @property
    def forecast(self) -> Forecast | None:
        """How long the stages would take, where a start was refused for now."""
        told = self.document.get("forecast")
        return Forecast.model_validate(told) if told else None


def get(asking: Asking, path: str, params: dict[str, str] | None = None) -> httpx2.Response:
    """Ask a question. Raises CallError."""
    return _call(asking, "GET", path, params=params)


def post(
    asking: Asking, path: str, body: dict[str, Any], timeout_s: float = TIMEOUT_S
) -> httpx2.Response:
    """Send a command. Raises CallError."""
    return _call(asking, "POST", path, body=body, timeout_s=timeout_s)


def read(answer: httpx2.Response, kind: type[_T]) -> _T:
    """Read an answer. Raises CallError when it is none of this version's."""
    try:
        return TypeAdapter(kind).validate_json(answer.content)
    except ValidationError as error:
        raise CallError(
            UNKNOWN,
            f"the controller's answer cannot be read (is it of another version?): {error}; "
            "--json prints it as it is",
        ) from None


def _call(
    asking: Asking,
    method: str,
    path: str,
    *,
    body: dict[str, Any] | None = None,
    params: dict[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
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
            timeout=timeout_s,
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
            {"outcome": "unknown"} if body else None,
        ) from None
    if answer.status_code >= _OK:
        raise _refusal(answer, asking.token)
    return answer


def _refusal(answer: httpx2.Response, token: str | None) -> CallError:
    code = REFUSED
    if answer.status_code >= _SERVER_ERROR:
        code = UNKNOWN
    elif answer.status_code == _UNPROCESSABLE:
        code = USAGE
    try:
        told = json.loads(answer.content)
        message = str(told["error"])
    except (ValueError, KeyError, TypeError):
        return CallError(code, f"the controller answered {answer.status_code}: {answer.text[:200]}")
    if answer.status_code == _UNAUTHORIZED:
        given = "the API key that came with" if token else "an API key is needed: give yours with"
        unknown = " is not known to this controller" if token else ""
        message = f"{given} --token or TURNOUT_CONTROLLER_TOKEN{unknown}"
    return CallError(code, message, told)
