import json
import stat
from pathlib import Path

from typer.testing import CliRunner

from backends.serving.access import Right, read_keys
from deploy.cli import app

run = CliRunner()


def made(*arguments: str) -> dict[str, str]:
    done = run.invoke(app, ["key", "new", *arguments, "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_the_printed_line_makes_the_printed_key_known() -> None:
    first, second = made("ci", "--right", "predict"), made("ci", "--right", "predict")
    assert first["key"] != second["key"]
    key = read_keys(first["line"]).find(first["key"])
    assert key is not None
    assert (key.name, key.rights) == ("ci", frozenset({Right.PREDICT}))
    assert first["key"] not in first["line"]


def test_for_people_the_key_stands_first_and_once() -> None:
    done = run.invoke(app, ["key", "new", "ci", "--right", "predict"])
    key, line = (text.split(None, 1)[1] for text in done.stdout.splitlines()[:2])
    assert read_keys(line).find(key)
    assert done.output.count(key) == 1


def test_a_file_gets_the_line_and_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    keys = [
        made(name, "--right", "predict", "--right", "feedback", "--file", str(file))["key"]
        for name in ("a", "b")
    ]
    ring = read_keys(file.read_text())
    assert [ring.find(key) is not None for key in keys] == [True, True]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]


def test_a_name_that_is_taken_or_wrong_is_refused_and_the_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    made("a", "--right", "predict", "--file", str(file))
    before = file.read_text()
    taken = f'{file} has a key of "a" already: choose another name'
    for name, reason in (("a", taken), ("a b", "new: a name has 1 to 64 letters")):
        done = run.invoke(app, ["key", "new", name, "--right", "predict", "--file", str(file)])
        assert done.exit_code == 1
        assert reason in done.output
        assert "line " not in done.output.replace("take its line away", "")
    assert file.read_text() == before
