"""What synthetic traffic is like: how often each arm fails, is slow, is right. Pure.

A world is drawn for one plan: its latency budget says where the incumbent's latency lies, and its
unit says whether requests come with keys. Everything else is a level that a person may set.

Shares are between 0 and 1 here, as in every formula; percent is for people.
"""

from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rollout.snapshot import Mark, Role

Floats = NDArray[np.float64]
Drift = Literal["none", "trend", "ar1"]
ROLES: Final[tuple[Role, Role]] = ("incumbent", "candidate")
STRATA: Final = {"101-200": 0.4, "201-350": 0.35, "351-500": 0.25}
"""The context lengths in scope, and their shares of the traffic."""
SIGMA: Final = 0.5
"""Of the logarithm of a latency (lognormal)."""
PERSISTENCE: Final = 0.97
"""Of the AR(1) drift, from one minute to the next."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm by itself. `hits` are Hit@1/5/10, `median_s` is the median latency."""

    error: float
    hits: tuple[float, float, float]
    median_s: float


@dataclass(frozen=True, slots=True)
class Concord:
    """How much of an outcome is the request's own: 0 independent arms, 1 the same fate.

    P(both) = p q + k (min(p, q) - p q). 0.586 on hits leaves 20 % of the pairs discordant where
    both arms hit 59.3 %.
    """

    errors: float = 0.3
    latency: float = 0.5
    hits: float = 0.586


class Arrival(NamedTuple):
    """A part of the truths: how long after the request they come, and of which answers."""

    delay: float
    """In label windows: what comes after 1 is never counted."""
    of_hits: float
    """Share of the truths of requests whose first five answers held it."""
    of_misses: float


AT_ONCE: Final = (Arrival(0.02, 1.0, 1.0),)
LATE: Final = (
    Arrival(0.2, 0.55, 0.25),
    Arrival(0.6, 0.25, 0.30),
    Arrival(0.95, 0.10, 0.35),
    Arrival(1.5, 0.10, 0.10),
)
"""Misses are told later than hits; a tenth of either comes too late."""


@dataclass(frozen=True, slots=True)
class Group:
    """Requests that are alike: a stratum, or the keys of one activity and quality in it."""

    stratum: str
    share: float
    """Of all requests."""
    harm: float = 0.0
    """Added to the log-odds of an error, taken from those of a hit."""
    per_key: float = 0.0
    """Requests of each key in an hour; 0 where requests have no keys."""


@dataclass(frozen=True, slots=True)
class World:
    """Everything that traffic is drawn from. `rps` are requests per second in scope."""

    rps: float
    incumbent: Arm
    candidate: Arm
    groups: tuple[Group, ...]
    concord: Concord = field(default_factory=Concord)
    drift: Drift = "none"
    arrivals: tuple[Arrival, ...] = AT_ONCE
    labelled: float = 0.95
    """Share of the answered requests that get a truth, ever."""
    mirror_lost: float = 0.005
    """Share of the intended mirrors that a full queue drops."""

    def arm(self, role: Role) -> Arm:
        """Give the arm of a role."""
        return self.candidate if role == "candidate" else self.incumbent

    @property
    def keyed(self) -> bool:
        """Whether requests have routing keys, and assignment is sticky to them."""
        return any(group.per_key for group in self.groups)


def plain_groups() -> tuple[Group, ...]:
    """Make one group of each stratum: every request stands for itself."""
    return tuple(Group(name, share) for name, share in STRATA.items())


ACTIVITIES: Final = 6
"""Levels of activity; each has a quarter of the keys of the one below, and as much traffic."""
RATIO: Final = 4
SPREAD: Final = 1.0
"""Log-odds by which a key's own quality lies off the middle, one way or the other."""


def keyed_groups(busiest_per_hour: float) -> tuple[Group, ...]:
    """Make groups of keys: heavy-tailed in activity, half of each level good and half bad.

    A few keys with a thousand requests each, sticky to one arm, are what breaks a per-request
    analysis: their requests are not independent.
    """
    strata = tuple(STRATA)
    return tuple(
        Group(
            stratum=strata[(2 * level + bad) % len(strata)],
            share=1 / (2 * ACTIVITIES),
            harm=SPREAD if bad else -SPREAD,
            per_key=busiest_per_hour / RATIO ** (ACTIVITIES - 1 - level),
        )
        for level in range(ACTIVITIES)
        for bad in (0, 1)
    )


