"""What the gateway must be told: ROUTER_* in the environment, read once by `__main__`.

Two settings are shared with the controller and carry the product's name: TURNOUT_REDIS_URL and
TURNOUT_TIERS.
"""

from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from rollout.snapshot import DEFAULT_TIERS, Arm, Snapshot, Tier, check_tiers
from router.assignment import TooLong

DEFAULT_BACKENDS: Final = {"phase1": "http://127.0.0.1:8091", "phase2": "http://127.0.0.1:8092"}


def _http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{text!r} is no http:// or https:// URL of a backend")
    return text.rstrip("/")


class Settings(BaseSettings):
    """Frozen settings of one gateway. A wrong one is refused at birth."""

    model_config = SettingsConfigDict(
        env_prefix="ROUTER_", frozen=True, extra="forbid", validate_by_name=True
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(
        default=8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one."
    )
    state_dir: Path = Field(
        default=Path(".turnout/gateway"),
        description="Folder of the last applied snapshot and of the file hold-at-incumbent.",
    )
    backends: dict[Arm, Annotated[str, AfterValidator(_http_url)]] = Field(
        default=DEFAULT_BACKENDS, description="JSON object: the base URL of each arm's backend."
    )
    redis_url: str | None = Field(
        default=None,
        validation_alias="TURNOUT_REDIS_URL",
        description="The store of rollouts; without one the tier table alone decides.",
    )
    tiers: Annotated[tuple[Tier, ...], AfterValidator(check_tiers)] = Field(
        default=DEFAULT_TIERS,
        validation_alias="TURNOUT_TIERS",
        description="JSON list of tiers, in force until the store holds a table.",
    )
    poll_s: float = Field(default=1.0, gt=0, description="Seconds between looks at the store.")
    flush_s: float = Field(default=0.25, gt=0, description="Seconds between reports to the store.")
    max_context: int = Field(
        default=2000, gt=0, description="Vectors that a context may have; more is answered 413."
    )
    max_body_mb: int = Field(
        default=64, gt=0, description="MiB that a body may have; more is answered with 413."
    )
    timeout_s: float = Field(
        default=30.0, gt=0, description="Seconds that a request may take, unless it asks for less."
    )
    too_long: TooLong = Field(
        default="truncate",
        description="What longer contexts than any tier reads get: their end predicted, or 413.",
    )
    tokens_per_vector: int = Field(
        default=20, gt=0, description="Tokens that one vector stands for, to report lengths in."
    )
    mirror_in_flight: int = Field(
        default=8, gt=0, description="Mirrored requests that may be under way at once."
    )
    mirror_max_mb: int = Field(
        default=64, gt=0, description="MiB of contexts that mirrored requests may hold at once."
    )
    mirror_timeout_s: float = Field(
        default=5.0, gt=0, description="Seconds that a mirrored request may take."
    )
    label_window_s: float = Field(
        default=600.0,
        gt=0,
        description="Seconds for which the store remembers a request outside any rollout's scope, "
        "to take its feedback in (which then counts nowhere); a rollout sets its own.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least level of the events that are logged."
    )

    @model_validator(mode="after")
    def _served(self) -> Self:
        missing = [tier.arm for tier in self.tiers if tier.arm not in self.backends]
        if missing:
            raise ValueError(
                f"ROUTER_BACKENDS has no URL for {', '.join(missing)}, which the tier table names"
            )
        return self

    @property
    def start(self) -> Snapshot:
        """The settings' own snapshot, older than any of a store."""
        return Snapshot(epoch=0, version=0, tiers=self.tiers)
