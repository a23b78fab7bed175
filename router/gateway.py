"""One prediction request: measure -> decide -> forward -> answer -> record.

**Assignment is not health.** Who is assigned follows from the snapshot alone. When the assigned
candidate fails, the incumbent answers within the same deadline, and the failure is still the
candidate's, as is the time that the client waited. The client's deadline covers everything and is
never extended; so that a candidate that hangs leaves time for the fallback, its own attempt gets a
share of it, and a candidate whose replicas are all ejected fails at once. A candidate's refusal is
taken for the client's mistake only when the incumbent refuses too: an arm must not turn its clients
away where the other would serve them.

A client that leaves takes its request along. What the client waited still counts for the assigned
arm, since patience runs out with the slow arm first; its answer does not.

Backends are always asked for at least ten neighbours, because a label is judged by the first ten;
the client gets as many as it asked for.

The floats of a request may still be arriving while it is decided and forwarded. All attempts read
them from one place.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from backends.protocol import Prediction, PrefixOutcome
from backends.serving.sparing import Sparing
from rollout.snapshot import Cell, Position, Snapshot
from router.access import ARM_HEADER
from router.assignment import Decision, Reason, Refusal, TooLong, decide
from router.body import Question
from router.errors import (
    FailureKind,
    HeldError,
    TooLongError,
    UnknownArmError,
)
from router.metrics import Metrics, status_class
from router.observe import Observer
from router.record import Admission, Attempt, Passing, Record, failure_of, pending_of
from router.shadow import Copy, Mirror, Settled
from router.snapshots import Snapshots
from router.upstream import Patience, Upstream

NOBODY: Final = "-"
LEFT: Final = "left"
"""Stands for the status of an answer that nobody waited for."""
CANDIDATE_SHARE: Final = 0.5
"""Of the time that is left, what an arm with a fallback may use."""


class Outcome(NamedTuple):
    """What became of a request. `answered` is the client's answer, or the last error."""

    admission: Admission
    position: Position
    decision: Decision
    assigned: Attempt
    answered: Attempt

    @property
    def arm(self) -> str:
        """Who answered; `-` for nobody."""
        return self.answered.arm if self.answered.error is None else NOBODY

    @property
    def status(self) -> int:
        """The HTTP status that this outcome hints."""
        return self.answered.error.status if self.answered.error else 200

    @property
    def stage(self) -> str:
        """The rollout's stage, for a request in its scope; else `-`."""
        return self.decision.live.stage if self.decision.live else NOBODY


