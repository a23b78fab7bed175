"""Which arm answers a request, and why. Pure: a snapshot and a unit in, a decision out.

**Without a rollout** the tier table decides: the first active tier whose `max_length` holds the
context; the last active tier when none does.

**With a rollout**, a request is in scope when the table *with the candidate active* would send it
to the candidate (`scope: long`), or always (`scope: all`). Out of scope, nothing changes. In scope
the decision is between the two arms of the rollout:

- `shadow`: the incumbent answers; `weight` % of the units are also sent to the candidate;
- `ab`: the candidate answers `weight` % of the units, the incumbent the others; `shadow_sample` %
  are also sent to the arm that does not answer.

**Buckets.** A unit falls into one of 10,000 buckets by a keyed hash (`bucket`), and is in when its
bucket is below `weight x 100`. So a wider stage holds every unit of a narrower one, a unit stays
where it is while nothing changes, no gateway needs to ask another, and a new salt deals anew. The
mirror sample has a salt of its own, so that it says nothing about the assignment.

**An override** names the arm that must answer, in or out of scope. It wins over all of this and has
no fallback: who asks for an arm wants that arm's answer, or its error.

Some requests in scope are outside the statistics (`counted` is False), because nothing random
decided about them: overridden ones, requests without a routing key where keys are the unit (they
stay with the incumbent until the candidate has everything), and all requests while `held`.
"""

import functools
import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, NamedTuple

from rollout.snapshot import BUCKETS, Live, Role, Snapshot, Tier

TooLong = Literal["truncate", "reject"]
MIRROR_SALT: Final = ":mirror"
_EVERYTHING: Final = 100


class Reason(StrEnum):
    """Why a request went where it went. The closed set of `x-turnout-reason`."""

    TIER = "tier"
    """The tier table alone: the first active tier that holds the context."""
    OVERFLOW = "overflow"
    """The tier table alone: no active tier holds the context, so the last one serves its end."""
    SHADOW = "shadow"
    """In scope of a shadow stage: the incumbent answers."""
    BUCKET_IN = "bucket-in"
    """In scope of an A/B stage, and the unit's bucket is the candidate's."""
    BUCKET_OUT = "bucket-out"
    """In scope of an A/B stage, and the unit's bucket is the incumbent's."""
    KEYLESS = "keyless"
    """In scope, keys are the unit, and the request has none."""
    HELD = "held"
    """In scope, and an operator holds this gateway at the incumbent."""
    OVERRIDE = "override"
    """The request names the arm that must answer."""
    TOO_LONG = "too-long"
    """Longer than every tier of the table, and the policy is to reject."""


class Decision(NamedTuple):
    """Where one request goes. `role`, `live` and `fallback` are None outside a rollout's scope."""

    arm: str
    reason: Reason
    live: Live | None = None
    counted: bool = False
    mirror: str | None = None
    """The arm that gets a copy, if any."""
    fallback: str | None = None
    """Who answers when `arm` fails: the incumbent, for a request assigned to the candidate."""
    tier: str | None = None
    """Where the tier table alone decided: who of the whole table, active or not, it is for."""

    @property
    def role(self) -> Role | None:
        """The part that the assigned arm plays in the rollout."""
        return self.live.role(self.arm) if self.live else None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The context is longer than any tier of the table reads. `limit` is in vectors."""

    limit: int
    reason: Reason = Reason.TOO_LONG


def decide(
    length: int,
    snapshot: Snapshot,
    *,
    request_id: str,
    key: str | None = None,
    override: str | None = None,
    held: bool = False,
    too_long: TooLong = "truncate",
) -> Decision | Refusal:
    """Decide about a context of `length` vectors, `length` >= 1.

    `request_id` is the server's name of the request, `key` the client's routing key, `override` the
    arm that it asks for, one of the table. Whether a
    context is too long depends on the whole table and never on the assigned arm: a rollout that
    moves a weight must not turn answers into errors.
    """
    longest = snapshot.tiers[-1].max_length
    if too_long == "reject" and length > longest:
        return Refusal(longest)
    live = snapshot.rollout
    in_scope = live is not None and _in_scope(length, snapshot.tiers, live)
    if override is not None:
        return Decision(override, Reason.OVERRIDE, live if in_scope else None)
    if live is None or not in_scope:
        tier = serving_tier(length, tuple(tier for tier in snapshot.tiers if tier.active))
        reason = Reason.TIER if length <= tier.max_length else Reason.OVERFLOW
        return Decision(tier.arm, reason, tier=serving_tier(length, snapshot.tiers).arm)
    if held:
        return Decision(live.incumbent, Reason.HELD, live)
    unit = request_id if live.unit == "request" else key
    if unit is None:
        everything = live.mode == "ab" and live.weight >= _EVERYTHING
        arm = live.candidate if everything else live.incumbent
        return Decision(arm, Reason.KEYLESS, live, fallback=_fallback(arm, live))
    return _split(unit, live)


def serving_tier(length: int, tiers: tuple[Tier, ...]) -> Tier:
    """Return the first of `tiers` that holds `length` vectors, or the last when none does."""
    return next((tier for tier in tiers if length <= tier.max_length), tiers[-1])


def bucket(salt: str, unit: str) -> int:
    """Deal a unit into one of 10,000 buckets: keyed BLAKE2b, 8 bytes, big-endian, modulo 10,000.

    The salt is BLAKE2b's key (RFC 7693); one of more than 64 bytes is hashed first.
    """
    hashing = _keyed(salt).copy()
    hashing.update(unit.encode(errors="surrogatepass"))
    return int.from_bytes(hashing.digest(), "big") % BUCKETS


@functools.lru_cache(maxsize=64)
def _keyed(salt: str) -> hashlib.blake2b:
    """Begin to hash with a salt. There are a few at any time."""
    key = salt.encode()
    if len(key) > hashlib.blake2b.MAX_KEY_SIZE:
        key = hashlib.blake2b(key).digest()
    return hashlib.blake2b(digest_size=8, key=key)


def within(salt: str, unit: str, percent: float) -> bool:
    """Whether a unit is among the first `percent` % of the buckets, to a hundredth of a percent."""
    return bucket(salt, unit) < round(percent * BUCKETS / 100)


def _in_scope(length: int, tiers: tuple[Tier, ...], live: Live) -> bool:
    if live.scope == "all":
        return True
    with_candidate = tuple(tier for tier in tiers if tier.active or tier.arm == live.candidate)
    return serving_tier(length, with_candidate).arm == live.candidate


def _split(unit: str, live: Live) -> Decision:
    mirror_salt = live.salt + MIRROR_SALT
    if live.mode == "shadow":
        sampled = within(mirror_salt, unit, live.weight)
        mirror = live.candidate if sampled else None
        return Decision(live.incumbent, Reason.SHADOW, live, counted=True, mirror=mirror)
    chosen = within(live.salt, unit, live.weight)
    arm, other = (live.candidate, live.incumbent) if chosen else (live.incumbent, live.candidate)
    return Decision(
        arm,
        Reason.BUCKET_IN if chosen else Reason.BUCKET_OUT,
        live,
        counted=True,
        mirror=other if within(mirror_salt, unit, live.shadow_sample) else None,
        fallback=_fallback(arm, live),
    )


def _fallback(arm: str, live: Live) -> str | None:
    return live.incumbent if arm == live.candidate else None
