"""Every key in Redis: its name, its type, and what it holds, in the words of the snapshot. Pure."""


class Keys:
    """The names. One hash tag, so that a script may touch them together in a cluster."""

    def __init__(self, namespace: str = "turnout") -> None:
        self.prefix = f"{{{namespace}}}:"
        self.snapshot = f"{self.prefix}snapshot"
        """String: the Snapshot as JSON. Written only by transition.lua."""
        self.record = f"{self.prefix}record"
        """String: the controller's record of the rollout, as JSON. Written with the snapshot."""
        self.records = f"{self.prefix}records"
        """Hash: rollout -> its Record as JSON: the present one and the last ones that ended."""
        self.rollouts = f"{self.prefix}rollouts"
        """List: the rollouts in `records`, newest first."""
        self.lease = f"{self.prefix}lease"
        """String, with a TTL: `holder:token` of the controller that acts by itself."""
        self.fence = f"{self.prefix}fence"
        """String: the newest token of a lease. It only grows."""
        self.audit = f"{self.prefix}audit"
        """Stream: one entry per transition, in order."""
        self.changed = f"{self.prefix}changed"
        """Channel: the new snapshot's JSON, on every transition."""
        self.gateways = f"{self.prefix}gateways"
        """Hash: boot -> Heartbeat as JSON. A gateway that ends takes its own away; one that starts
        takes away those that fell silent."""

    def idempotency(self, key: str) -> str:
        """Name a string, with a TTL: the outcome of the command that carried this key."""
        return f"{self.prefix}idempotency:{key}"

    def counts(self, rollout: str, evidence_epoch: int, stage: str) -> str:
        """Name a hash, a stage's totals over all minutes: `-|stratum|counter` -> integer."""
        return f"{self.prefix}counts:{rollout}:{evidence_epoch}:{stage}"

    def minute(self, rollout: str, evidence_epoch: int, stage: str, minute: int) -> str:
        """Name a hash, with a TTL: the part of one minute, `minute|stratum|counter` -> integer."""
        return f"{self.counts(rollout, evidence_epoch, stage)}:{minute}"

    def labels(self, rollout: str, evidence_epoch: int, stage: str, slot: int) -> str:
        """Name a hash, with a TTL: the labels of one slot, `slot|stratum|counter` -> integer."""
        return f"{self.counts(rollout, evidence_epoch, stage)}:labels:{slot}"

    def seen(self, rollout: str, evidence_epoch: int, stage: str, metric: str) -> str:
        """Name a set, bounded, with a TTL: digests of the routing keys that a metric has seen."""
        return f"{self.counts(rollout, evidence_epoch, stage)}:seen:{metric}"

    def background(self, place: str, hour: int) -> str:
        """Name a hash, with a TTL: an hour of a place outside rollouts (`rollout.background`)."""
        return f"{self.prefix}background:{place}:{hour}"

    def samples(self, rollout: str, evidence_epoch: int, stage: str) -> str:
        """Name a sorted set of Sample as JSON, by agreement: a stage's lowest ones, capped."""
        return f"{self.prefix}samples:{rollout}:{evidence_epoch}:{stage}"

    def slice(self, rollout: str, evidence_epoch: int, stage: str, slice_: int) -> str:
        """Name a string, with a TTL of the label window: whose Vectors are kept of a slice of time.

        `rank key`: the rank of the request, and the key of its vectors.
        """
        return f"{self.counts(rollout, evidence_epoch, stage)}:slice:{slice_}"

    def truths(self, rollout: str, evidence_epoch: int, stage: str) -> str:
        """Name a hash: request id of each of `samples` -> the id of its truth, "" until it came."""
        return f"{self.counts(rollout, evidence_epoch, stage)}:truths"

    def trace(self, rollout: str) -> str:
        """Name a capped list of Point as JSON, oldest first: what the evidence was over time."""
        return f"{self.prefix}trace:{rollout}"

    def sequence(self, boot: str) -> str:
        """Name a string, with a TTL: the last batch of this gateway that was counted."""
        return f"{self.prefix}sequence:{boot}"

    def vectors(self, request_id: str) -> str:
        """Name a string, with a TTL of the label window: the Vectors of a request, as JSON."""
        return f"{self.pending(request_id)}:vectors"

    def pending(self, request_id: str) -> str:
        """Name a string, with a TTL of the label window: a Pending, then the label it got."""
        return f"{self.prefix}pending:{request_id}"
