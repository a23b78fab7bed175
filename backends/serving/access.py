"""Who may do what: API keys, their rights, and one decision. Pure.

A key is 256 random bits, written `turnout_` and 43 characters of base64url, so that scanners for
leaked secrets find it. A server keeps its SHA-256 alone. A slow hash (bcrypt, Argon2) protects what
people choose, which can be guessed; 256 random bits cannot, and a slow hash would cost every
request tens of milliseconds.

The file of keys has one line per key: a name, its rights, its hash. `#` starts a comment:

    search-team predict,feedback sha256:6ca1...8090 (64 digits)

A request shows its key as `Authorization: Bearer KEY` (RFC 6750). The name is who acted, in logs
and audits; the key itself stands nowhere.

The gateway and the controller read files of this form, each its own. A right of the one means
nothing to the other.
"""

import base64
import hashlib
import hmac
import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

PREFIX: Final = "turnout_"
KEY_BYTES: Final = 32
"""Random bytes in a key."""
MAX_PRESENTED: Final = 256
"""Characters of a presented key that are looked at: ours have 51."""
UNIX: Final = "unix:"
UNIX_PATH_MAX: Final = 107
REALM: Final = "turnout"
UNAUTHORIZED: Final = 401
FORBIDDEN: Final = 403
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_HASH: Final = re.compile(r"sha256:([0-9a-f]{64})")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class Right(StrEnum):
    """What a key may be good for."""

    PREDICT = "predict"
    """Gateway: ask for predictions and for what the model is."""
    FEEDBACK = "feedback"
    """Gateway: send the truth of an earlier prediction."""
    OVERRIDE = "override"
    """Gateway: name the arm that must answer."""
    VIEWER = "viewer"
    """Controller: look."""
    STOPPER = "stopper"
    """Controller: look; pause, abort."""
    OPERATOR = "operator"
    """Controller: what a stopper may; start, advance, resume, retry, undo."""
    APPROVER = "approver"
    """Controller: what a stopper may; approve, and promote without waiting for a gate."""


IMPLIED: Final[Mapping[Right, frozenset[Right]]] = {
    Right.STOPPER: frozenset({Right.VIEWER}),
    Right.OPERATOR: frozenset({Right.VIEWER, Right.STOPPER}),
    Right.APPROVER: frozenset({Right.VIEWER, Right.STOPPER}),
}
"""Whoever may act must be able to look, and whoever may send traffic on must be able to stop it."""


class KeyFileError(ValueError):
    """A file of keys that cannot be used; the message names the line and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Key:
    """One line of a file of keys."""

    name: str
    rights: frozenset[Right]
    digest: str
    """SHA-256 of the key, 64 hexadecimal digits."""

    def __str__(self) -> str:
        rights = ",".join(right for right in Right if right in self.rights)
        return f"{self.name} {rights} sha256:{self.digest}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request may not do what it asks for. `challenge` is the WWW-Authenticate header."""

    status: int
    message: str
    challenge: str


