"""The controller's settings: read from the environment, refused at birth."""

import re

import pytest
from pydantic import ValidationError

from rollout.reach import Tls
from rollout.settings import Settings
from rollout.snapshot import DEFAULT_TIERS
from router.settings import Settings as RouterSettings


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNOUT_REDIS_URL", "redis://localhost:1/0")
    monkeypatch.setenv("ROLLOUT_PORT", "9")
    monkeypatch.setenv("ROLLOUT_BACKENDS", '{"phase1": "http://127.0.0.1:8091"}')
    settings = Settings()
    assert (settings.port, settings.tiers) == (9, DEFAULT_TIERS)
    assert settings.backends == {"phase1": "http://127.0.0.1:8091"}


def test_every_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TURNOUT_REDIS_URL", raising=False)
    monkeypatch.setenv("TURNOUT_TIERS", '[{"arm": "a", "max_length": 1, "active": false}]')
    monkeypatch.setenv("ROLLOUT_PORT", "70000")
    with pytest.raises(ValidationError) as caught:
        Settings()
    found = {str(fault["loc"][0]) for fault in caught.value.errors()}
    assert found == {"TURNOUT_REDIS_URL", "TURNOUT_TIERS", "port"}


@pytest.mark.parametrize(
    ("url", "files", "told"),
    [
        ("redis://localhost:1/0", {"CA": "x"}, "TURNOUT_REDIS_CA_FILE would have no effect"),
        ("unix:///x", {"CERT": "x", "KEY": "x"}, "does not begin with rediss://"),
        ("rediss://localhost:1/0", {"CA": "absent"}, "CA_FILE: absent cannot be used: No such"),
        ("rediss://localhost:1/0", {"CA": __file__}, "_settings.py cannot be used: "),
        ("rediss://localhost:1/0", {"CERT": "absent"}, "CERT_FILE: absent cannot be used: No such"),
        ("rediss://localhost:1/0", {"KEY": "x"}, "set without TURNOUT_REDIS_CERT_FILE"),
    ],
)
def test_a_file_for_tls_that_cannot_be_used_is_refused_at_birth(
    monkeypatch: pytest.MonkeyPatch, url: str, files: dict[str, str], told: str
) -> None:
    monkeypatch.setenv("TURNOUT_REDIS_URL", url)
    for name, path in files.items():
        monkeypatch.setenv(f"TURNOUT_REDIS_{name}_FILE", path)
    for settings in (Settings, RouterSettings):
        with pytest.raises(ValidationError, match=re.escape(told)):
            settings()


def test_gateway_and_controller_name_the_store_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNOUT_REDIS_URL", "rediss://user:secret@localhost:1/0")
    for settings in (Settings(), RouterSettings()):
        assert (settings.redis_url, settings.redis_tls) == (
            "rediss://user:secret@localhost:1/0",
            Tls(),
        )
    monkeypatch.setenv("TURNOUT_REDIS_URL", "redis://localhost:1/0")
    assert (Settings().redis_tls, RouterSettings().redis_tls) == (None, None)


def test_every_setting_has_a_sentence() -> None:
    assert all(field.description for field in Settings.model_fields.values())
