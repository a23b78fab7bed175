"""The shape of the house: who may import whom, and what stays empty."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("router", "backends", "rollout", "deploy")


def test_every_import_rule_of_the_house_is_kept() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "contract", ["backends.protocol", "rollout.snapshot", "router.assignment", "router.client"]
)
def test_reading_a_contract_loads_neither_torch_nor_a_server(contract: str) -> None:
    code = f"import sys, {contract}; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "faiss", "fastapi", "redis", "uvicorn"} & set(eval(done.stdout))  # noqa: S307 - our own list


def test_the_packages_own_files_are_empty() -> None:
    faces = [face for package in PACKAGES for face in (ROOT / package).rglob("__init__.py")]
    assert len(faces) >= len(PACKAGES)
    assert [face for face in faces if face.read_text()] == []


def test_the_lock_holds_every_dependency_but_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for lock, wanted in {
        "run": project["dependencies"],
        "test": project["dependencies"] + extras["test"],
        "training": project["dependencies"] + extras["training"],
    }.items():
        text = (ROOT / "requirements" / f"{lock}.txt").read_text()
        locked = set(re.findall(r"^([a-z0-9-]+)==", text, flags=re.MULTILINE))
        names = {re.split(r"[<>=\[]", line)[0].lower() for line in wanted}
        assert names - locked == {"torch"}


def test_the_locks_agree_on_every_version_they_share() -> None:
    # The others, clients.txt and bench-rival.txt, are for environments of their own.
    run, *others = (
        dict(
            re.findall(
                r"^([a-z0-9-]+)==([^ ]+)",
                (ROOT / "requirements" / f"{name}.txt").read_text(),
                flags=re.MULTILINE,
            )
        )
        for name in ("run", "test", "training")
    )
    for other in others:
        assert {name: other[name] for name in run.keys() & other.keys()} == run
