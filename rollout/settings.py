"""What the controller must be told: the environment, read once by `__main__`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from rollout.snapshot import DEFAULT_TIERS, Arm, Tier, check_tiers


class Settings(BaseSettings):
    """Frozen settings of one controller. A wrong one is refused at birth."""

    model_config = SettingsConfigDict(env_prefix="ROLLOUT_", frozen=True, extra="forbid")

    redis_url: str = Field(
        validation_alias="TURNOUT_REDIS_URL",
        description="Redis 7 or Valkey: redis://host:port/0 or unix:///path/to/socket.",
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
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least level of the events that are logged."
    )
