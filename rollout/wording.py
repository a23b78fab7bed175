"""How the report writes its figures for people. Pure.

The JSON document keeps raw values; here a value becomes text, in one of a closed set of units, the
same in the page, in its charts and in its sentences. A value that was never measured is written
`no data`, never as a number.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, cast

NO_DATA: Final = "no data"
_SPANS: Final = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_SHORT_SHA: Final = 12
_LN_10: Final = math.log(10)
_POWERS_FROM: Final = 6 * _LN_10
_BORDER: Final = 1e-5
_ROUNDING: Final = 1e-9
"""What exp loses: an e-value of 20 may come as 19.999999999999996."""

DROPPED: Final[Mapping[str, str]] = {
    "full": "mirror queue full",
    "bytes": "mirror queue full in bytes",
    "timeout": "timed out",
    "error": "failed",
    "refused": "refused by both arms",
}
"""Why a mirror that was intended was not compared, in words."""


def count(value: float) -> str:
    """A whole number: `12,345`."""
    return f"{value:,.0f}"


def percent(value: float) -> str:
    """A share: `25.1 %`, and below 1 % two significant digits."""
    return f"{value:.1f} %" if value == 0 or abs(value) >= 1 else f"{value:.2g} %"


def milliseconds(value: float) -> str:
    """A latency to about three digits: `8.42 ms`, `84.2 ms`, `1,842 ms`."""
    digits = 2 if value < 10 else 1 if value < 100 else 0  # noqa: PLR2004 - powers of ten
    return f"{value:,.{digits}f} ms"


def score(value: float) -> str:
    """An agreement between -1 and 1: `0.874`."""
    return f"{value:.3f}"


def points(value: float) -> str:
    """A difference of two shares: `+3.2 points`, `-0.4 points`."""
    return f"{value:+.1f} points"


def signed(value: float) -> str:
    """An end of an interval whose middle names the unit: `+3.2`, `-0.4`."""
    return f"{value:+.1f}"


def offset(value: float) -> str:
    """A difference of two agreements: `+0.012`, `-0.004`."""
    return f"{value:+.3f}"


def number(value: float) -> str:
    """A figure of the judge, whose unit stands beside it, to four digits: `66.52`, `0.874`.

    What a search for a border left of 0 is written as 0.
    """
    return "0" if abs(value) < _BORDER else f"{value:.4g}"


def listed(values: Sequence[object]) -> str:
    """Several ids in their order: `12, 7, 944`."""
    return ", ".join(map(str, values))


def when(value: float) -> str:
    """Unix seconds as a UTC time."""
    return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} UTC"


def span(value: float) -> str:
    """A duration in its two largest units: `7 d 2 h`, `12 min 30 s`, `0.4 s`."""
    if value < 10:  # noqa: PLR2004 - below ten seconds the tenths tell
        return f"{value:.1f} s".replace(".0 ", " ")
    rest, parts = round(value), list[str]()
    for size, unit in _SPANS:
        whole, rest = divmod(rest, size)
        if whole or parts:
            parts.append(f"{whole} {unit}")
        if len(parts) == 2:  # noqa: PLR2004 - two units say enough
            break
    return " ".join(part for part in parts if not part.startswith("0 "))


def evidence(value: float) -> str:
    """The natural logarithm of an e-value, as the e-value: `0.31`, `19.99`, `1,024`, `1.2e+26`.

    Rounded down, so that no e-value is written as the threshold that it has not reached. Every
    e-value that a person reads is written here: sentences, terminal, page and Markdown.
    """
    if value == math.inf:
        return "infinity"
    if value >= _POWERS_FROM:
        power = math.floor(value / _LN_10 + _ROUNDING)
        tenths = math.floor(10 * math.exp(value - power * _LN_10) + _ROUNDING)
        return f"{tenths / 10:.1f}e+{power}"
    e = math.exp(value)
    if e < 0.01:  # noqa: PLR2004 - the last digit that is written
        return "< 0.01"
    if e < 100:  # noqa: PLR2004 - four digits
        return f"{math.floor(100 * e + _ROUNDING) / 100:.2f}"
    return f"{math.floor(e + _ROUNDING):,}"


def sha(value: str) -> str:
    """A sha256, shortened to what fits a table."""
    return value[:_SHORT_SHA]


UNITS: Final[Mapping[str, Callable[..., str]]] = {
    "count": count,
    "percent": percent,
    "ms": milliseconds,
    "score": score,
    "points": points,
    "signed": signed,
    "offset": offset,
    "number": number,
    "listed": listed,
    "when": when,
    "span": span,
    "evidence": evidence,
    "sha": sha,
    "text": str,
}


def write(value: object, unit: str) -> str:
    """Write a value of the document in its unit; None, empty text and empty lists are `no data`.

    Raises KeyError on a unit outside UNITS.
    """
    words = UNITS[unit]
    return NO_DATA if value is None or value in ("", [], ()) else words(cast("float", value))
