"""What would keep a part from starting is found before the first one starts."""

import asyncio
import os
import socket
from pathlib import Path

import httpx2
import pytest

from deploy.children import Spec
from deploy.local import Layout, LocalError, running, waves
from deploy.preflight import check_settings

EVERYWHERE = "0.0.0.0"  # noqa: S104 - what must be refused without keys


def specs(layout: Layout) -> list[Spec]:
    with httpx2.Client() as unused:
        return [spec for wave in waves(layout, unused) for spec in wave]  # type: ignore[arg-type] # nothing is asked here


def faults(layout: Layout) -> str:
    with pytest.raises(LocalError) as caught:
        check_settings(specs(layout))
    return str(caught.value)


def test_both_servers_keys_are_asked_for_at_once_where_other_machines_reach_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(state_dir=tmp_path, host=EVERYWHERE)
    said = faults(layout)
    assert "gateway: 0.0.0.0 can be reached" in said
    assert "set ROUTER_KEYS_FILE, or ROUTER_OPEN=true" in said
    assert "controller: 0.0.0.0 can be reached" in said
    assert "set ROLLOUT_KEYS_FILE, or ROLLOUT_OPEN=true" in said
    assert "phase1" not in said
    (tmp_path / "good").write_text("")
    (tmp_path / "bad").write_text("three words too many\n")
    monkeypatch.setenv("ROUTER_KEYS_FILE", str(tmp_path / "bad"))
    monkeypatch.setenv("ROLLOUT_KEYS_FILE", str(tmp_path / "none"))
    said = faults(layout)
    assert f"gateway: {tmp_path / 'bad'}: line 1: 4 words" in said
    assert f"controller: {tmp_path / 'none'} cannot be read: No such file or directory" in said
    for name in ("ROUTER", "ROLLOUT"):
        monkeypatch.setenv(f"{name}_KEYS_FILE", str(tmp_path / "good"))
    check_settings(specs(layout))


def test_model_servers_stay_on_loopback_whatever_the_host_is(tmp_path: Path) -> None:
    layout = Layout(state_dir=tmp_path, host=EVERYWHERE)
    environments = {spec.name: spec.environment for spec in specs(layout)}
    for arm in ("phase1", "phase2"):
        assert environments[arm]["BACKEND_HOST"] == "127.0.0.1"
        assert layout.backend_urls[arm].startswith("http://127.0.0.1:")
    assert environments["gateway"]["ROUTER_HOST"] == EVERYWHERE
    assert EVERYWHERE not in environments["gateway"]["ROUTER_BACKENDS"]


def test_a_misspelt_name_of_any_part_is_told_by_the_part_and_leaves_the_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKEND_THREAD", "2")
    before = dict(os.environ)
    said = faults(Layout(state_dir=tmp_path))
    assert "phase1, phase2: BACKEND_THREAD: no setting has this name: did you mean" in said
    assert "BACKEND_THREADS?" in said
    assert dict(os.environ) == before


def test_nothing_is_started_when_a_setting_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUTER_TYPO", "x")
    started: list[object] = []

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            free = probe.getsockname()[1]
        layout = Layout(tmp_path, gateway_port=0, controller_port=0, backend_ports=(0, free))
        async with running(layout, started.append):
            pass

    with pytest.raises(LocalError, match="ROUTER_TYPO"):
        asyncio.run(run())
    assert started == []
    assert not (tmp_path / "logs").exists()
