"""When the simulated controller looks, and how finely traffic is drawn. Pure.

A real controller looks every few seconds. A simulated one looks on a geometric grid over each
stage: every look is one more chance to be wrong, but the evidence moves in proportion to what has
been seen, so looks that lie close together add little, and thousands of replicates need to be
affordable. Every figure that a simulation prints is said to be of that many looks; rules that were
made for one look gain most by fewer, and the rivals look at every window.
"""

import math
from typing import Final, NamedTuple

from rollout.plan import Stage

WINDOW_S: Final = 60.0
"""The window of the rivals' rules, where a stage is short enough for it."""
MOST_WINDOWS: Final = 240
"""Windows of a stage's minimum duration; a longer stage has longer ones."""
LOOKS: Final = 16
"""Looks of a stage until its horizon, about."""
PATIENCE: Final = 2.0
"""How many times its minimum duration a stage without a deadline is given to decide."""
LEAST_S: Final = 600.0
"""What a stage is given at least."""


class Grid(NamedTuple):
    """One stage: windows of `grain_s` seconds each, and after which of them is looked."""

    grain_s: float
    window: int
    """Grains until the minimum duration: what a rival watches before it promotes."""
    horizon: int
    """Grains until the simulation gives the stage up."""
    looks: tuple[int, ...]
    """After how many grains, rising, the last is `horizon`."""


def grid(stage: Stage, looks: int = LOOKS) -> Grid:
    """Lay out a stage. Its horizon is its deadline, or `PATIENCE` times its minimum duration."""
    least = max(stage.min_duration_s, LEAST_S)
    grain_s = WINDOW_S * max(1, math.ceil(least / WINDOW_S / MOST_WINDOWS))
    window = math.ceil(least / grain_s)
    deadline = stage.max_duration_s
    until = PATIENCE * least if deadline is None else max(deadline, grain_s)
    horizon = max(math.ceil(until / grain_s), 1)
    steps = {round(horizon ** (step / looks)) for step in range(1, looks + 1)}
    opens = math.ceil(stage.min_duration_s / grain_s)
    steps |= {step for step in (opens, horizon) if 0 < step <= horizon}
    return Grid(grain_s, window, horizon, tuple(sorted(steps)))
