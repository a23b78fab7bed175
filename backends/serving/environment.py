"""Settings out of the environment, and every fault in them by the name that it was given under.

A misspelt name is a fault too: what nobody reads has no effect, and whoever set `ROUTER_KEY_FILE`
believes that there are keys. So each process refuses names of its own prefix that it does not know.
Kubernetes puts names of its own there, for every service in the namespace (`ROUTER_SERVICE_HOST`,
`ROUTER_PORT_8080_TCP_ADDR`): those are left alone.
"""

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

from backends.serving import telemetry

WRONG: Final = "wrong setting"
_SERVICE_LINK: Final = re.compile(
    r".+_(SERVICE_(HOST|PORT)(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_LINKED: Final = re.compile(r"(tcp|udp|sctp)://")
_VARIABLE: Final = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")
S = TypeVar("S", bound=BaseSettings)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. `setting` is the variable's whole name."""

    setting: str
    reason: str

    def __str__(self) -> str:
        told = self.setting in _VARIABLE.findall(self.reason)
        return self.reason if told else f"{self.setting}: {self.reason}"


class SettingsFaultError(ValueError):
    """What is wrong in an environment, all that could be seen of it."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


def read_settings(settings: type[S]) -> S:
    """Read settings from this process's environment. Raises SettingsFaultError."""
    known = variables(settings)
    faults = [*misspelt(settings, os.environ), *_unreadable(settings, os.environ)]
    if not any(fault.setting in known.values() for fault in faults):
        try:
            read = settings()
        except ValidationError as error:
            faults += [_fault(one, known) for one in error.errors()]
        except SettingsError as error:  # a source's own complaint that was not foreseen above
            faults.append(Fault("the environment", str(error)))
        else:
            if not faults:
                return read
    raise SettingsFaultError(tuple(faults))


def read_or_exit(settings: type[S], service: str) -> S:
    """Read settings, or log each fault under the name of `service` and exit with status 1."""
    try:
        return read_settings(settings)
    except SettingsFaultError as error:
        telemetry.configure_logging(service)
        log = structlog.stdlib.get_logger(service)
        for fault in error.faults:
            log.critical(WRONG, setting=fault.setting, reason=fault.reason)
        raise SystemExit(1) from None


def variables(settings: type[BaseSettings]) -> dict[str, str]:
    """Name the environment variable of each field, in the fields' order."""
    return {name: variable(settings, name, field) for name, field in settings.model_fields.items()}


def variable(settings: type[BaseSettings], name: str, field: FieldInfo) -> str:
    """Name the environment variable of one field."""
    prefix = settings.model_config.get("env_prefix", "")
    return str(field.validation_alias or f"{prefix}{name}".upper())


def misspelt(settings: type[BaseSettings], environment: Mapping[str, str]) -> Iterator[Fault]:
    """Find the names with the settings' prefix that none of them has, and the nearest that is."""
    prefix = settings.model_config.get("env_prefix", "")
    known = list(variables(settings).values())
    read = {*known, *(f"{prefix}{name}".upper() for name in _by_name(settings))}
    for name, value in sorted(environment.items()):
        plain = name.upper()  # as they are read: in any case
        if not plain.startswith(prefix) or plain in read or _is_service_link(plain, value):
            continue
        near = difflib.get_close_matches(plain, known, n=1) or [_same_word(plain, prefix, known)]
        hint = f"did you mean {near[0]}? " if near[0] else ""
        yield Fault(name, f"no setting has this name: {hint}`--settings` lists them all")


def _by_name(settings: type[BaseSettings]) -> tuple[str, ...]:
    """Name the fields that are read under the prefix besides their own variable."""
    return tuple(settings.model_fields) if settings.model_config.get("validate_by_name") else ()


def _same_word(name: str, prefix: str, known: list[str]) -> str:
    """Find a setting that ends as `name` does: ROLLOUT_REDIS_URL, which is TURNOUT_REDIS_URL."""
    rest = name.removeprefix(prefix)
    return next((one for one in known if one.endswith(f"_{rest}")), "")


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.fullmatch(name) or _LINKED.match(value))


def _unreadable(settings: type[BaseSettings], environment: Mapping[str, str]) -> Iterator[Fault]:
    """Find the values that must be JSON and are not."""
    source = EnvSettingsSource(settings)
    given = {name.upper(): value for name, value in environment.items()}
    for name, field in settings.model_fields.items():
        where = variable(settings, name, field)
        if where in given and source.field_is_complex(field):
            try:
                json.loads(given[where])
            except ValueError as error:
                yield Fault(where, f"it must be JSON: {error}. {field.description or ''}".strip())


def _fault(error: ErrorDetails, known: Mapping[str, str]) -> Fault:
    """Say what pydantic found, by the variable that it found it in."""
    own = error.get("ctx", {}).get("error") if error["type"] == "value_error" else None
    reason = str(own or error["msg"])
    if not error["loc"]:  # of several settings together: the sentence names them
        named = (word for word in _VARIABLE.findall(reason) if word in known.values())
        return Fault(next(named, "settings"), reason)
    field, *rest = error["loc"]
    where = known.get(str(field), str(field))
    return Fault(where, f"{'.'.join(map(str, rest))}: {reason}" if rest else reason)
