"""What the controller must be told: the environment, read once by `__main__`."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import SettingsConfigDict

from backends.access import exposed
from rollout.reach import StoreSettings
from rollout.snapshot import DEFAULT_TIERS, Arm, Tier, check_tiers


class Settings(StoreSettings):
    """Frozen settings of one controller. A wrong one is refused at birth."""

    model_config = SettingsConfigDict(env_prefix="ROLLOUT_", frozen=True, extra="forbid")

    redis_url: str = Field(
        validation_alias="TURNOUT_REDIS_URL",
        description="The store of rollouts, Redis 7 or Valkey: redis://host:port/0, rediss://... "
        "over TLS, or unix:///path/to/socket; user:password@ before the host.",
    )
    tiers: Annotated[tuple[Tier, ...], AfterValidator(check_tiers)] = Field(
        default=DEFAULT_TIERS,
        validation_alias="TURNOUT_TIERS",
        description="The tier table as JSON, shortest first.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8081, ge=0, le=65535, description="Port; 0 takes a free one.")
    backends: dict[Arm, str] = Field(
        default_factory=dict,
        description="JSON, arm -> URL: whom to ask which models a report compares.",
    )
    keys_file: Path | None = Field(
        default=None,
        description="File of API keys, read again when it changes; without one, everybody who "
        "reaches the controller may do everything.",
    )
    open: bool = Field(
        default=False,
        description="Listen on an address that other machines reach although there are no keys.",
    )
    open_metrics: bool = Field(
        default=False, description="Whether /metrics needs no key where keys are on."
    )
    tick_s: float = Field(
        default=1.0, gt=0, description="Seconds between two looks at the rollout by itself."
    )
    lease_s: float = Field(
        default=10.0,
        gt=0,
        description="Seconds after which another controller takes over from one that fell silent.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least level of the events that are logged."
    )

    @model_validator(mode="after")
    def _renewed(self) -> Self:
        if self.lease_s <= 2 * self.tick_s:
            raise ValueError(
                f"ROLLOUT_LEASE_S is {self.lease_s:g}: it must be more than twice ROLLOUT_TICK_S "
                f"({self.tick_s:g}), or the leader loses its lease between two ticks"
            )
        return self

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        reason = exposed(
            self.host,
            has_keys=self.keys_file is not None,
            is_open=self.open,
            what="ROLLOUT_KEYS_FILE, or ROLLOUT_OPEN=true",
        )
        if reason:
            raise ValueError(reason)
        return self
