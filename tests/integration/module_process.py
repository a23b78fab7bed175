"""A module of ours as a real process, under a test's hand; its log is read line by line."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DEADLINE_S = 30.0


class ModuleProcess:
    """`python -m MODULE`, warnings being errors, with these environment variables besides."""

    def __init__(self, module: str, log_file: Path, **environment: str) -> None:
        self.log_file = log_file
        with log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", module],
                env={**os.environ, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def log(self) -> list[dict[str, Any]]:
        """Every whole line so far; each must be JSON."""
        return [json.loads(line) for line in self.log_file.read_text().split("\n")[:-1]]

    def event(self, name: str) -> dict[str, Any]:
        """Wait for a log line."""
        limit = time.monotonic() + DEADLINE_S
        while time.monotonic() < limit:
            for line in self.log():
                if line["event"] == name:
                    return line
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        pytest.fail(f"no event {name!r} in {self.log()}")

    def end(self) -> int:
        """Ask it to drain; return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)


@contextlib.contextmanager
def started(module: str, log_file: Path, **environment: str) -> Iterator[ModuleProcess]:
    process = ModuleProcess(module, log_file, **environment)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.wait(DEADLINE_S)
