"""Where a backend is: `http://host:port`, `https://host:port`, `unix:/path`. Pure."""

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Address:
    """One replica's address. `base` is the URL that paths are appended to."""

    base: str
    host: str
    port: int | None = None
    socket: str | None = None
    """The path of a Unix socket; `base` names no real host then."""


def read_address(text: str) -> Address:
    """Read `http://…`, `https://…`, `unix:/path` or `http+unix://%2Fpath`. Raises ValueError."""
    parts = urlsplit(text)
    if parts.scheme in {"unix", "http+unix"}:
        path = parts.path if parts.scheme == "unix" else unquote(parts.netloc)
        if not path.startswith("/"):
            raise ValueError(f"{text!r} names no Unix socket: write unix:/path/to/socket")
        return Address("http://localhost", path, socket=path)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(
            f"{text!r} is no http:// or https:// URL of a backend, nor a unix:/path/to/socket"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(f"{text!r} holds more than an address: no user, query or fragment")
    return Address(text.rstrip("/"), parts.hostname, parts.port)
