"""Which role a request to the controller needs. Pure.

A viewer looks; a stopper pauses and aborts; an operator moves a rollout along the way that its plan
and its gates leave open; an approver agrees to what a gate does not decide. All of them may look,
and operators and approvers may stop what they started or let on. Beside that neither may do what
the other does: whoever is to do both has both rights.

The table has every route. A path that it lacks needs a viewer's key, so that what is forgotten here
is closed. Open to everybody are the health (load balancers have no keys) and the documentation;
`/metrics` is where a setting says so.
"""

import re
from collections.abc import Mapping
from typing import Final

from backends.serving.access import Right

METRICS: Final = "/metrics"
DOCS: Final = "/docs/"
"""The viewer's own files lie under it."""
RIGHTS: Final[Mapping[tuple[str, str], Right | None]] = {
    ("GET", "/v1/rollouts"): Right.VIEWER,
    ("GET", "/v1/rollouts/current"): Right.VIEWER,
    ("GET", "/v1/rollouts/{rollout}"): Right.VIEWER,
    ("GET", "/v1/rollouts/{rollout}/explain"): Right.VIEWER,
    ("GET", "/v1/rollouts/{rollout}/report"): Right.VIEWER,
    ("GET", "/v1/audit"): Right.VIEWER,
    ("GET", "/v1/schema"): Right.VIEWER,
    ("POST", "/v1/rollouts"): Right.OPERATOR,
    ("POST", "/v1/rollouts/{rollout}/advance"): Right.OPERATOR,
    ("POST", "/v1/rollouts/{rollout}/pause"): Right.STOPPER,
    ("POST", "/v1/rollouts/{rollout}/resume"): Right.OPERATOR,
    ("POST", "/v1/rollouts/{rollout}/abort"): Right.STOPPER,
    ("POST", "/v1/rollouts/{rollout}/retry"): Right.OPERATOR,
    ("POST", "/v1/rollouts/{rollout}/undo"): Right.OPERATOR,
    ("POST", "/v1/rollouts/{rollout}/promote"): Right.APPROVER,
    ("POST", "/v1/rollouts/{rollout}/approve"): Right.APPROVER,
    ("GET", METRICS): Right.VIEWER,
    ("GET", "/health/live"): None,
    ("GET", "/health/ready"): None,
    ("GET", "/docs"): None,
    ("GET", "/openapi.json"): None,
}
_PATTERNS: Final = tuple(
    (method, re.compile(re.sub(r"\{[a-z]+\}", "[^/]+", path)), right)
    for (method, path), right in RIGHTS.items()
)


def right_for(method: str, path: str, *, open_metrics: bool) -> Right | None:
    """Name the right that a request needs, by its decoded path; None for what is open."""
    if method == "HEAD":
        method = "GET"
    if method == "GET" and (path.startswith(DOCS) or (open_metrics and path == METRICS)):
        return None
    for known, pattern, right in _PATTERNS:
        if known == method and pattern.fullmatch(path):
            return right
    return Right.VIEWER
