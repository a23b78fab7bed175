import logging

import structlog

from backends.serving.sparing import Sparing


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_flood_is_held_back_and_the_next_line_says_how_much_of_it() -> None:
    clock = Clock()
    lines = Sparing("router", most=3, clock=clock)
    with structlog.testing.capture_logs() as log:
        for number in range(8):
            lines.warning("failed", number=number)
        clock.now += 1
        lines.warning("failed", number=8)
        lines.warning("failed", number=9)
    assert [line["number"] for line in log] == [0, 1, 2, 8, 9]
    assert [line.get("held_back") for line in log] == [None, None, None, 5, None]


def test_at_level_debug_nothing_is_held_back() -> None:
    logging.getLogger("only here").setLevel(logging.DEBUG)  # it outlives the test, and nobody asks
    lines = Sparing("only here", most=1, clock=Clock())
    with structlog.testing.capture_logs() as log:
        for _ in range(3):
            lines.warning("failed")
    assert len(log) == 3
