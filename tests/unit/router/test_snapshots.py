"""The snapshot that a gateway applies, and where it comes from."""

from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from rollout.snapshot import DEFAULT_TIERS, Position, Snapshot, Tier
from router.metrics import Metrics
from router.snapshots import HOLD_FILE, SNAPSHOT_FILE, Offer, Snapshots, weigh

ARMS = ("phase1", "phase2")
START = Snapshot(epoch=0, version=0, tiers=DEFAULT_TIERS)
NOW = 1e9


def at(epoch: int, version: int, tiers: tuple[Tier, ...] = DEFAULT_TIERS) -> Snapshot:
    return Snapshot(epoch=epoch, version=version, tiers=tiers)


def held_by(folder: Path, metrics: Metrics | None = None) -> Snapshots:
    return Snapshots(
        START,
        feed=None,
        arms=ARMS,
        state_dir=folder,
        metrics=metrics or Metrics(CollectorRegistry()),
        clock=lambda: NOW,
    )


POSITIONS = st.tuples(st.integers(0, 3), st.integers(0, 3))


@given(POSITIONS, POSITIONS)
def test_only_a_higher_epoch_and_version_is_applied(
    applied: tuple[int, int], offered: tuple[int, int]
) -> None:
    verdict = weigh(at(*applied), at(*offered), ARMS)
    assert (verdict is Offer.APPLY) == (Position(*offered) > Position(*applied))
    assert (verdict is Offer.REGRESSION) == (Position(*offered) < Position(*applied))


def test_a_table_with_an_arm_that_has_no_backend_here_is_not_applied() -> None:
    beyond = (*DEFAULT_TIERS, Tier(arm="phase3", max_length=1000))
    assert weigh(START, at(1, 1, beyond), ARMS) is Offer.UNSERVABLE


def test_another_content_at_the_applied_position_is_a_regression() -> None:
    other = (DEFAULT_TIERS[0], DEFAULT_TIERS[1].model_copy(update={"active": True}))
    assert weigh(at(1, 5), at(1, 5), ARMS) is Offer.SAME
    assert weigh(at(1, 5), at(1, 5, other), ARMS) is Offer.REGRESSION


@given(st.lists(POSITIONS, max_size=20))
def test_whatever_is_offered_in_whatever_order_positions_never_fall(
    offers: list[tuple[int, int]],
) -> None:
    current = START
    for offered in offers:
        if weigh(current, at(*offered), ARMS) is Offer.APPLY:
            assert at(*offered).position > current.position
            current = at(*offered)
    assert current.position == max([Position(0, 0), *(Position(*one) for one in offers)])


async def test_what_was_applied_is_applied_again_after_a_restart(tmp_path: Path) -> None:
    assert await held_by(tmp_path).offer(at(1, 7)) is Offer.APPLY
    assert held_by(tmp_path).current == at(1, 7)
    assert [path.name for path in tmp_path.iterdir()] == [SNAPSHOT_FILE]


async def test_a_regression_is_counted_and_not_applied(tmp_path: Path) -> None:
    metrics = Metrics(CollectorRegistry())
    snapshots = held_by(tmp_path, metrics)
    await snapshots.offer(at(2, 1))
    assert await snapshots.offer(at(1, 9)) is Offer.REGRESSION
    assert snapshots.current == at(2, 1)
    refused = metrics.registry.get_sample_value("config_refused_total", {"why": "regression"})
    assert refused == 1


@pytest.mark.parametrize("text", ["", "{", '{"epoch": 1}', "\x00"])
def test_a_broken_file_is_no_reason_not_to_start(tmp_path: Path, text: str) -> None:
    (tmp_path / SNAPSHOT_FILE).write_text(text)
    assert held_by(tmp_path).current == START


def test_the_state_folder_is_made_where_it_is_missing(tmp_path: Path) -> None:
    held_by(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


async def test_a_disk_that_refuses_does_not_stop_a_snapshot_from_being_applied(
    tmp_path: Path,
) -> None:
    snapshots = held_by(tmp_path)
    (tmp_path / SNAPSHOT_FILE).mkdir()  # a file cannot replace a folder
    assert await snapshots.offer(at(1, 1)) is Offer.APPLY
    assert snapshots.current == at(1, 1)
    assert [path.name for path in tmp_path.iterdir()] == [SNAPSHOT_FILE]


async def test_a_disk_that_refused_is_tried_again_until_it_holds_what_is_in_force(
    tmp_path: Path,
) -> None:
    snapshots = held_by(tmp_path)
    await snapshots.offer(at(1, 1))
    (tmp_path / SNAPSHOT_FILE).rename(tmp_path / "old")
    (tmp_path / SNAPSHOT_FILE).mkdir()
    with structlog.testing.capture_logs() as logs:
        await snapshots.offer(at(1, 2))
        await snapshots.poll()
    failures = [line for line in logs if line["log_level"] == "error"]
    assert [line["event"] for line in failures] == ["the configuration cannot be kept on disk"]
    (tmp_path / SNAPSHOT_FILE).rmdir()
    (tmp_path / "old").rename(tmp_path / SNAPSHOT_FILE)
    assert held_by(tmp_path).current == at(1, 1)
    await snapshots.poll()
    assert held_by(tmp_path).current == at(1, 2)


async def test_a_stored_snapshot_with_an_unknown_arm_is_refused_aloud(tmp_path: Path) -> None:
    beyond = at(1, 7, (*DEFAULT_TIERS, Tier(arm="phase3", max_length=1000)))
    (tmp_path / SNAPSHOT_FILE).write_text(beyond.model_dump_json())
    metrics = Metrics(CollectorRegistry())
    with structlog.testing.capture_logs() as logs:
        assert held_by(tmp_path, metrics).current == START
    assert [line["event"] for line in logs] == ["configuration refused"]
    assert (logs[0]["why"], logs[0]["arms"][-1]) == ("unservable", "phase3")
    refused = metrics.registry.get_sample_value("config_refused_total", {"why": "unservable"})
    assert refused == 1


def test_a_gateway_that_starts_with_the_hold_file_is_held(tmp_path: Path) -> None:
    (tmp_path / HOLD_FILE).touch()
    metrics = Metrics(CollectorRegistry())
    assert held_by(tmp_path, metrics).held
    assert metrics.registry.get_sample_value("gateway_held_at_incumbent") == 1


async def test_the_age_and_the_version_of_the_configuration_are_told(tmp_path: Path) -> None:
    metrics = Metrics(CollectorRegistry())
    snapshots = held_by(tmp_path, metrics)
    await snapshots.offer(at(3, 4))
    assert metrics.registry.get_sample_value("config_age_seconds") == 0
    facts = {"position": "3.4", "rollout": "-", "stage": "-", "mode": "-", "weight": "0"}
    assert metrics.registry.get_sample_value("config_version_info", facts) == 1
