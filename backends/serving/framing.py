"""What the head of a request must be so that everybody agrees where its body ends. Pure.

httptools (llhttp) refuses most of what lets two servers disagree: Content-Length together with
Transfer-Encoding, a Content-Length that is repeated, signed, listed or too large, bare CR and LF,
folded lines, control characters, a space before the colon, wrong chunk sizes. It lets pass what is
refused here (RFC 9112): a transfer coding before `chunked` (section 6.1), Transfer-Encoding in
HTTP/1.0 (6.1), no Host or two of them (3.2), versions that are not 1.0 or 1.1, and `Upgrade`, after
which it reads no body.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

HTTP_1_0: Final = "1.0"
HTTP_1_1: Final = "1.1"


class Fault(NamedTuple):
    """Why a request is refused before it reaches the application."""

    status: int
    message: str


def fault_of(
    version: str, headers: Iterable[tuple[bytes, bytes]], *, upgrade: bool
) -> Fault | None:
    """Look at a request's version and headers (names in lower case); None when they are sound.

    `upgrade`: the client asks for another protocol, and the parser would read no body.
    """
    hosts = 0
    body = False
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            body = body or value.strip() != b"0"
        elif name == b"transfer-encoding":
            body = True
            if fault := _coding_fault(version, value):
                return fault
    if version not in {HTTP_1_0, HTTP_1_1}:
        return Fault(505, f"HTTP/{version} is not spoken here: HTTP/1.1 is")
    if hosts > 1 or (hosts == 0 and version == HTTP_1_1):
        return Fault(400, f"the request has {hosts} Host headers: it must have one")
    if upgrade and body:
        return Fault(501, "no other protocol is spoken here: leave the Upgrade header out")
    return None


def _coding_fault(version: str, value: bytes) -> Fault | None:
    if version == HTTP_1_0:
        return Fault(400, "HTTP/1.0 has no Transfer-Encoding: send a Content-Length")
    if value.strip().lower() != b"chunked":
        return Fault(501, "the only Transfer-Encoding that is read here is chunked")
    return None
