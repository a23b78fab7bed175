"""The report's charts over time: the evidence, and the paired difference in Hit@k.

Time runs from the start of the rollout. E-values are drawn as powers of ten and cut off at the ends
of what a person needs to see; the JSON form has them whole.
"""

import math
from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rollout import wording
from rollout.reporting.document import Moment, Report
from rollout.reporting.drawing import FAINT, INK, MUTED, Panel, panel, svg
from rollout.snapshot import HITS

GUARD: Final = "#A3201D"
_PASS_AT, _FIRE_AT = math.log10(20), math.log10(100)
_LOW, _HIGH = -3.0, 9.0
"""Powers of ten that are drawn."""
_SHADES: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8A6D00", "#56B4E9", "#20262E")
_DASHES: Final = ("solid", (0, (5, 2)), (0, (1, 1.4)))
_UNITS: Final = ((86_400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
_SEVERAL: Final = 3


def evidence(report: Report) -> list[Panel]:
    """Draw the guard's average over time, and the e-values of what the gates required."""
    moments = report.timeline.moments
    if not moments:
        return []
    return [_guard(moments), *_required(moments)]


def _guard(moments: Sequence[Moment]) -> Panel:
    figure, axes = panel(7.2, 1.9)
    times, unit = _times(moments)
    average = [_power(one.guard_ln_e) for one in moments]
    # Both hold from look to look: a straight line between two would rise above the highest so far.
    axes.step(times, [_power(one.guard_high) for one in moments], where="post", color=GUARD,
              linewidth=0.9, linestyle=(0, (4, 2)), label="highest so far")  # fmt: skip
    axes.step(times, average, where="post", color=GUARD, linewidth=1.6, label="average e-value",
              marker=".", markersize=3)  # fmt: skip
    _levels(axes, [_FIRE_AT], "fires at 100")
    _finish(axes, moments, times, unit)
    last = moments[-1]
    label = (
        f"The rollback guard's e-value over time; it fires at 100. At the last of "
        f"{len(moments)} looks {wording.write(last.guard_ln_e, 'evidence')}, at its highest "
        f"{wording.write(last.guard_high, 'evidence')}."
    )
    return Panel("The rollback guard", svg(figure, "evidence-guard", label))


def _required(moments: Sequence[Moment]) -> list[Panel]:
    names = list(dict.fromkeys(name for one in moments for name in one.ln_e))
    if not names:
        return []
    figure, axes = panel(7.2, 2.6)
    times, unit = _times(moments)
    for place, name in enumerate(names):
        powers = [_power(one.ln_e.get(name)) for one in moments]
        axes.step(
            times, powers, where="post", label=name, linewidth=1.4, marker=".", markersize=3,
            color=_SHADES[place % len(_SHADES)],
            linestyle=_DASHES[place // len(_SHADES) % len(_DASHES)],
        )  # fmt: skip
    _levels(axes, [_PASS_AT], "passes at 20")
    _finish(axes, moments, times, unit)
    told = "; ".join(f"{name} {_last(moments, name)}" for name in names)
    label = f"The e-values of the required checks over time; 20 passes. Last: {told}."
    return [Panel("What the gates required", svg(figure, "evidence-required", label))]


def _last(moments: Sequence[Moment], name: str) -> str:
    found = [one.ln_e[name] for one in moments if name in one.ln_e]
    return wording.write(found[-1], "evidence")


def paired(report: Report) -> list[Panel]:
    """Draw, for each k, the difference in Hit@k on pairs over time with its band."""
    moments = [one for one in report.timeline.moments if _measured(one)]
    if not moments:
        return []
    return [_paired(f"paired-{k}", k, report.timeline.moments) for k in HITS]


def _measured(one: Moment) -> bool:
    return any(difference.n for difference in one.pair_differences.values())


def _paired(name: str, k: int, moments: Sequence[Moment]) -> Panel:
    figure, axes = panel(3.4, 2.2)
    times, unit = _times(moments)
    found = [one.pair_differences.get(k) for one in moments]
    points = [math.nan if one is None or one.points is None else one.points for one in found]
    low = [math.nan if one is None or one.low is None else one.low for one in found]
    high = [math.nan if one is None or one.high is None else one.high for one in found]
    for part in _by_stage(moments):
        axes.fill_between(
            times[part], low[part], high[part], color="#4B7F6B", alpha=0.18, linewidth=0
        )
        axes.plot(times[part], points[part], color="#2F6B55", linewidth=1.5, marker=".",
                  markersize=3)  # fmt: skip
    axes.axhline(0, color=INK, linewidth=0.8)
    spread = [abs(value) for value in (*low, *high) if not math.isnan(value)]
    bound = min(100.0, max(10.0, sorted(spread)[int(0.9 * (len(spread) - 1))] * 1.1))
    axes.set_ylim(-bound, bound)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_ylabel("points")
    _stages(axes, moments, times)
    axes.set_xlabel(f"{unit} after the start")
    last = next(one for one in reversed(found) if one is not None and one.n)
    label = (
        f"Hit@{k} of the candidate minus that of the incumbent on the same requests, over time. "
        f"Last: {wording.write(last.points, 'points')} on {wording.count(last.n)} pairs, from "
        f"{wording.write(last.low, 'points')} to {wording.write(last.high, 'points')}."
    )
    return Panel(f"Hit@{k}, difference", svg(figure, name, label))


# --- parts ---------------------------------------------------------------------------------------


def _power(ln_e: float | None) -> float:
    if ln_e is None:
        return math.nan
    return max(_LOW, min(_HIGH, ln_e / math.log(10)))


def _times(moments: Sequence[Moment]) -> tuple[list[float], str]:
    """Give the times in the largest unit of which several passed."""
    longest = moments[-1].since_start_s
    size, unit = next(
        (found for found in _UNITS if longest >= _SEVERAL * found[0]), _UNITS[-1]
    )  # fmt: skip
    return [one.since_start_s / size for one in moments], unit


def _by_stage(moments: Sequence[Moment]) -> list[slice]:
    """Cut at each new stage: counts begin anew there."""
    starts = [
        place
        for place, one in enumerate(moments)
        if place == 0 or one.stage != moments[place - 1].stage
    ]
    return [
        slice(start, end) for start, end in zip(starts, [*starts[1:], len(moments)], strict=True)
    ]


def _levels(axes: Axes, levels: Sequence[float], words: str) -> None:
    for level in levels:
        axes.axhline(level, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
    axes.annotate(words, (1, levels[-1]), xycoords=("axes fraction", "data"), xytext=(-2, 2),
                  textcoords="offset points", ha="right", va="bottom", color=MUTED)  # fmt: skip


def _stages(axes: Axes, moments: Sequence[Moment], times: Sequence[float]) -> None:
    for part in _by_stage(moments)[1:]:
        axes.axvline(times[part.start], color=MUTED, linewidth=0.6, alpha=0.7)


def _finish(axes: Axes, moments: Sequence[Moment], times: Sequence[float], unit: str) -> None:
    _stages(axes, moments, times)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -1.2), max(high, 2.6))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda power, _: _figure(power)))
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.set_ylabel("E")
    axes.set_xlabel(f"{unit} after the start")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), frameon=False, fontsize=7.5)


def _figure(power: float) -> str:
    if power in (_LOW, _HIGH):  # what lies beyond is drawn here
        return f"{'≤' if power == _LOW else '≥'} {_written(power)}"
    return _written(power)


def _written(power: float) -> str:
    return f"{10**power:g}" if -3 <= power <= 3 else f"1e{power:+.0f}"  # noqa: PLR2004 - readable
