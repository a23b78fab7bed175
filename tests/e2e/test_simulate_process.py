"""`turnout simulate` as a process with processes of its own, and an interrupt from the keyboard."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

PLAN = """\
name: brief
candidate: phase2
stages:
  - {name: all, mode: ab, weight: 100, min_duration_s: 1h, min_requests: 100}
"""
VERB = [sys.executable, "-c", "from deploy.cli import main; main()", "simulate"]

WORKED_S = 2.0
"""Of a worker's time: its imports take one, a chunk of so short a plan much less than one."""


def test_ctrl_c_tells_what_was_done_and_leaves_no_process(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    words = [*VERB, str(plan), "-s", "aa", "-n", "100000", "--looks", "4", "--processes", "2"]
    with subprocess.Popen(
        [*words, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            workers = _working(process.pid)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, err
    document = json.loads(out)
    assert document["interrupted"] is True
    assert 0 < document["scenarios"][0]["replicates"] < 100_000
    assert b"Traceback" not in err
    assert [one for one in workers if _runs(one)] == []


def _working(pid: int) -> list[psutil.Process]:
    """Wait until two workers have worked for some chunks."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        busy = [one for one in psutil.Process(pid).children() if one.cpu_times().user > WORKED_S]
        if len(busy) >= 2:
            return busy
        time.sleep(0.1)
    pytest.fail("no two workers came to work")


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
