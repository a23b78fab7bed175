"""What a rollout may do to the tier table, and what may not happen to it. Pure.

The table says which arm serves which length. What serves changes by a rollout and in no other way,
and a rollout changes hands by its weight and in no other way: so a start is refused where it would
move traffic that is not part of the split, and where the settings have come to say something else
than the store about who serves.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar

from rollout.errors import RolloutError
from rollout.snapshot import Scope, Tier


class CannotStart(RolloutError):  # noqa: N818 - the name is the sentence
    """A plan that the present tier table cannot carry out. Nothing was changed."""

    status: ClassVar[int] = 409


def incumbent_of(candidate: str, tiers: tuple[Tier, ...]) -> str:
    """Name the active tier below the candidate. Raises CannotStart where there is none."""
    arms = [tier.arm for tier in tiers]
    if candidate not in arms:
        raise CannotStart(
            f"the candidate {candidate!r} is no tier: the table has {', '.join(arms)}"
        )
    place = arms.index(candidate)
    if tiers[place].active:
        raise CannotStart(f"the candidate {candidate!r} is active already: nothing to roll out")
    below = [tier.arm for tier in tiers[:place] if tier.active]
    if not below:
        raise CannotStart(f"no active tier below {candidate!r} could be its incumbent")
    return below[-1]


def check_scope(scope: Scope, candidate: str, incumbent: str, tiers: tuple[Tier, ...]) -> None:
    """Raise CannotStart where an arm other than the incumbent serves a length in scope now.

    A rollout splits between two arms. Had a third one served some of its scope, all of that would
    change hands at the start, whatever the weight. A `long` scope lies above the incumbent.
    """
    served = _served(tiers)
    arms = list(served)
    inside = arms if scope == "all" else arms[arms.index(incumbent) :]
    others = [f"{arm} (contexts of {served[arm]} vectors)" for arm in inside if arm != incumbent]
    if others:
        raise CannotStart(
            f"a rollout of {candidate!r} over scope {scope!r} splits traffic between it and "
            f"{incumbent!r}, but some of that is served now by {' and '.join(others)}, and all of "
            "it would change hands at once; roll out a candidate above every active tier, with "
            "scope 'long'"
        )


def _served(tiers: tuple[Tier, ...]) -> dict[str, str]:
    """Say which lengths each active tier serves; the last one also serves what is too long."""
    active = [tier for tier in tiers if tier.active]
    served, low = {}, 1
    for tier in active[:-1]:
        served[tier.arm] = f"{low} to {tier.max_length}"
        low = tier.max_length + 1
    return served | {active[-1].arm: f"{low} and more"}


def merge_tiers(settings: tuple[Tier, ...], stored: tuple[Tier, ...]) -> tuple[Tier, ...]:
    """Take the tiers from the settings, and which of them are active from the stored table.

    The outcome of earlier rollouts wins over the settings. A tier may join, change or leave while
    it is inactive. Raises CannotStart where the active tiers would differ from those of a `stored`
    table that is not empty: what serves today changes by a rollout and in no other way.
    """
    active = {tier.arm: tier.active for tier in stored}
    merged = tuple(
        tier.model_copy(update={"active": active.get(tier.arm, tier.active)}) for tier in settings
    )
    serving, would = (_lengths(tier for tier in table if tier.active) for table in (stored, merged))
    if stored and serving != would:
        raise CannotStart(
            f"the settings' tier table (TURNOUT_TIERS) would have {_told(would)} serve, where "
            f"{_told(serving)} serves now; set these back, or give what is new a tier of its own "
            "that is not active, and roll that out"
        )
    return merged


def table_changes(before: tuple[Tier, ...], after: tuple[Tier, ...]) -> tuple[str, ...]:
    """Say in words how a table's tiers and their lengths change; whether they are active is not."""
    old, new = _lengths(before), _lengths(after)
    return (
        *(f"{arm} leaves" for arm in old if arm not in new),
        *(f"{arm} joins, up to {new[arm]}" for arm in new if arm not in old),
        *(
            f"{arm} reads up to {new[arm]} instead of {old[arm]}"
            for arm in new
            if arm in old and new[arm] != old[arm]
        ),
    )


def _lengths(tiers: Iterable[Tier]) -> dict[str, int]:
    return {tier.arm: tier.max_length for tier in tiers}


def _told(lengths: Mapping[str, int]) -> str:
    return " and ".join(f"{arm} up to {longest}" for arm, longest in lengths.items()) or "nothing"