class KeyRing:
    """The keys that a server knows."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"<KeyRing of {', '.join(key.name for key in self._keys) or 'no key'}>"

    @property
    def names(self) -> frozenset[str]:
        """Whose keys they are."""
        return frozenset(key.name for key in self._keys)

    def find(self, presented: str) -> Key | None:
        """Return the key that was presented, in a time that does not tell how nearly it matched."""
        digest = digest_of(presented)
        found = None
        for key in self._keys:  # to the end: a match must not come back sooner
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


# --- deciding -----------------------------------------------------------------------------------


def authorize(keys: KeyRing, authorization: str | None, right: Right) -> Key | Refusal:
    """Decide about a request that shows this Authorization header and needs `right`."""
    if authorization is None:
        return Refusal(
            UNAUTHORIZED,
            "an API key is needed: send the header Authorization: Bearer KEY",
            f'Bearer realm="{REALM}"',
        )
    scheme, _, presented = authorization.strip().partition(" ")
    if scheme.lower() != "bearer":
        return _unknown("Authorization must be Bearer and a key")
    presented = presented.strip()
    key = keys.find(presented) if len(presented) <= MAX_PRESENTED else None
    if key is None:
        return _unknown("this API key is not known here")
    if right not in key.rights and not any(right in IMPLIED.get(held, ()) for held in key.rights):
        return Refusal(
            FORBIDDEN,
            f'the API key of "{key.name}" lacks the right "{right}"; it has '
            f"{', '.join(sorted(key.rights))}",
            f'Bearer realm="{REALM}", error="insufficient_scope", scope="{right}"',
        )
    return key


def _unknown(message: str) -> Refusal:
    return Refusal(UNAUTHORIZED, message, f'Bearer realm="{REALM}", error="invalid_token"')


def is_plain(path: str) -> bool:
    """Whether a decoded path holds no control character.

    A route's pattern ends in `$`, which also matches before a final line feed: `/v1/feedback%0A` is
    routed to the feedback, and no table of paths has it.
    """
    return _CONTROL.search(path) is None


def exposed(host: str, *, has_keys: bool, is_open: bool, what: str) -> str | None:
    """Say why a server must not listen on `host` without keys; None when it may.

    `what` names the settings to change, as `ROUTER_KEYS_FILE, or ROUTER_OPEN=true`.
    """
    if has_keys or is_open or is_loopback(host):
        return None
    return (
        f"{host} can be reached from other machines, and no API keys are set: set {what} if "
        "everybody who reaches this address may use it"
    )


def is_unix(host: str) -> bool:
    """Whether an address to listen on is a Unix socket: `unix:/path/to/socket`."""
    return host.startswith(UNIX)


def path_of(host: str) -> str:
    """Return the path of a Unix socket's address."""
    return host.removeprefix(UNIX)


def check_host(host: str) -> str:
    """Return an address to listen on. Raises ValueError for a Unix socket that cannot be one."""
    if is_unix(host):
        path = path_of(host)
        if not path.startswith("/"):
            raise ValueError(f"{host!r} names no Unix socket: write unix:/path/to/socket")
        if len(os.fsencode(path)) > UNIX_PATH_MAX:
            raise ValueError(
                f"{host!r} is too long for a Unix socket: {UNIX_PATH_MAX} bytes at most on Linux"
            )
    return host


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. Of names, only localhost is taken for one."""
    if host == "localhost" or is_unix(host):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# --- making and reading keys --------------------------------------------------------------------


def new_key(random: bytes) -> str:
    """Write a key of 32 random bytes."""
    if len(random) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} random bytes, not {len(random)}")
    return PREFIX + base64.urlsafe_b64encode(random).rstrip(b"=").decode()


def digest_of(key: str) -> str:
    """Return a key's SHA-256, 64 hexadecimal digits."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def check_name(name: str) -> None:
    """Raise KeyFileError for what cannot be the name of a key."""
    if not _NAME.fullmatch(name):
        # It is not shown: somebody may have pasted the key.
        raise KeyFileError(
            "a name has 1 to 64 letters, digits, or characters of ._@-, and a letter or digit first"
        )


def read_keys(text: str) -> KeyRing:
    """Read a file of keys. Raises KeyFileError, naming every line that is wrong."""
    keys: list[Key] = []
    faults: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        plain = line.partition("#")[0].strip()
        if not plain:
            continue
        try:
            keys.append(_read_line(plain, keys))
        except KeyFileError as error:
            faults.append(f"line {number}: {error}")
    if faults:
        raise KeyFileError("; ".join(faults))
    return KeyRing(keys)


def read_rights(text: str) -> frozenset[Right]:
    """Read `predict,feedback`. Raises KeyFileError."""
    words = text.split(",")
    unknown = [word for word in words if word not in list(Right)]
    if unknown:
        raise KeyFileError(f"no right is called {unknown[0]!r}: the rights are {', '.join(Right)}")
    return frozenset(Right(word) for word in words)


def _read_line(line: str, before: list[Key]) -> Key:
    parts = line.split()
    if len(parts) != 3:  # noqa: PLR2004 - the three columns
        # The line itself is not shown: somebody may have pasted the key.
        raise KeyFileError(f"{len(parts)} words, where NAME RIGHT,RIGHT sha256:HASH is wanted")
    name, rights, written = parts
    check_name(name)
    digest = _HASH.fullmatch(written)
    if digest is None:
        raise KeyFileError(
            f'the hash of "{name}" must be sha256: and 64 hexadecimal digits, as '
            "`turnout key new` prints it"
        )
    if any(name == key.name for key in before):
        raise KeyFileError(f'the name "{name}" stands twice')
    return Key(name, read_rights(rights), digest.group(1))
