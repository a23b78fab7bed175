"""Which minutes of a stage a judge must not read yet. Pure; writers and readers share it.

A request belongs to the minute of its admission. Its counts come in when it is answered, so the
newest minutes are not complete: a judge reads what lies behind a watermark. Its truth comes later
still, and a request whose truth may yet arrive says nothing: labels count by admission time, all of
them at once, when the label window of that time has closed. A truth after that is refused.

Windows may be long, so labels are kept by *slots* of one or more minutes, about thirty of which
make a window: a slot's labels count when its last minute's window closes.
"""

import math
from dataclasses import dataclass
from typing import Final

MINUTE_S: Final = 60
SLOTS: Final = 30
"""How many slots make a label window, where that is more than thirty minutes."""
SKEW_MINUTES: Final = 5
"""How far gateways' clocks may be ahead of the store's."""
MINUTE_TTL_S: Final = 7200
"""How long a minute is kept after its last count, and a label slot after its window."""
WATERMARK_MOST_S: Final = MINUTE_TTL_S - (1 + SKEW_MINUTES) * MINUTE_S
"""The longest watermark: a minute that is taken away from the totals must still be there, also one
that a fast clock named too early. One that the store had dropped would count at once."""


def slot_width(label_window_s: float) -> int:
    """Give the minutes of a label slot."""
    return max(1, math.ceil(label_window_s / MINUTE_S / SLOTS))


def label_slot(minute: int, label_window_s: float) -> int:
    """Name the slot of a minute: the first minute in it."""
    return minute - minute % slot_width(label_window_s)


@dataclass(frozen=True, slots=True)
class Horizon:
    """How far a judge may look. `now` is in Unix seconds on the store's clock."""

    now: float
    watermark_s: float
    """Minutes that ended less than this ago are not read; 0 reads everything."""
    label_window_s: float
    wait_for_labels: bool = True
    """False: labels are read as they come, which is valid where the delay of a truth does not
    depend on what it says."""

    @property
    def recent(self) -> range:
        """The minutes newer than the watermark."""
        if not self.watermark_s:
            return range(0)
        return range(math.floor((self.now - self.watermark_s) / MINUTE_S), self._end)

    @property
    def unclosed(self) -> range:
        """The label slots that hold a minute whose window has not closed."""
        if not self.wait_for_labels:
            return range(0)
        width = slot_width(self.label_window_s)
        oldest = math.floor((self.now - self.label_window_s) / MINUTE_S)
        return range(label_slot(oldest, self.label_window_s), self._end, width)

    def reads_at(self, minute: int) -> float:
        """Say when a minute is no more among the `recent` ones, in Unix seconds."""
        return (minute + 1) * MINUTE_S + self.watermark_s if self.watermark_s else 0.0

    def closes_at(self, minute: int) -> float:
        """Say when the labels of a minute are no more among the `unclosed`, in Unix seconds."""
        if not self.wait_for_labels:
            return 0.0
        width = slot_width(self.label_window_s)
        slot = label_slot(minute, self.label_window_s)
        return (slot + width) * MINUTE_S + self.label_window_s

    @property
    def _end(self) -> int:
        return math.floor(self.now / MINUTE_S) + 1 + SKEW_MINUTES
