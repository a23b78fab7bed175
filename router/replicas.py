"""Which replica of an arm takes a request. Pure."""

from collections.abc import Collection, Mapping, Sequence


def choose(
    replicas: Sequence[str],
    key: str | None,  # noqa: ARG001 - for the choice by key
    loads: Mapping[str, int],
    available: Collection[str],
) -> str:
    """Choose the replica with the fewest requests under way, the first of several that have as few.

    `loads` has every replica's. Where none is `available`, all are taken to be.
    """
    able = [replica for replica in replicas if replica in available] or list(replicas)
    return min(able, key=lambda replica: loads[replica])
