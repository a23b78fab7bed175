"""What the gateway must be told: ROUTER_* in the environment, read once by `__main__`.

What is shared with the controller carries the product's name: TURNOUT_TIERS, and how the store is
reached (`rollout.reach`).
"""

import ssl
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import SettingsConfigDict

from backends.serving.bounds import Limits
from backends.serving.content import KIB, MIB
from backends.serving.guarded import GuardedSettings
from rollout.reach import StoreSettings
from rollout.snapshot import DEFAULT_TIERS, Arm, Snapshot, Tier, check_tiers
from router.address import read_address
from router.assignment import TooLong
from router.statedir import gateway_state_dir

_OVER_TLS: Final = "https://"
DEFAULT_BACKENDS: Final = {"phase1": "http://127.0.0.1:8091", "phase2": "http://127.0.0.1:8092"}


def _replicas(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _address(text: str) -> str:
    read_address(text)
    return text.rstrip("/")


Replicas = Annotated[
    tuple[Annotated[str, AfterValidator(_address)], ...],
    BeforeValidator(_replicas),
    Field(min_length=1),
]


class Settings(StoreSettings, GuardedSettings):
    """Frozen settings of one gateway. A wrong one is refused at birth."""

    model_config = SettingsConfigDict(
        env_prefix="ROUTER_", frozen=True, extra="forbid", validate_by_name=True
    )

    port: int = Field(
        default=8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one."
    )
    state_dir: Path = Field(
        default_factory=gateway_state_dir,
        description="Folder of the last applied snapshot and of the file hold-at-incumbent; "
        "gateways of different stores need one each.",
    )
    backends: dict[Arm, Replicas] = Field(
        default=DEFAULT_BACKENDS,
        validate_default=True,
        description="JSON object: for each arm the address of its backend, or a list of addresses "
        "of replicas, as http://host:port, https://host:port or unix:/path/to/socket.",
    )
    ca_file: Path | None = Field(
        default=None,
        description="File of the certificate authorities (PEM) that https backends are checked "
        "against, in place of the system's.",
    )
    tiers: Annotated[tuple[Tier, ...], AfterValidator(check_tiers)] = Field(
        default=DEFAULT_TIERS,
        validation_alias="TURNOUT_TIERS",
        description="JSON list of tiers, in force until the store holds a table.",
    )
    poll_s: float = Field(default=1.0, gt=0, description="Seconds between looks at the store.")
    flush_s: float = Field(default=0.25, gt=0, description="Seconds between reports to the store.")
    spool_mb: int = Field(
        default=64,
        gt=0,
        description="MiB of counts, samples and pending labels that may wait for the store; more "
        "is dropped and counted in gateway_observations_dropped.",
    )
    head_timeout_s: float = Field(
        default=10.0, gt=0, description="Seconds in which a request's headers must be whole."
    )
    body_timeout_s: float = Field(
        default=25.0, gt=0, description="Seconds in which a request's body must be whole."
    )
    idle_timeout_s: float = Field(
        default=25.0, gt=0, description="Seconds for which an idle connection is kept."
    )
    max_head_kb: int = Field(
        default=32, gt=0, description="KiB that a request's URL and headers may have."
    )
    max_held_mb: int = Field(
        default=512,
        gt=0,
        description="MiB that the bodies of unanswered requests may hold together; more is "
        "answered 503, save for bodies up to 256 KiB.",
    )
    max_connections: int = Field(
        default=4096, gt=0, description="Connections that may be open; one more is answered 503."
    )
    max_in_flight: int = Field(
        default=512,
        gt=0,
        description="Prediction requests that may be under way; one more is answered 503.",
    )
    max_context: int = Field(
        default=2000, gt=0, description="Vectors that a context may have; more is answered 413."
    )
    max_body_mb: int = Field(
        default=64, gt=0, description="MiB that a body may have; more is answered with 413."
    )
    timeout_s: float = Field(
        default=30.0, gt=0, description="Seconds that a request may take, unless it asks for less."
    )
    leave_s: float = Field(
        default=0.0,
        ge=0,
        description="Seconds for which the gateway goes on answering, though not ready any more, "
        "when it is told to end: what a load balancer needs to notice.",
    )
    drain_s: int = Field(
        default=20,
        gt=0,
        description="Seconds that requests under way have at most, once nothing new is taken in.",
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

    @model_validator(mode="after")
    def _trusting(self) -> Self:
        if self.ca_file is None:
            return self
        bases = (read_address(one).base for all_ in self.backends.values() for one in all_)
        if not any(base.startswith(_OVER_TLS) for base in bases):
            raise ValueError(
                "ROUTER_CA_FILE would have no effect: no address in ROUTER_BACKENDS begins with "
                f"{_OVER_TLS}"
            )
        try:
            ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise ValueError(
                f"ROUTER_CA_FILE: {self.ca_file} cannot be used: {error.strerror or error}"
            ) from None
        return self

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for arm, addresses in self.backends.items():
            if len(set(addresses)) != len(addresses):
                raise ValueError(f"ROUTER_BACKENDS names a replica of {arm} twice")
        return self

    @property
    def limits(self) -> Limits:
        """What the server bears."""
        return Limits(
            head_s=self.head_timeout_s,
            body_s=self.body_timeout_s,
            idle_s=self.idle_timeout_s,
            answer_s=self.timeout_s,
            head_bytes=self.max_head_kb * KIB,
            held_bytes=self.max_held_mb * MIB,
            connections=self.max_connections,
        )

    @property
    def start(self) -> Snapshot:
        """The settings' own snapshot, older than any of a store."""
        return Snapshot(epoch=0, version=0, tiers=self.tiers)
