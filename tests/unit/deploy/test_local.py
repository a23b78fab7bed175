"""Where everything lies, and what is refused before anything starts."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from deploy.local import Layout, LocalError, check_ports, locked, tiers_from, waves
from rollout.snapshot import DEFAULT_TIERS, Tier


def test_each_tier_has_a_backend_of_its_own_address(tmp_path: Path) -> None:
    tiers = (*DEFAULT_TIERS, Tier(arm="phase3", max_length=1000, active=False))
    layout = Layout(state_dir=tmp_path, tiers=tiers, backend_ports=(1, 2, 3))
    assert layout.backend_urls == {
        "phase1": "http://127.0.0.1:1",
        "phase2": "http://127.0.0.1:2",
        "phase3": "http://127.0.0.1:3",
    }
    assert layout.listeners["phase3"] == ("127.0.0.1", 3)


def test_a_long_state_directory_gets_its_socket_in_a_short_place(tmp_path: Path) -> None:
    short = Layout(state_dir=Path("/s"))
    assert short.valkey_socket == Path("/s/valkey/valkey.sock")
    long = Layout(state_dir=tmp_path / ("d" * 120))
    assert len(os.fsencode(long.valkey_socket)) < 100
    assert long.valkey_socket != Layout(state_dir=tmp_path / ("e" * 120)).valkey_socket


def test_your_own_redis_takes_the_place_of_the_embedded_one(tmp_path: Path) -> None:
    layout = Layout(state_dir=tmp_path, redis_url="redis://127.0.0.1:6379/0")
    assert layout.store_url == "redis://127.0.0.1:6379/0"


def test_a_malformed_tier_table_is_refused_by_its_name() -> None:
    assert tiers_from(None) == DEFAULT_TIERS
    assert tiers_from('[{"arm":"a","max_length":5}]') == (Tier(arm="a", max_length=5),)
    with pytest.raises(LocalError, match=r"TURNOUT_TIERS .* 0.max_length: Field required"):
        tiers_from('[{"arm":"a"}]')
    with pytest.raises(LocalError, match=r"TURNOUT_TIERS: .*must rise"):
        tiers_from('[{"arm":"a","max_length":5},{"arm":"b","max_length":5}]')


def test_a_second_holder_of_a_state_directory_is_told_who_holds_it(tmp_path: Path) -> None:
    layout = Layout(state_dir=tmp_path)
    with locked(layout), pytest.raises(LocalError, match=rf"already up .*pid {os.getpid()}"):  # noqa: SIM117
        with locked(layout):
            pass
    with locked(layout):
        pass  # and it is free again


def test_a_state_directory_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(LocalError, match="the state directory cannot be used"),
        locked(Layout(state_dir=tmp_path / "file")),
    ):
        pass


def test_every_port_in_use_is_named_with_who_wanted_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        layout = Layout(state_dir=tmp_path, gateway_port=port, controller_port=0)
        layout = replace(layout, backend_ports=(0, port))
        with pytest.raises(LocalError) as caught:
            check_ports(layout)
    message = str(caught.value)
    assert f"127.0.0.1:{port} (for gateway)" in message
    assert f"127.0.0.1:{port} (for phase2)" in message
    assert "--port" in message


def test_one_port_for_two_parts_and_a_number_that_is_no_port_are_named(tmp_path: Path) -> None:
    layout = Layout(state_dir=tmp_path, gateway_port=0, controller_port=70_000)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    with pytest.raises(LocalError) as caught:
        check_ports(replace(layout, backend_ports=(free, free)))
    assert f"{free} (for phase2): wanted for phase1 too" in str(caught.value)
    assert "70000 (for controller): a port is at most 65535" in str(caught.value)


def test_an_arm_with_a_checkpoint_is_started_with_it_and_another_is_not(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    layout = Layout(state_dir=tmp_path, checkpoints={"phase2": weights})
    with httpx2.Client() as unused:
        specs = {
            spec.name: spec
            for wave in waves(layout, unused)  # type: ignore[arg-type] # nothing is asked here
            for spec in wave
        }
    assert specs["phase2"].environment["BACKEND_CHECKPOINT"] == str(weights)
    assert "BACKEND_CHECKPOINT" not in specs["phase1"].environment
