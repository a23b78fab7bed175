"""`python -m rollout`: settings -> objects -> one controller.

Exits 0 after SIGTERM or SIGINT, 1 when a setting or the port is wrong: the log's last lines say
which. A store that is down is no reason to exit: `/health/ready` says so until it is back.
"""

import os
import secrets
import socket

import structlog

from backends.serving import process, telemetry, tracing
from backends.serving.access import KeyFileError, is_loopback
from backends.serving.environment import read_or_exit
from backends.serving.keyfile import KeyFile
from rollout.api import Api
from rollout.controller import Controller
from rollout.loop import Loop
from rollout.metrics import Metrics
from rollout.settings import Settings
from rollout.store.redis import RedisStore

log = structlog.stdlib.get_logger("rollout")


def main() -> None:
    """Run one controller until it is told to stop."""
    settings = read_or_exit(Settings, "rollout")
    telemetry.configure_logging("rollout", settings.log_level)
    tracing.start("rollout")
    controller = Controller(_store(settings), settings.tiers)
    metrics = Metrics(telemetry.new_registry())
    loop = Loop(
        controller,
        metrics,
        holder=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
        interval_s=settings.tick_s,
        lease_s=settings.lease_s,
    )
    api = Api(
        controller,
        metrics,
        backends=settings.backends,
        keys=_keys(settings),
        open_metrics=settings.open_metrics,
        life=loop.running,
    )
    process.serve(api.app, settings.host, settings.port)


def _keys(settings: Settings) -> KeyFile | None:
    if settings.keys_file is None:
        tell = log.info if is_loopback(settings.host) else log.warning
        tell(
            "no API keys: everybody who reaches this address may start, promote and abort; "
            "ROLLOUT_KEYS_FILE changes that",
            host=settings.host,
        )
        return None
    try:
        return KeyFile(settings.keys_file)
    except KeyFileError as error:
        log.critical("wrong setting", setting="ROLLOUT_KEYS_FILE", reason=str(error))
        raise SystemExit(1) from None


def _store(settings: Settings) -> RedisStore:
    try:
        return RedisStore(settings.redis_url, tls=settings.redis_tls)
    except ValueError as error:
        log.critical("wrong setting", setting="TURNOUT_REDIS_URL", reason=str(error))
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
