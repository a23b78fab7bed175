"""What would keep a part from starting, found before the first one starts."""

import contextlib
import importlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from backends.serving.access import KeyFileError
from backends.serving.keyfile import check_file
from deploy.children import Spec

WITH_SETTINGS: Final = frozenset({"backends", "rollout", "router"})


class LocalError(Exception):
    """Why it cannot start here; the message says what to do about it."""


def check_settings(specs: Iterable[Spec]) -> None:
    """Read every part's settings as the part will. Raises LocalError, naming all that is wrong."""
    found: dict[str, list[str]] = {}
    for spec in specs:
        for fault in _faults(spec.command[-1], spec.environment):
            found.setdefault(fault, []).append(spec.name)
    if found:
        lines = (f"{', '.join(parts)}: {fault}" for fault, parts in found.items())
        raise LocalError("wrong settings in the environment:\n  " + "\n  ".join(lines))


def _faults(module: str, environment: Mapping[str, str]) -> Iterator[str]:
    if module not in WITH_SETTINGS:
        return
    # other verbs start faster without these
    from backends.serving.environment import SettingsFaultError, read_settings  # noqa: PLC0415

    kind = importlib.import_module(f"{module}.settings").Settings
    with _within(environment):
        try:
            settings = read_settings(kind)
        except SettingsFaultError as error:
            yield from map(str, error.faults)
            return
    keys: Path | None = getattr(settings, "keys_file", None)
    if keys is not None:
        try:
            check_file(keys)
        except KeyFileError as error:
            yield str(error)


@contextlib.contextmanager
def _within(environment: Mapping[str, str]) -> Iterator[None]:
    """Be in a child's environment: ours, and these besides."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
