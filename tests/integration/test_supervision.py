"""Real child processes: started, watched, restarted, stopped, never orphaned."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from deploy.children import Child, Phase, Spec, StartError, leashed

BOUND_S = 10.0


async def always() -> bool:
    return True


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not condition():
            await asyncio.sleep(0.02)


def spec(tmp_path: Path, code: str, **changes: object) -> Spec:
    fields: dict[str, object] = {
        "name": "child",
        "command": (sys.executable, "-c", code),
        "environment": {},
        "log": tmp_path / "logs" / "child.jsonl",
        "ready": always,
        "url": "",
        "stop_within_s": 2.0,
        **changes,
    }
    return Spec(**fields)  # type: ignore[arg-type] # the tests' own fields


@pytest.fixture
async def sleeper(tmp_path: Path) -> AsyncIterator[Child]:
    child = Child(spec(tmp_path, "import time; time.sleep(60)"), lambda _: None)
    await child.start()
    yield child
    await child.stop()


async def test_a_child_that_is_killed_is_restarted_and_the_cause_is_told(sleeper: Child) -> None:
    first = sleeper.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: sleeper.restarts == 1 and sleeper.phase is Phase.READY)
    assert sleeper.pid != first
    assert sleeper.why == "killed by SIGKILL; restarting in 0.5 s"


async def test_a_stopped_child_is_gone(sleeper: Child) -> None:
    pid = sleeper.pid
    assert pid is not None
    await sleeper.stop()
    assert not psutil.pid_exists(pid)
    assert sleeper.phase is Phase.STOPPED


async def test_a_child_that_ignores_sigterm_is_killed_when_its_time_is_up(tmp_path: Path) -> None:
    code = (
        "import signal, pathlib, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"pathlib.Path({str(tmp_path / 'up')!r}).touch(); time.sleep(60)"
    )
    child = Child(spec(tmp_path, code, stop_within_s=0.2), lambda _: None)
    await child.start()
    await until((tmp_path / "up").exists)
    pid = child.pid
    assert pid is not None
    await child.stop()
    assert not psutil.pid_exists(pid)


async def test_a_child_that_dies_at_its_start_fails_the_start_with_its_last_words(
    tmp_path: Path,
) -> None:
    line = json.dumps({"level": "error", "event": "cannot load the bank", "error": "no such file"})

    async def never() -> bool:
        return False

    child = Child(spec(tmp_path, f"print({line!r}); exit(3)", ready=never), lambda _: None)
    with pytest.raises(StartError) as caught:
        await child.start()
    assert "ended with exit status 3 (cannot load the bank: no such file)" in str(caught.value)
    assert str(tmp_path / "logs" / "child.jsonl") in str(caught.value)
    await child.stop()


async def test_a_child_that_is_never_ready_fails_the_start_and_can_be_stopped(
    tmp_path: Path,
) -> None:
    async def never() -> bool:
        return False

    slow = spec(tmp_path, "import time; time.sleep(60)", ready=never, ready_within_s=0.2)
    child = Child(slow, lambda _: None)
    with pytest.raises(StartError, match="was not ready after"):
        await child.start()
    await child.stop()
    assert child.pid is None


async def test_plain_lines_become_json_lines(tmp_path: Path) -> None:
    child = Child(spec(tmp_path, "print('ready\\n\\nnow')", plain_log=True), lambda _: None)
    await child._spawn(Phase.STARTING)
    await until(lambda: child.pid is None)
    await child.stop()
    lines = [json.loads(line) for line in child.spec.log.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["ready", "now"]
    assert {line["service"] for line in lines} == {"child"}


async def test_a_supervisor_that_is_killed_takes_its_children_with_it(tmp_path: Path) -> None:
    supervisor = (
        "import subprocess, sys, signal, time\n"
        "from deploy.children import leashed\n"
        "sleep = (sys.executable, '-c', 'import time; time.sleep(60)')\n"
        "started = [subprocess.Popen(leashed(sleep, s), start_new_session=True)"
        " for s in (signal.SIGKILL, signal.SIGTERM)]\n"
        "pids = ' '.join(str(process.pid) for process in started) + '.'\n"
        f"open({str(tmp_path / 'pids')!r}, 'w').write(pids)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", supervisor])
    pids = tmp_path / "pids"
    await until(lambda: pids.exists() and pids.read_text().endswith("."))
    children = [int(pid) for pid in pids.read_text().rstrip(".").split()]
    assert all(psutil.pid_exists(pid) for pid in children)
    process.kill()
    process.wait()
    await until(lambda: not any(map(alive, children)))


async def test_a_child_whose_supervisor_is_dead_already_does_not_start() -> None:
    command = list(leashed((sys.executable, "-c", "print('started')"), signal.SIGKILL))
    command[4] = str(2**22 + 1)  # no process has this id: it was the supervisor's place
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the supervisor died" in done.stderr
    assert not done.stdout


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
