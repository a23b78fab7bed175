"""Who may reach a server, as settings: those that gateway and controller share.

A server that has no keys listens on loopback alone, unless it is told to be open.
"""

from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings

from backends.serving.access import check_host, exposed

HOST: Final = "Address to listen on, or unix:/path/to/socket, which has no port."
Host = Annotated[str, AfterValidator(check_host)]


class GuardedSettings(BaseSettings):
    """The part of a server's settings that says who may reach it; `env_prefix` is the server's."""

    host: Host = Field(default="127.0.0.1", description=HOST)
    keys_file: Path | None = Field(
        default=None,
        description="File of API keys, read again when it changes; without one, everybody who "
        "reaches this server may do everything.",
    )
    open: bool = Field(
        default=False,
        description="Listen on an address that other machines reach although there are no keys.",
    )
    open_metrics: bool = Field(
        default=False, description="Whether /metrics needs no key where keys are on."
    )

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        prefix = self.model_config.get("env_prefix", "")
        reason = exposed(
            self.host,
            has_keys=self.keys_file is not None,
            is_open=self.open,
            what=f"{prefix}KEYS_FILE, or {prefix}OPEN=true",
        )
        if reason:
            raise ValueError(reason)
        return self
