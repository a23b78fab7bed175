"""Which role each route of the controller needs."""

import pytest

from backends.serving.access import Right
from rollout.roles import RIGHTS, right_for


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/rollouts/current", Right.VIEWER),
        ("HEAD", "/v1/rollouts", Right.VIEWER),
        ("POST", "/v1/rollouts", Right.OPERATOR),
        ("POST", "/v1/rollouts/r1/abort", Right.STOPPER),
        ("POST", "/v1/rollouts/current/promote", Right.APPROVER),
        ("POST", "/v1/rollouts/r1/approve", Right.APPROVER),
        ("GET", "/health/ready", None),
        ("GET", "/docs", None),
        ("GET", "/docs/swagger/swagger-ui.css", None),
        ("GET", "/metrics", Right.VIEWER),
        ("GET", "/no/such/path", Right.VIEWER),
        ("DELETE", "/health/live", Right.VIEWER),
        ("POST", "/docs/x", Right.VIEWER),
        ("GET", "", Right.VIEWER),
    ],
)
def test_what_is_not_listed_as_open_needs_a_role(
    method: str, path: str, expected: Right | None
) -> None:
    assert right_for(method, path, open_metrics=False) == expected


def test_metrics_are_open_where_a_setting_says_so() -> None:
    assert right_for("GET", "/metrics", open_metrics=True) is None


def test_whatever_changes_something_needs_more_than_a_viewer() -> None:
    for (method, path), right in RIGHTS.items():
        assert (method == "POST") == (right in (Right.STOPPER, Right.OPERATOR, Right.APPROVER)), (
            path
        )
