"""What a model server must be told: BACKEND_* in the environment, read once by `__main__`."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from backends.serving.access import is_loopback
from backends.serving.guarded import HOST, Host


class Settings(BaseSettings):
    """Frozen settings of one model server. A wrong one is refused at birth."""

    model_config = SettingsConfigDict(env_prefix="BACKEND_", frozen=True, extra="forbid")

    arm: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")] = Field(
        description="Name of the arm that this server is: it stands in logs and metadata."
    )
    host: Host = Field(default="127.0.0.1", description=HOST)
    open: bool = Field(
        default=False,
        description="Listen on an address that other machines reach, although a model server asks "
        "nobody for a key.",
    )
    port: int = Field(ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    max_length: int = Field(
        gt=0, description="The window: how many of the newest vectors the model reads."
    )
    bank: Path = Field(
        description="An .npz file with `vectors` [N,768] (float16 or float32) and `ids` [N]; or an "
        ".npy file with the vectors, which is mapped, and the ids beside it in *.ids.npy (without "
        "that file: row numbers)."
    )
    index: Literal["exact", "approximate"] = Field(
        default="exact",
        description="How neighbours are found: among all rows, or among the nearest lists of an "
        "inverted file (for more than about 100,000 rows).",
    )
    checkpoint: Path | None = Field(
        default=None,
        description="A .safetensors or .pt file; without one the weights are untrained.",
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of the untrained weights, when there is no checkpoint."
    )
    threads: int = Field(default=1, gt=0, description="Threads of the engine.")
    engine: Literal["auto", "compiled", "torch"] = Field(
        default="auto",
        description="What runs the model; auto: compiled if it was built, else torch.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="What the GRU's products are made in. bfloat16 needs the compiled engine and a "
        "processor with AVX512_BF16, and a server that has neither does not start; its answers are "
        "others: judge it by `make bench-backends` or `turnout evaluate` first.",
    )
    device: Literal["cpu", "cuda"] = Field(
        default="cpu", description="Where the model runs; cuda needs a CUDA build of torch."
    )
    batch_limit: int = Field(
        default=16, gt=0, description="Requests that the engine reads at once, at most."
    )
    prefix_mb: int = Field(
        default=96,
        ge=0,
        description="MiB for the states of known prefixes, about 120 a MiB; 0 keeps none.",
    )
    queue_limit: int = Field(
        default=64, gt=0, description="Requests that may wait; one more is answered with 503."
    )
    max_context: int = Field(
        default=2000, gt=0, description="Vectors that a context may have; more is answered 413."
    )
    max_body_mb: int = Field(
        default=64, gt=0, description="MiB that a body may have; more is answered with 413."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least level of the events that are logged."
    )

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if not self.open and not is_loopback(self.host):
            raise ValueError(
                f"BACKEND_HOST is {self.host}, which can be reached from other machines, and a "
                "model server asks nobody for a key: clients belong before the gateway. Set "
                "BACKEND_OPEN=true if only those reach this address who may use it"
            )
        return self
