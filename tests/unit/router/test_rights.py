import pytest

from backends.serving.access import Right, is_plain
from router.access import rights_for


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2/health/live", ()),
        ("/v2/health/ready", ()),
        ("/docs", ()),
        ("/docs/viewer.js", ()),
        ("/openapi.json", ()),
        ("/metrics", (Right.PREDICT,)),
        ("/v1/predict", (Right.PREDICT,)),
        ("/v2/models/lvm/infer", (Right.PREDICT,)),
        ("/v1/feedback", (Right.FEEDBACK,)),
        ("/no/such/path", (Right.PREDICT,)),
        ("/v2/health/live/", (Right.PREDICT,)),
        ("//v2/health/live", (Right.PREDICT,)),
        ("", (Right.PREDICT,)),
    ],
)
def test_what_is_not_listed_as_open_needs_a_right(path: str, expected: tuple[Right, ...]) -> None:
    assert rights_for(path, override=False, open_metrics=False) == expected


def test_metrics_are_open_where_a_setting_says_so() -> None:
    assert rights_for("/metrics", override=False, open_metrics=True) == ()


def test_an_override_needs_its_right_beside_the_other() -> None:
    needed = rights_for("/v1/predict", override=True, open_metrics=False)
    assert needed == (Right.PREDICT, Right.OVERRIDE)


@pytest.mark.parametrize("path", ["/v1/feedback\n", "/v1/feedback\r", "/a\x00", "/a\x1b[2J"])
def test_a_control_character_makes_a_path_unfit(path: str) -> None:
    assert not is_plain(path)
    assert is_plain("/v1/feedback")
