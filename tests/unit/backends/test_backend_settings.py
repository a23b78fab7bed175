from pathlib import Path

import pytest
from pydantic import ValidationError

from backends.settings import Settings

LEAST = {"ARM": "phase1", "PORT": "8091", "MAX_LENGTH": "100", "BANK": "/data/bank.npz"}


def from_env(monkeypatch: pytest.MonkeyPatch, **changes: str) -> Settings:
    for name, value in {**LEAST, **changes}.items():
        monkeypatch.setenv(f"BACKEND_{name}", value)
    return Settings()


def test_four_settings_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = from_env(monkeypatch)
    assert settings.bank == Path("/data/bank.npz")
    assert (settings.host, settings.threads, settings.queue_limit) == ("127.0.0.1", 1, 64)
    assert (settings.max_context, settings.max_body_mb, settings.checkpoint) == (2000, 64, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "x"), ("PORT", "70000"), ("MAX_LENGTH", "0"), ("ARM", "Phase 1"), ("THREADS", "0")],
)
def test_a_wrong_setting_is_refused_at_birth(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with pytest.raises(ValidationError) as error:
        from_env(monkeypatch, **{name: value})
    assert error.value.errors()[0]["loc"] == (name.lower(),)


def test_an_address_that_others_reach_is_refused_unless_it_is_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    everywhere = "0.0.0.0"  # noqa: S104 - what must be refused
    with pytest.raises(ValidationError, match="Set BACKEND_OPEN=true"):
        from_env(monkeypatch, HOST=everywhere)
    assert from_env(monkeypatch, HOST=everywhere, OPEN="true").open
    monkeypatch.delenv("BACKEND_OPEN")
    assert from_env(monkeypatch, HOST="::1").host == "::1"
    assert from_env(monkeypatch, HOST="unix:/run/arm.sock").host == "unix:/run/arm.sock"


@pytest.mark.parametrize(
    ("host", "words"),
    [("unix:arm.sock", "write unix:/path/to/socket"), (f"unix:/{'a' * 107}", "107 bytes at most")],
)
def test_a_unix_socket_that_cannot_be_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, host: str, words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        from_env(monkeypatch, HOST=host)


def test_every_setting_has_a_sentence() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
