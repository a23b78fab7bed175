"""How the store of rollouts is reached: settings that gateways and controllers share.

The URL says who and where: `redis://`, `rediss://` (over TLS) or `unix://`, with the user of an
access control list and its password in it, `rediss://user:password@host:6380/0`. What TLS needs
besides lies in files.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings

_OVER_TLS: Final = "rediss://"


@dataclass(frozen=True, slots=True)
class Tls:
    """The files (PEM) of a connection over TLS. Without a CA file the system's authorities do."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    """A certificate of this client's own, for a store that asks for one."""
    key_file: Path | None = None
    """Its key; None: in the same file."""

    def faults(self) -> list[str]:
        """Say which files cannot be used, by the name of their setting."""
        found: list[str] = []
        if self.ca_file is not None:
            try:
                ssl.create_default_context(cafile=self.ca_file)
            except (OSError, ssl.SSLError) as error:
                found.append(_told("TURNOUT_REDIS_CA_FILE", self.ca_file, error))
        if self.cert_file is not None:
            try:
                ssl.create_default_context().load_cert_chain(self.cert_file, self.key_file)
            except (OSError, ssl.SSLError) as error:
                where = self.cert_file if self.key_file is None else self.key_file
                found.append(_told("TURNOUT_REDIS_CERT_FILE", where, error))
        elif self.key_file is not None:
            found.append("TURNOUT_REDIS_KEY_FILE is set without TURNOUT_REDIS_CERT_FILE")
        return found


def _told(setting: str, path: Path, error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{setting}: {path} cannot be used: {reason}"


class StoreSettings(BaseSettings):
    """The part of the settings that says how the store is reached."""

    redis_url: str | None = Field(
        default=None,
        validation_alias="TURNOUT_REDIS_URL",
        description="The store of rollouts, Redis 7 or Valkey: redis://host:port/0, rediss://... "
        "over TLS, or unix:///path/to/socket; user:password@ before the host. Without one the "
        "tier table alone decides.",
    )
    redis_ca_file: Path | None = Field(
        default=None,
        validation_alias="TURNOUT_REDIS_CA_FILE",
        description="File of certificate authorities (PEM) that the certificate of a rediss:// "
        "store may be signed by, besides the system's.",
    )
    redis_cert_file: Path | None = Field(
        default=None,
        validation_alias="TURNOUT_REDIS_CERT_FILE",
        description="File of the certificate (PEM) to show to a rediss:// store that asks for one.",
    )
    redis_key_file: Path | None = Field(
        default=None,
        validation_alias="TURNOUT_REDIS_KEY_FILE",
        description="File of that certificate's key; by default it is in the same file.",
    )

    @property
    def redis_tls(self) -> Tls | None:
        """The files of a connection over TLS; None where the store is reached without."""
        if self.redis_url is None or not self.redis_url.startswith(_OVER_TLS):
            return None
        return Tls(self.redis_ca_file, self.redis_cert_file, self.redis_key_file)

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        files = {
            "TURNOUT_REDIS_CA_FILE": self.redis_ca_file,
            "TURNOUT_REDIS_CERT_FILE": self.redis_cert_file,
            "TURNOUT_REDIS_KEY_FILE": self.redis_key_file,
        }
        given = [name for name, path in files.items() if path is not None]
        tls = self.redis_tls
        if given and tls is None:
            raise ValueError(
                f"{' and '.join(given)} would have no effect: TURNOUT_REDIS_URL does not begin "
                f"with {_OVER_TLS}"
            )
        if tls and (faults := tls.faults()):
            raise ValueError("; ".join(faults))
        return self
