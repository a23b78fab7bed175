"""What a section of the bench found: figures with their spread, and what was asked of them.

A bench shows whether a figure is what was asked, and never fails over it: a time is
the machine's as much as the code's.
"""

from dataclasses import dataclass
from typing import Any

from bench_statistics import Spread


@dataclass(frozen=True, slots=True)
class Asked:
    """What a figure should be; the aim decides nothing."""

    at_least: float | None = None
    aim: float | None = None
    at_most: float | None = None

    def __str__(self) -> str:
        words = [
            "" if self.at_least is None else f"at least {self.at_least:g}",
            "" if self.at_most is None else f"at most {self.at_most:g}",
            "" if self.aim is None else f"aim {self.aim:g}",
        ]
        return ", ".join(word for word in words if word)

    def met_by(self, value: float) -> bool:
        """Whether `value` is what was asked (the aim aside)."""
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )


NOTHING = Asked()


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure: whose, of what, in which unit ("x" for a ratio)."""

    who: str
    what: str
    spread: Spread
    unit: str
    asked: Asked = NOTHING

    @property
    def verdict(self) -> str:
        """Say "met" or "not met" where something was asked."""
        if self.asked == NOTHING:
            return ""
        return "met" if self.asked.met_by(self.spread.value) else "not met"

    def as_json(self) -> dict[str, Any]:
        """Give the fields by name, flat."""
        return {
            "who": self.who,
            "what": self.what,
            **self.spread.as_json(),
            "unit": self.unit,
            "asked": str(self.asked),
            "verdict": self.verdict,
        }


@dataclass(frozen=True, slots=True)
class Section:
    """A numbered question and its answers. `notes` say what was not measured, and why."""

    number: int
    title: str
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()
    others_cpu: float = 0.0
    """Per cent of the machine that was in use by others just before."""

    def as_json(self) -> dict[str, Any]:
        """Give the fields by name."""
        return {
            "number": self.number,
            "title": self.title,
            "figures": [figure.as_json() for figure in self.figures],
            "notes": list(self.notes),
            "others_cpu_percent": self.others_cpu,
        }


def single(value: float) -> Spread:
    """Wrap a figure that was counted, not sampled."""
    return Spread(value, value, value, 1)