class Gateway:
    """Answers requests with the snapshot in force. `timeout_s` bounds a request's whole stay."""

    def __init__(
        self,
        snapshots: Snapshots,
        upstream: Upstream,
        mirror: Mirror,
        observer: Observer,
        metrics: Metrics,
        *,
        timeout_s: float,
        too_long: TooLong,
        label_window_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._snapshots = snapshots
        self._upstream = upstream
        self._mirror = mirror
        self._observer = observer
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._too_long = too_long
        self._label_window_s = label_window_s
        self._clock = clock
        self._lines = Sparing("router")
        self._tells_all = self._lines.verbose

    async def predict(
        self,
        question: Question,
        admission: Admission,
        *,
        timeout_s: float | None = None,
        override: str | None = None,
    ) -> Outcome:
        """Answer one request; `timeout_s` is the client's deadline, counted from the admission.

        `override` names the arm that must answer. An arm's failure is part of the outcome. Raises
        TooLongError under the policy `reject`; UnknownArmError and HeldError about an override;
        LateBodyError when the client had not sent its floats in time.
        """
        snapshot = self._snapshots.current
        decision = self._decide(question, admission, snapshot, override)
        limit_s = self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s)
        copy = self._start_copy(question, admission, decision)
        settled: Settled | None = None
        tried: list[Attempt] = []
        try:
            settled = await self._forward(
                question, admission, decision, deadline=admission.started + limit_s, tried=tried
            )
        except asyncio.CancelledError:
            if question.body.whole:  # else it never was a request
                self._record_left(question, admission, decision, tried)
            raise
        finally:
            if copy:
                # An answer to a body that is still arriving is a refusal: nothing to compare.
                copy.settle(settled if question.body.whole else None)
        outcome = Outcome(
            admission, snapshot.position, decision, settled.assigned, settled.answered
        )
        # After the answer, which is written without a turn of the loop in between.
        asyncio.get_running_loop().call_soon(
            partial(
                self._record,
                question,
                outcome,
                seconds=self._clock() - admission.started,
                copied=copy is not None,
            )
        )
        prediction, most = settled.answered.prediction, question.terms.top_k
        if prediction is None or prediction.ids.size <= most:
            return outcome
        trimmed = settled.answered._replace(prediction=_trim(prediction, most))
        return outcome._replace(answered=trimmed)

    def _decide(
        self, question: Question, admission: Admission, snapshot: Snapshot, override: str | None
    ) -> Decision:
        if override is not None:
            self._check_override(override, snapshot)
        ruling = decide(
            question.length,
            snapshot,
            request_id=admission.request_id,
            key=question.terms.key,
            override=override,
            held=self._snapshots.held,
            too_long=self._too_long,
        )
        if isinstance(ruling, Refusal):
            status = status_class(TooLongError.status)
            self._metrics.requests.labels(NOBODY, ruling.reason, status).inc()
            raise TooLongError(
                f"the context has {question.length} vectors: the longest that a model here reads "
                f"is {ruling.limit}, and this service does not truncate"
            )
        return ruling

    def _check_override(self, arm: str, snapshot: Snapshot) -> None:
        arms = [tier.arm for tier in snapshot.tiers if tier.arm in self._upstream.arms]
        if arm not in arms:
            raise UnknownArmError(
                f"{ARM_HEADER} names {arm[:40]!r}: the arms with a backend are {', '.join(arms)}"
            )
        live = snapshot.rollout
        if self._snapshots.held and live and arm == live.candidate:
            raise HeldError(
                f"{ARM_HEADER} names {arm}, the candidate, and an operator holds this gateway at "
                f"the incumbent: leave the header out, or name {live.incumbent}"
            )

    def _start_copy(
        self, question: Question, admission: Admission, decision: Decision
    ) -> Copy | None:
        if decision.mirror is None or decision.live is None or decision.role is None:
            return None
        return self._mirror.start(
            question,
            admission,
            live=decision.live,
            assigned=decision.role,
            arm=decision.mirror,
        )

    async def _forward(
        self,
        question: Question,
        admission: Admission,
        decision: Decision,
        *,
        deadline: float,
        tried: list[Attempt],
    ) -> Settled:
        """Let the assigned arm answer, and its fallback when it fails; note each in `tried`."""
        name = admission.request_id
        share = 1.0 if decision.fallback is None else CANDIDATE_SHARE
        first = await self._upstream.attempt(
            decision.arm,
            question,
            patience=Patience(deadline, share),
            request_id=name,
            must_answer=decision.fallback is None,
        )
        tried.append(first)
        if first.error is None or decision.fallback is None:
            return Settled(first, first)
        second = await self._upstream.attempt(
            decision.fallback, question, patience=Patience(deadline), request_id=name
        )
        return Settled(first, second)

    def _record(
        self, question: Question, outcome: Outcome, *, seconds: float, copied: bool
    ) -> None:
        admission, decision = outcome.admission, outcome.decision
        arm, answered = outcome.arm, outcome.answered
        failure = failure_of(outcome.assigned, answered)
        if failure is not None or self._tells_all:
            self._tell(outcome, failure, seconds)
        self._metrics.requests.labels(arm, decision.reason, status_class(outcome.status)).inc()
        self._metrics.request_seconds.labels(arm).observe(seconds)
        cell = self._observe(
            question,
            admission,
            decision,
            seconds=seconds,
            failure=failure,
            prefix=outcome.assigned.prefix,
            fell_back=answered.arm != decision.arm and arm != NOBODY,
            mirrored=decision.mirror is not None,
        )
        if not copied and arm != NOBODY:
            self._pend(question, outcome, cell if decision.counted else None)
        if decision.tier is not None and arm != NOBODY:
            keyed = question.terms.key is not None
            self._observer.passing(Passing(admission, decision.tier, arm, keyed, seconds))

    def _tell(self, outcome: Outcome, failure: FailureKind | None, seconds: float) -> None:
        """Write what became of a request into the log, for whoever comes with its name."""
        tell = self._lines.debug if failure is None else self._lines.warning
        tell(
            "answered" if failure is None else "the assigned arm failed",
            request_id=outcome.admission.request_id,
            assigned=outcome.decision.arm,
            answered=outcome.arm,
            status=outcome.status,
            reason=str(outcome.decision.reason),
            ms=round(1e3 * seconds, 1),
            **({} if failure is None else {"kind": str(failure)}),
            **({} if outcome.assigned.error is None else {"error": str(outcome.assigned.error)}),
        )

    def _record_left(
        self, question: Question, admission: Admission, decision: Decision, tried: list[Attempt]
    ) -> None:
        """Count a request whose client left: as assigned and waited for, not as served."""
        self._metrics.requests.labels(NOBODY, decision.reason, LEFT).inc()
        failure = tried[0].failure if tried else None
        self._observe(
            question,
            admission,
            decision,
            seconds=self._clock() - admission.started,
            failure=failure,
            fell_back=False,
            mirrored=False,
        )

    def _observe(
        self,
        question: Question,
        admission: Admission,
        decision: Decision,
        *,
        seconds: float,
        failure: FailureKind | None,
        fell_back: bool,
        mirrored: bool,
        prefix: PrefixOutcome | None = None,
    ) -> Cell | None:
        """Report a request in scope of a rollout; say where it counts."""
        role = decision.role
        if decision.live is None or role is None:
            return None
        return self._observer.record(
            Record(
                admission,
                question.length,
                decision.live,
                role,
                counted=decision.counted,
                keyless=decision.reason is Reason.KEYLESS,
                overridden=decision.reason is Reason.OVERRIDE,
                failure=failure,
                fell_back=fell_back,
                mirrored=mirrored,
                seconds=seconds,
                key=question.terms.key,
                prefix=prefix,
            )
        )

    def _pend(self, question: Question, outcome: Outcome, cell: Cell | None) -> None:
        self._observer.pend(
            pending_of(
                outcome.admission,
                answered=outcome.answered,
                cell=cell,
                live=outcome.decision.live,
                assigned=outcome.decision.role,
                key=question.terms.key,
                label_window_s=self._label_window_s,
            )
        )


def _trim(prediction: Prediction, top_k: int) -> Prediction:
    ids, scores = prediction.ids[:top_k], prediction.scores[:top_k]
    return prediction._replace(ids=ids, scores=scores, tensors=None)
