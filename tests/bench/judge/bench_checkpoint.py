"""A long bench that may be stopped at any time: one line of JSON for each finished chunk.

The first line says what the lines are of: a digest of the code and of the grid. Where it is not
ours, the file is of another judge, and is begun anew. A last line that was cut off counts for
nothing.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

from bench_grid import SEED, Cell

import rollout
from rollout.simulate.pool import Chunk
from rollout.simulate.replicate import Outcome

Key = tuple[str, int]
"""Cell and first replicate: where a chunk belongs."""


def key_of(cell: Cell) -> str:
    """Name a cell."""
    return f"{cell.name}@{cell.rps:g}/{cell.base:g}"


def digest(cells: Iterable[Cell]) -> str:
    """Give a digest of the code that decides and of what it is asked."""
    found = hashlib.sha256()
    for file in sources("rollout.simulate.replicate"):
        found.update(file.read_bytes())
    for cell in cells:
        found.update(f"{key_of(cell)} {cell.setting} {cell.looks} {SEED}".encode())
    return found.hexdigest()


def sources(module: str) -> list[Path]:
    """List the files of a module of the controller and of all that it imports there."""
    root = Path(next(iter(rollout.__path__))).parent
    todo, seen = [module], dict[str, Path]()
    while todo:
        name = todo.pop()
        file = root.joinpath(*name.split(".")).with_suffix(".py")
        if name in seen or not file.is_file():
            continue
        seen[name] = file
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rollout"):
                inside = [
                    f"{node.module}.{one.name}" for one in node.names
                ]  # from rollout import x
                todo += [str(node.module), *inside]
    return [seen[name] for name in sorted(seen)]


class Checkpoint:
    """The finished chunks of a grid, in `path`. `fresh` forgets those of a former run."""

    def __init__(self, path: Path, of: str, *, fresh: bool = False) -> None:
        self._path = path
        self._kept: dict[Key, list[Outcome]] = {}
        if not fresh and path.exists():
            self._read(of)
        if self._kept:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"of": of}) + "\n")

    def _read(self, of: str) -> None:
        with self._path.open() as lines:
            try:
                if json.loads(next(lines, "{}")).get("of") != of:
                    return
                for line in lines:
                    kept = json.loads(line)
                    self._kept[kept["cell"], kept["first"]] = [
                        _outcome(one) for one in kept["ends"]
                    ]
            except json.JSONDecodeError:
                pass  # the line that was being written when it was stopped
        self._rewrite(of)

    def _rewrite(self, of: str) -> None:
        """Leave whole lines alone in the file, so that the next one begins on its own."""
        whole = [json.dumps({"of": of}), *(_line(key, ends) for key, ends in self._kept.items())]
        beside = self._path.with_suffix(".new")
        beside.write_text("\n".join(whole) + "\n")
        beside.replace(self._path)

    def add(self, cell: Cell, chunk: Chunk, outcomes: list[Outcome]) -> None:
        """Keep a finished chunk."""
        key = (key_of(cell), chunk.first)
        self._kept[key] = outcomes
        with self._path.open("a") as lines:
            lines.write(_line(key, outcomes) + "\n")

    def missing(self, cell: Cell) -> list[Chunk]:
        """List the chunks of a cell that are not finished."""
        return [chunk for chunk in cell.chunks() if (key_of(cell), chunk.first) not in self._kept]

    def outcomes(self, cell: Cell) -> Iterator[Outcome]:
        """Yield what is known of a cell."""
        for chunk in cell.chunks():
            yield from self._kept.get((key_of(cell), chunk.first), ())


def _line(key: Key, outcomes: Iterable[Outcome]) -> str:
    return json.dumps({"cell": key[0], "first": key[1], "ends": [astuple(one) for one in outcomes]})


def _outcome(fields: list[Any]) -> Outcome:
    party, end, stage, requests, seconds, passed, why, looks = fields
    return Outcome(party, end, stage, requests, seconds, tuple(passed), why, looks)
