"""What the gateway must be told."""

from pathlib import Path

import orjson
import pytest
from pydantic import ValidationError

from router.address import read_address
from router.settings import Settings


def test_the_defaults_are_the_two_arms_of_the_design() -> None:
    settings = Settings()
    assert set(settings.backends) == {"phase1", "phase2"}
    assert str(settings.start.position) == "0.0"
    assert [tier.active for tier in settings.start.tiers] == [True, False]
    assert settings.start.rollout is None


def test_settings_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ROUTER_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("ROUTER_BACKENDS", '{"small": "http://127.0.0.1:1/"}')
    monkeypatch.setenv("TURNOUT_REDIS_URL", "unix:///tmp/x")
    monkeypatch.setenv("TURNOUT_TIERS", '[{"arm": "small", "max_length": 7}]')
    settings = Settings()
    assert settings.backends == {"small": ("http://127.0.0.1:1",)}
    assert (settings.tiers[0].max_length, settings.redis_url) == (7, "unix:///tmp/x")
    assert settings.state_dir == tmp_path


def test_an_arm_may_have_several_replicas_on_tcp_tls_and_unix_sockets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many = ["http://a:1", "https://b", "unix:/run/c", "http+unix://%2Frun%2Fd"]
    monkeypatch.setenv("ROUTER_BACKENDS", orjson.dumps({"small": many}).decode())
    monkeypatch.setenv("TURNOUT_TIERS", '[{"arm": "small", "max_length": 7}]')
    assert Settings().backends == {"small": tuple(many)}
    sockets = [read_address(one).socket for one in many]
    assert sockets == [None, None, "/run/c", "/run/d"]


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("ROUTER_BACKENDS", '{"phase1": "file:///etc/passwd"}', "no http:// or https:// URL"),
        ("ROUTER_BACKENDS", '{"phase1": "http://a"}', "no URL for phase2"),
        ("ROUTER_BACKENDS", '{"phase1": []}', "at least 1 item"),
        (
            "ROUTER_BACKENDS",
            '{"phase1": ["http://a", "http://a/"], "phase2": "http://b"}',
            "a replica of phase1 twice",
        ),
        ("ROUTER_BACKENDS", '{"phase1": "unix:relative"}', "write unix:/path/to/socket"),
        ("ROUTER_BACKENDS", '{"phase1": "http://me:secret@a"}', "no user, query or fragment"),
        ("ROUTER_TOO_LONG", "maybe", "'truncate' or 'reject'"),
        ("ROUTER_POLL_S", "0", "greater than 0"),
        ("ROUTER_HOST", "0.0.0.0", "0.0.0.0 can be reached from other machines, and no API keys"),  # noqa: S104 - what must be refused
        ("ROUTER_HOST", "gateway.internal", "set ROUTER_KEYS_FILE, or ROUTER_OPEN=true if"),
        (
            "TURNOUT_TIERS",
            '[{"arm": "phase1", "max_length": 7, "active": false}]',
            "no tier is active",
        ),
    ],
)
def test_a_wrong_setting_is_refused_at_birth(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, complaint: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=complaint):
        Settings()


def test_a_file_of_authorities_must_be_one_and_have_an_effect(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ROUTER_CA_FILE", str(tmp_path / "none"))
    with pytest.raises(ValidationError, match="would have no effect"):
        Settings()
    monkeypatch.setenv("ROUTER_BACKENDS", '{"phase1": "https://a", "phase2": "http://b"}')
    with pytest.raises(ValidationError, match="none cannot be used: No such file or directory"):
        Settings()
    (tmp_path / "none").write_text("no certificate")
    with pytest.raises(ValidationError, match="none cannot be used"):
        Settings()


def test_every_setting_has_its_sentence() -> None:
    for name, field in Settings.model_fields.items():
        assert (field.description or "").endswith("."), name
