"""A server's freed memory serves its next request."""

import platform
import subprocess
import sys

import pytest

ROUNDS = 50
PROGRAM = f"""
import resource
from backends.serving.heap import keep_freed_memory
if {{keeps}}:
    assert keep_freed_memory()
SIZES = [256_000] * 6
def body():  # as it arrives, in six pieces
    return [b"x" * size for size in SIZES]
body()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    body()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*, keeps: bool) -> int:
    """Count the pages that the system had to give, in a process of its own."""
    program = PROGRAM.format(keeps=keeps)
    done = subprocess.run(
        (sys.executable, "-c", program), capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's setting")
def test_the_next_body_gets_the_pages_of_the_last_one() -> None:
    assert faults(keeps=True) < ROUNDS < 10 * ROUNDS < faults(keeps=False)
