"""What the controller must be told: the environment, read once by `__main__`."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import SettingsConfigDict

from backends.serving.guarded import GuardedSettings
from rollout.reach import StoreSettings
from rollout.snapshot import DEFAULT_TIERS, Arm, Tier, check_tiers


class Settings(StoreSettings, GuardedSettings):
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
    port: int = Field(default=8081, ge=0, le=65535, description="Port; 0 takes a free one.")
    backends: dict[Arm, str] = Field(
        default_factory=dict,
        description="JSON, arm -> URL: whom to ask which models a report compares.",
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
