"""The controller's settings: read from the environment, refused at birth."""

import pytest
from pydantic import ValidationError

from rollout.settings import Settings
from rollout.snapshot import DEFAULT_TIERS


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


def test_every_setting_has_a_sentence() -> None:
    assert all(field.description for field in Settings.model_fields.values())
