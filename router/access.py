"""Which right a request to the gateway needs. Pure.

Open to everybody: whether the gateway lives and is ready (for load balancers, which have no keys),
and the documentation. `/metrics` is open where a setting says so. All else needs a key: sending
feedback the right `feedback`, anything else `predict`, unknown paths included, so that a path which
is forgotten here is closed. Naming the arm that must answer needs `override` besides.
"""

from typing import Final

from backends.serving.access import Right

ARM_HEADER: Final = "x-turnout-arm"
"""On a request: the arm that must answer."""
METRICS: Final = "/metrics"
OPEN: Final = frozenset({"/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"})
DOCS: Final = "/docs/"
"""The viewer's own files lie under it."""
_RIGHTS: Final = {"/v1/feedback": Right.FEEDBACK}


def rights_for(path: str, *, override: bool, open_metrics: bool) -> tuple[Right, ...]:
    """List the rights that a request needs, by its decoded path; none for what is open.

    `override`: the request names the arm that must answer.
    """
    if path in OPEN or path.startswith(DOCS) or (open_metrics and path == METRICS):
        return ()
    needed = _RIGHTS.get(path, Right.PREDICT)
    return (needed, Right.OVERRIDE) if override else (needed,)