# --- how it moves --------------------------------------------------------------------------------


class Effect(NamedTuple):
    """What one unit of drift does to both arms alike."""

    error: float
    """Added to the log-odds of an error."""
    hit: float
    """Added to the log-odds of a hit."""
    latency: float
    """Added to the logarithm of a latency."""


EFFECTS: Final[dict[Drift, Effect]] = {
    "none": Effect(0, 0, 0),
    "trend": Effect(np.log(3.0), -0.35, 0.1),
    "ar1": Effect(0.35, -0.15, 0.05),
}


def drift_path(kind: Drift, times: Floats, lasts: float, rng: np.random.Generator) -> Floats:
    """Draw how far both arms have drifted at `times` (seconds, evenly spaced): about -3 to 3.

    `trend` rises from 0 to 1 over a rollout that `lasts` so many seconds; `ar1` is stationary with
    a standard deviation of 1, and begins anew with each path.
    """
    if kind == "none":
        return np.zeros(len(times))
    if kind == "trend":
        return np.clip(times / lasts, 0, 1)
    phi = PERSISTENCE ** ((times[1] - times[0]) / 60 if len(times) > 1 else 1)
    steps = rng.normal(0, np.sqrt(1 - phi * phi), len(times)).tolist()
    level, path = float(rng.normal()), list[float]()
    for step in steps:
        path.append(level)
        level = phi * level + step
    return np.array(path)


# --- chances -------------------------------------------------------------------------------------


def logit_shifted(share: float, shift: Floats) -> Floats:
    """Move a share by `shift` on the scale of log-odds; 0 and 1 stay."""
    if share in (0.0, 1.0):
        return np.full_like(shift, share)
    moved: Floats = special.expit(special.logit(share) + shift)
    return moved


def error_chance(world: World, role: Role, drift: Floats) -> Floats:
    """Chances of an error: `[grains, groups]`."""
    harm = np.array([group.harm for group in world.groups])
    shift = EFFECTS[world.drift].error * drift[:, None] + harm
    return logit_shifted(world.arm(role).error, shift)


def over_chance(world: World, role: Role, mark: Mark, drift: Floats) -> Floats:
    """Chances of taking longer than the role's side of a mark: `[grains, groups]`."""
    side = mark.candidate if role == "candidate" else mark.incumbent
    ahead = np.log(side / world.arm(role).median_s) - EFFECTS[world.drift].latency * drift
    chance: Floats = special.ndtr(-ahead / SIGMA)
    return np.repeat(chance[:, None], len(world.groups), axis=1)


def rank_chances(world: World, role: Role, drift: Floats) -> Floats:
    """Chances that the truth stands at 1, 2-5, 6-10, or below: `[grains, groups, 4]`."""
    harm = np.array([group.harm for group in world.groups])
    shift = EFFECTS[world.drift].hit * drift[:, None] - harm
    within = [logit_shifted(share, shift) for share in world.arm(role).hits]
    edges = np.stack([np.zeros_like(shift), *within, np.ones_like(shift)], axis=-1)
    return np.diff(edges, axis=-1)


def together(one: Floats, other: Floats, concord: float) -> Floats:
    """Chances of both arms' categories together: `[..., a]` and `[..., b]` to `[..., a, b]`.

    A mixture of independence and of the same fate; the margins are kept.
    """
    apart = one[..., :, None] * other[..., None, :]
    ends, others = np.cumsum(one, axis=-1), np.cumsum(other, axis=-1)
    upper = np.minimum(ends[..., :, None], others[..., None, :])
    lower = np.maximum((ends - one)[..., :, None], (others - other)[..., None, :])
    same = np.clip(upper - lower, 0, None)
    joint: Floats = (1 - concord) * apart + concord * same
    return joint
