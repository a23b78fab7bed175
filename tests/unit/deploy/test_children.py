"""What the supervisor says and how long it waits: pure parts."""

import json
import signal
from pathlib import Path

import pytest

from deploy.children import backoff_s, describe_exit, last_words, tail


def test_the_pause_doubles_with_each_death_in_a_row_and_is_bounded() -> None:
    assert [backoff_s(deaths) for deaths in (1, 2, 3, 7, 50)] == [0.5, 1.0, 2.0, 30.0, 30.0]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (None, "still running"),
        (0, "ended with exit status 0"),
        (3, "ended with exit status 3"),
        (-signal.SIGKILL, "killed by SIGKILL"),
        (-200, "killed by signal 200"),
    ],
)
def test_an_exit_is_described_in_words(status: int | None, words: str) -> None:
    assert describe_exit(status) == words


def test_the_last_words_are_the_last_error_of_a_json_log() -> None:
    lines = [
        {"level": "error", "event": "old", "error": "gone"},
        {"level": "error", "event": "cannot load", "error": "a\nno such file: x.npz"},
        {"level": "info", "event": "stopped"},
    ]
    log = "\n".join(json.dumps(line) for line in lines)
    assert last_words(log) == "cannot load: no such file: x.npz"


def test_what_a_process_says_outside_its_log_counts_as_its_last_words() -> None:
    assert last_words('{"level":"info","event":"hi"}\nImportError: no torch\n') == (
        "ImportError: no torch"
    )
    assert last_words("") == ""


def test_the_tail_of_a_missing_log_is_empty_and_of_a_long_one_is_its_end(tmp_path: Path) -> None:
    assert tail(tmp_path / "none") == ""
    log = tmp_path / "log"
    log.write_text("x" * 100 + "end")
    assert tail(log, size=5) == "xxend"
