"""`python -m backends`: settings -> objects -> one model server.

Exits 0 after SIGTERM or SIGINT, 1 when a setting, a file or the port is wrong: the log's last
lines say which.
"""

from importlib.metadata import PackageNotFoundError, version

import structlog
from pydantic import ValidationError

from backends import bank, telemetry
from backends.app import ModelServer
from backends.predictor import Predictor
from backends.settings import Settings


def main() -> None:
    """Run one model server until it is told to stop."""
    settings = _settings()
    telemetry.configure_logging(settings.arm, settings.log_level)
    server = ModelServer(
        lambda: load(settings),
        arm=settings.arm,
        version=_version(),
        queue_limit=settings.queue_limit,
        max_context=settings.max_context,
        max_body_mb=settings.max_body_mb,
    )
    telemetry.serve(server.app, settings.host, settings.port)
    if server.failed:
        raise SystemExit(1)


def load(settings: Settings) -> Predictor:
    """Load what the settings name; the engine's thread calls it. Raises LoadError."""
    vectors = bank.load(settings.bank)
    # torch takes seconds to import. Here, the server is live meanwhile, and a wrong setting or a
    # port in use is told at once.
    from backends import checkpoint  # noqa: PLC0415 - see above
    from backends.engine.torch_cpu import TorchEngine  # noqa: PLC0415 - see above

    weights = (
        checkpoint.load(settings.checkpoint)
        if settings.checkpoint
        else checkpoint.seeded(settings.seed)
    )
    return Predictor(
        engine=TorchEngine(weights, threads=settings.threads),
        bank=vectors,
        window=settings.max_length,
        checkpoint=weights.identity,
        trained=weights.trained,
    )


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        telemetry.configure_logging("backend")
        log = structlog.stdlib.get_logger("backends")
        for fault in error.errors():
            name = "_".join(str(part) for part in fault["loc"]).upper()
            log.critical("wrong setting", setting=f"BACKEND_{name}", reason=fault["msg"])
        raise SystemExit(1) from None


def _version() -> str:
    try:
        return version("turnout")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0"


if __name__ == "__main__":
    main()
