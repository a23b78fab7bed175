"""Which replica of an arm takes a request. Pure.

Without a routing key, the one with the fewest requests under way. With one, the same replica each
time, because it holds the states of this key's earlier contexts: rendezvous hashing, so that a
replica that joins or leaves moves its own keys alone; with bounded loads, so that one key that asks
for much does not drown its replica while others idle (Mirrokni et al., 1608.01350).
"""

from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from typing import Final

BOUND: Final = 1.25
"""How far above its fair share a key's replica may be loaded before the next one takes over."""


def choose(
    replicas: Sequence[str], key: str | None, loads: Mapping[str, int], available: Collection[str]
) -> str:
    """Choose one of `replicas`; `loads` has the number of requests under way with each.

    Where none is `available`, all are taken to be. Raises ValueError for no replicas at all.
    """
    if not replicas:
        raise ValueError("an arm has at least one replica")
    able = [replica for replica in replicas if replica in available] or list(replicas)
    if key is None:
        return min(able, key=lambda replica: loads[replica])
    under_way = sum(loads[replica] for replica in able)
    bound = BOUND * (under_way + 1) / len(able)
    order = sorted(able, key=lambda replica: rank(key, replica))
    # The least loaded one has at most the mean, so it is below the bound.
    return next(replica for replica in order if loads[replica] < bound)


def rank(key: str, replica: str) -> bytes:
    """Give a replica's place in the order in which a key prefers them: the smallest comes first."""
    return blake2b(f"{replica}\n{key}".encode(), digest_size=8).digest()
