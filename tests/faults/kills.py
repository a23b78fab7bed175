"""Kill a real `turnout` at a chosen moment of its work, and run it again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.children import leashed

TURNOUT = str(Path(sys.executable).with_name("turnout"))
LIMIT_S = 300.0


def start(words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start `turnout WORDS`; it dies with the tests."""
    with log.open("ab") as file:
        return subprocess.Popen(
            leashed((TURNOUT, *words), signal.SIGKILL),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run_to_the_end(words: Sequence[str], log: Path) -> str:
    process = start(words, log)
    assert process.wait(timeout=LIMIT_S) == 0, log.read_text()[-2000:]
    return log.read_text()


def kill_when(moment: Callable[[], bool], words: Sequence[str], log: Path) -> None:
    """Run `turnout WORDS` and SIGKILL its whole group as soon as `moment` holds."""
    process = start(words, log)
    deadline = time.monotonic() + LIMIT_S
    while not moment():
        assert process.poll() is None, f"ended before the moment: {log.read_text()[-2000:]}"
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(timeout=10) == -signal.SIGKILL
