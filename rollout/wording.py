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


def number(value: float) -> str:
    """A figure of the judge, whose unit stands beside it, to four digits: `66.52`, `0.874`."""
    return f"{value:.4g}"


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
    """The natural logarithm of an e-value, as the e-value: `0.31`, `1,024`, `1e+12`."""
    if value > 20:  # noqa: PLR2004 - where the digits stop to matter
        return f"1e+{value / math.log(10):.0f}"
    e = math.exp(value)
    if e < 0.02:  # noqa: PLR2004 - likewise
        return "< 0.02"
    return f"{e:,.2f}" if e < 100 else f"{e:,.0f}"  # noqa: PLR2004 - three digits


def sha(value: str) -> str:
    """A sha256, shortened to what fits a table."""
    return value[:_SHORT_SHA]


UNITS: Final[Mapping[str, Callable[..., str]]] = {
    "count": count,
    "percent": percent,
    "ms": milliseconds,
    "score": score,
    "points": points,
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
