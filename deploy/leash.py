"""Run a command that cannot outlive its parent: `leash.py PARENT SIGNAL COMMAND...`.

A supervisor that is killed with SIGKILL can clean nothing up. So each child first asks the kernel
to send it a signal when its parent dies (prctl(2), PR_SET_PDEATHSIG, which survives execve), checks
that the parent had not died already, and only then becomes the command. The file runs on its own,
`python -I -S leash.py`, without importing any of ours: a child starts in a few milliseconds.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
NOT_LINUX = "turnout up needs Linux: only there does a child learn that its supervisor was killed"


def hold(parent: int, signal: int) -> None:
    """Have the kernel send `signal` to this process when `parent` dies; exit if it already has.

    Raises OSError when the kernel refuses.
    """
    if not sys.platform.startswith("linux"):
        sys.exit(NOT_LINUX)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit("the supervisor died before its child had started")


if __name__ == "__main__":
    hold(int(sys.argv[1]), int(sys.argv[2]))
    os.execv(sys.argv[3], sys.argv[3:])  # noqa: S606 - the supervisor's own command line
