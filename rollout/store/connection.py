"""How this package reaches Redis: bounded waits, no hidden retries, scripts from files."""

from importlib.resources import files

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def connect(url: str, *, timeout_s: float) -> Redis:
    """Make a client that gives up on a connect or an answer after `timeout_s`.

    redis-py's own defaults wait for minutes, and its retries apply a write twice: a caller that
    retries must make the write idempotent first. Raises ValueError when the URL is none.
    """
    return Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
    )


def script(name: str) -> str:
    """Read `lua/<name>.lua`."""
    return files("rollout.store").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
