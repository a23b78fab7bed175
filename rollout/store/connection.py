"""How this package reaches Redis: bounded waits, no hidden retries, scripts from files."""

from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from rollout.reach import Tls


def connect(url: str, *, timeout_s: float, tls: Tls | None = None) -> Redis:
    """Make a client that gives up on a connect or an answer after `timeout_s`.

    redis-py's own defaults wait for minutes, and its retries apply a write twice: a caller that
    retries must make the write idempotent first. `tls` is for a rediss:// URL alone; the
    certificate and the name in it are checked. Raises ValueError when the URL is none.
    """
    files = {} if tls is None else _files(tls)
    return Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        **files,
    )


def _files(tls: Tls) -> dict[str, Any]:
    given = {
        "ssl_ca_certs": tls.ca_file,
        "ssl_certfile": tls.cert_file,
        "ssl_keyfile": tls.key_file,
    }
    return {name: str(path) for name, path in given.items() if path is not None}


def script(name: str) -> str:
    """Read `lua/<name>.lua`."""
    return files("rollout.store").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
