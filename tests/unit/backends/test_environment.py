"""Settings out of the environment: every fault, by the name that it was given under."""

import pytest

from backends.serving.environment import Fault, SettingsFaultError, misspelt, read_settings
from backends.settings import Settings as BackendSettings
from rollout.settings import Settings as RolloutSettings
from router.settings import Settings as RouterSettings


def faults(
    settings: type[BackendSettings] | type[RolloutSettings] | type[RouterSettings],
) -> list[Fault]:
    with pytest.raises(SettingsFaultError) as caught:
        read_settings(settings)
    return list(caught.value.faults)


@pytest.mark.parametrize(
    ("settings", "name", "nearest"),
    [
        (RouterSettings, "ROUTER_KEY_FILE", "ROUTER_KEYS_FILE"),
        (RouterSettings, "ROUTER_MAX_BODY", "ROUTER_MAX_BODY_MB"),
        (RouterSettings, "router_key_file", "ROUTER_KEYS_FILE"),
        (BackendSettings, "BACKEND_CHECKPIONT", "BACKEND_CHECKPOINT"),
        (RolloutSettings, "ROLLOUT_KEY_FILE", "ROLLOUT_KEYS_FILE"),
        (RolloutSettings, "ROLLOUT_REDIS_URL", "TURNOUT_REDIS_URL"),
    ],
)
def test_a_misspelt_name_is_refused_and_the_nearest_is_named(
    settings: type[RouterSettings], name: str, nearest: str
) -> None:
    (fault,) = misspelt(settings, {name: "x"})
    assert fault.setting == name
    assert f"did you mean {nearest}?" in fault.reason


def test_a_name_that_resembles_none_is_refused_without_a_guess() -> None:
    (fault,) = misspelt(RouterSettings, {"ROUTER_ZZZZZZZZZZZZZZ": "x"})
    assert "did you mean" not in fault.reason


def test_names_of_other_parts_and_of_kubernetes_are_left_alone() -> None:
    others = {
        "ROUTER_SERVICE_HOST": "10.0.0.1",
        "ROUTER_SERVICE_PORT_HTTP": "8080",
        "ROUTER_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "ROUTER_PORT_8080_TCP_PROTO": "tcp",
        "ROUTER_CANARY_PORT": "tcp://10.0.0.2:8080",
        "BACKEND_TYPO": "x",
        "TURNOUT_API_KEY": "x",
        "ROUTERS": "x",
    }
    assert list(misspelt(RouterSettings, others)) == []
    assert list(misspelt(RouterSettings, {"router_port": "1", "ROUTER_TIERS": "[]"})) == []


def test_what_is_no_json_is_a_fault_with_the_settings_name_and_what_it_is_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ROUTER_BACKENDS", "notjson")
    monkeypatch.setenv("TURNOUT_TIERS", "x")
    monkeypatch.setenv("ROUTER_KEY_FILE", "keys.txt")
    found = {fault.setting: fault.reason for fault in faults(RouterSettings)}
    assert set(found) == {"ROUTER_BACKENDS", "TURNOUT_TIERS", "ROUTER_KEY_FILE"}
    assert found["ROUTER_BACKENDS"].startswith("it must be JSON: Expecting value: line 1 column 1")
    assert "for each arm the address" in found["ROUTER_BACKENDS"]


def test_every_fault_bears_its_variables_whole_name_and_only_its_own_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "ROUTER_PORT": "x",
        "TURNOUT_TIERS": '[{"arm": "a"}]',
        "ROUTER_BACKENDS": '{"phase1": "ftp://a", "phase2": "http://b"}',
    }.items():
        monkeypatch.setenv(name, value)
    found = {fault.setting: fault.reason for fault in faults(RouterSettings)}
    assert found["ROUTER_PORT"].startswith("Input should be a valid integer")
    assert found["TURNOUT_TIERS"] == "0.max_length: Field required"
    assert found["ROUTER_BACKENDS"].startswith("phase1.0: 'ftp://a' is no http://")


def test_a_fault_of_several_settings_together_bears_the_first_that_it_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ROUTER_HOST", "0.0.0.0")  # noqa: S104 - what must be refused
    (fault,) = faults(RouterSettings)
    assert fault.setting == "ROUTER_KEYS_FILE"
    assert fault.reason.startswith("0.0.0.0 can be reached")
    assert str(fault) == fault.reason


def test_what_is_required_is_named_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKEND_ARM", "phase1")
    names = [fault.setting for fault in faults(BackendSettings)]
    assert names == ["BACKEND_PORT", "BACKEND_MAX_LENGTH", "BACKEND_BANK"]


def test_good_settings_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_PORT", "8099")
    assert read_settings(RouterSettings).port == 8099
