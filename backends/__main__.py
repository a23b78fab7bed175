"""`python -m backends`: settings -> objects -> one model server.

Exits 0 after SIGTERM or SIGINT, 1 when a setting, a file or the port is wrong: the log's last
lines say which.
"""

from importlib.metadata import PackageNotFoundError, version

from backends import bank
from backends.app import ModelServer
from backends.bodies import LONG_TENSOR
from backends.engine.make import make_engine
from backends.predictor import Predictor
from backends.prefix import PrefixStates
from backends.serving import bounds, process, telemetry, tracing
from backends.serving.content import MIB
from backends.serving.environment import read_or_exit
from backends.settings import Settings


def main() -> None:
    """Run one model server until it is told to stop."""
    settings = read_or_exit(Settings, "backend")
    telemetry.configure_logging(settings.arm, settings.log_level)
    tracing.start(settings.arm)
    server = ModelServer(
        lambda: load(settings),
        arm=settings.arm,
        version=_version(),
        queue_limit=settings.queue_limit,
        batch_limit=settings.batch_limit,
        max_context=settings.max_context,
        max_body_mb=settings.max_body_mb,
    )
    guard = bounds.Guard()
    guard.direct, guard.expect = server.direct, server.expect
    guard.direct_bytes = min(LONG_TENSOR, settings.max_body_mb * MIB)
    process.serve(server.app, settings.host, settings.port, guard=guard)
    if server.failed:
        raise SystemExit(1)


def load(settings: Settings) -> Predictor:
    """Load what the settings name; the engine's thread calls it. Raises LoadError."""
    vectors = bank.load(settings.bank, settings.index, threads=settings.threads)
    # The engine may import torch, which takes seconds. Here, the server is live meanwhile, and a
    # wrong setting or a port in use is told at once.
    made = make_engine(
        settings.engine,
        settings.checkpoint,
        seed=settings.seed,
        threads=settings.threads,
        device=settings.device,
        precision=settings.precision,
    )
    predictor = Predictor(
        engine=made.engine,
        bank=vectors,
        window=settings.max_length,
        checkpoint=made.checkpoint,
        trained=made.trained,
        prefixes=PrefixStates(settings.prefix_mb * MIB),
    )
    process.settle()
    return predictor


def _version() -> str:
    try:
        return version("turnout")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0"


if __name__ == "__main__":
    main()
