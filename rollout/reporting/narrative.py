"""The report in words: the notice above it, its plain summary, and what each figure means. Pure.

Sentences only repeat figures of the document, in the wording of the page. Stages are not pooled: a
sentence speaks of the last stage that has the evidence.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from rollout import wording
from rollout.machine import AuditEntry, State
from rollout.reporting.document import Headline, Model, Note, StageReport, Totals
from rollout.snapshot import RELATIVE_ERROR, Arm
from rollout.tally import AGREEMENTS
from rollout.verdict import Kind

UNTRAINED: Final = (
    "untrained weights: these arms start from fixed seeds; "
    "agreement and hit rates say nothing about the trained models"
)
UNIDENTIFIED: Final = (
    "not every backend has told what it computes with: the models are not identified"
)


def notice(headline: Headline, models: Mapping[Arm, Model]) -> str | None:
    """Say what must be read before any figure; None when the figures stand by themselves."""
    if not all(model.trained for model in models.values()):
        return UNTRAINED
    return None if {headline.incumbent, headline.candidate} <= models.keys() else UNIDENTIFIED


def summary(
    headline: Headline,
    totals: Totals,
    stages: tuple[StageReport, ...],
    models: Mapping[Arm, Model],
    audit: Sequence[AuditEntry],
) -> list[str]:
    """The report in a few plain sentences; the last evidence counts, stages are not pooled."""
    sentences = [_traffic_sentence(headline, totals), _state_sentence(headline, audit)]
    judged = [stage for stage in stages if stage.verdict]
    sentences.append(_verdict_sentence(judged))
    sentences += _reported_sentences(judged)
    paired = [stage for stage in stages if stage.agreement["cosine"].n]
    if paired:
        sentences.append(_agreement_sentence(paired[-1]))
    else:
        sentences.append("No request was answered by both arms, so there is no agreement to show.")
    labelled = [stage for stage in stages if stage.labelled_pairs]
    if labelled:
        sentences.append(_hits_sentence(headline, labelled[-1]))
    if near := [stage for stage in stages if stage.nearness.n]:
        sentences.append(_nearness_sentence(headline, near[-1]))
    if not all(model.trained for model in models.values()):
        sentences.append(
            "The weights are untrained, so read these figures as a test of the machinery only."
        )
    return sentences


def _traffic_sentence(headline: Headline, totals: Totals) -> str:
    if totals.candidate_percent is None:
        return "No request in scope was counted."
    return (
        f"{headline.candidate} was given {wording.percent(totals.candidate_percent)} of "
        f"{wording.count(totals.requests)} requests in scope to answer, and "
        f"{headline.incumbent} the rest; {wording.count(totals.compared)} requests were answered "
        "by both and compared."
    )


_STATES: Final[Mapping[State, str]] = {
    "succeeded": "The rollout succeeded after {span}: it went through its last stage.",
    "aborted": "The rollout was aborted after {span}, in the stage {stage}.",
    "rolled_back": "The guard rolled the rollout back after {span}, in the stage {stage}.",
    "undone": "The rollout succeeded after {span}, and was undone later.",
    "waiting": "An approval of the stage {stage} is awaited, {span} after the start.",
    "held": "The rollout is held in the stage {stage}, {span} after its start.",
    "paused": "The rollout is paused in the stage {stage}, {span} after its start.",
    "running": "The rollout is in the stage {stage}, {span} after its start.",
}


_EXPLAINED: Final[frozenset[State]] = frozenset({"aborted", "rolled_back", "undone", "held"})


def _state_sentence(headline: Headline, audit: Sequence[AuditEntry]) -> str:
    span = wording.span(headline.duration_s)
    told = _STATES[headline.state].format(span=span, stage=headline.stage)
    why = audit[-1].reason if audit and audit[-1].rollout == headline.rollout else ""
    if headline.state in _EXPLAINED and why:
        return f"{told} The reason given: {why.rstrip('.')}."
    return told


def _verdict_sentence(judged: Sequence[StageReport]) -> str:
    if not judged or judged[-1].verdict is None:
        return "No stage has been judged yet."
    last, verdict = judged[-1], judged[-1].verdict
    told = f"{verdict.kind}, {verdict.reason.rstrip('.')}"
    if last.judged == "on leaving":
        return f"When the stage {last.stage} was left, its gate said {told}."
    return f"At the time of this report the gate of {last.stage} says {told}."


def _reported_sentences(judged: Sequence[StageReport]) -> Iterator[str]:
    """Say what became of targets and agreement, which decide only where the plan requires it."""
    verdict = judged[-1].verdict if judged else None
    for metric, what in (("targets", "Of the targets"), ("agreement", "Of the agreement floors")):
        found = [
            check
            for check in (verdict.checks if verdict else ())
            if check.evidence and check.evidence.metric in _METRICS[metric]
        ]
        if not found:
            continue
        told = "; ".join(
            f"{check.name} {_OUTCOMES[check.kind]} ({check.observed}; to be shown: "
            f"{check.required.partition(':')[0]})"
            for check in found
        )
        decides = any(check.decides for check in found)
        rest = "" if decides else "; the gate reports them and requires none of them"
        yield f"{what} at {judged[-1].stage}: {told}{rest}."


_METRICS: Final[Mapping[str, frozenset[str]]] = {
    "targets": frozenset({"targets"}), "agreement": frozenset(AGREEMENTS),
}  # fmt: skip
_OUTCOMES: Final[Mapping[Kind, str]] = {
    "PASS": "was reached", "FAIL": "was missed", "INCONCLUSIVE": "is undecided",
    "ERROR": "could not be measured",
}  # fmt: skip


def _agreement_sentence(stage: StageReport) -> str:
    cosine, overlap = stage.agreement["cosine"], stage.agreement["overlap10"]
    return (
        f"On the {wording.count(cosine.n)} pairs of {stage.stage} the two predictions had a mean "
        f"cosine of {wording.write(cosine.mean, 'score')}, and their first ten neighbours "
        f"overlapped by {wording.write(overlap.mean, 'score')} on average."
    )


def _hits_sentence(headline: Headline, stage: StageReport) -> str:
    outcomes, difference = stage.pair_hits[5], stage.pair_differences[5]
    return (
        f"Where the truth arrived for both arms ({wording.count(stage.labelled_pairs)} pairs of "
        f"{stage.stage}), it was among the first five of {headline.candidate} alone "
        f"{wording.count(outcomes['01'])} times and of {headline.incumbent} alone "
        f"{wording.count(outcomes['10'])} times: a difference of "
        f"{wording.write(difference.points, 'points')}, with a 95 % confidence sequence from "
        f"{wording.write(difference.low, 'points')} to {wording.write(difference.high, 'points')}."
    )


def _nearness_sentence(headline: Headline, stage: StageReport) -> str:
    found = stage.nearness
    difference, low, high = (
        wording.write(value, "offset") for value in (found.difference, found.low, found.high)
    )
    return (
        f"On {wording.count(found.n)} of the pairs of {stage.stage} whose truth has come, the "
        f"cosine of {headline.candidate}'s prediction to it minus that of {headline.incumbent}'s "
        f"was {difference} on average, with a 95 % confidence sequence from {low} to {high}."
    )


NOTES: Final = (
    Note(
        about="Assignment",
        text="A request belongs to the arm it was assigned to, even if the other arm answered it "
        "after a failure. So an arm's errors are failed attempts of its own, and requests that "
        "were rescued are listed as fallbacks. Requests with an override header, and requests "
        "without a key where assignment is by key, are left out of the split.",
    ),
    Note(
        about="Share of traffic",
        text="In a shadow stage the incumbent answers everybody and the share counts mirrored "
        "requests; in an A/B stage it counts answered ones. The sample-ratio check weighs the "
        "counts against the intended share by an e-value: 1,000 or more means that something "
        "other than chance decided who got which arm, and then no comparison can be trusted.",
    ),
    Note(
        about="Verdicts and e-values",
        text="A gate passes when every check that it requires passes. An e-value of E says that a "
        "bet against the hypothesis beside it would have multiplied its stake by E; if the "
        "hypothesis were true, it would ever reach 100 in at most one rollout of a hundred, "
        "however often somebody looks. The judge reads what lies behind the watermark, and labels "
        "whose window has closed, so its counts may be smaller than those of the other tables. "
        "Checks that are reported decide nothing.",
    ),
    Note(
        about="Warm-up",
        text="Requests decided before every live gateway had applied a stage are its warm-up. "
        "They are counted apart, and no other figure of this report and no check holds them.",
    ),
    Note(
        about="Mirrors and pairs",
        text="A mirrored request was sent to both arms. Coverage is the part of the intended "
        "mirrors that was seen to its end, answered or failed, as the gate asks; compared are the "
        "pairs that both arms answered. What was dropped is listed by cause.",
    ),
    Note(
        about="Latency",
        text="What clients waited for, by assigned arm, from a histogram with logarithmic bins: "
        f"relative error {100 * RELATIVE_ERROR:g} %. The arms' own times on mirrored pairs are "
        "advisory: one of the two was not served to anybody.",
    ),
    Note(
        about="Known prefixes",
        text="A model server keeps the state after a context, so that a context which continues "
        "it costs only its new vectors: a hit. An arm whose window has slid, because the context "
        "is longer than it reads, begins at another vector each time and never hits, while an arm "
        "with a longer window does. So latencies of the two arms are also shown for hits and "
        "misses apart. Not told are failed attempts, and the answers of model servers of an older "
        "version.",
    ),
    Note(
        about="Agreement",
        text="Cosine compares the two predicted vectors. Overlap@k is the part of the first k "
        "neighbours that both arms named. Rank-biased overlap (RBO, p = 0.9) also weighs their "
        "order, the first places most. Values are rounded down to hundredths before they are "
        "counted, so a mean may be up to 0.01 too low. Agreement says how alike the arms are, not "
        "which one is right.",
    ),
    Note(
        about="Hit@k",
        text="The part of the labelled requests whose true next chunk was among the first k "
        "neighbours. Truth arrives later, and only for some requests: a missing label is missing "
        "coverage, never a miss. Per arm it is what clients got; in pairs it is each arm's own "
        "prediction on the same request.",
    ),
    Note(
        about="Cosine to the truth",
        text="How near each arm's prediction came to the vector of what came in truth, also where "
        "neither named it. Few requests keep their vectors, chosen by a hash of their names, so "
        "that the choice says nothing about an arm. The difference is the candidate's cosine minus "
        "the incumbent's on the same request, cut off at +-0.3 and counted in steps of 0.002. It "
        "decides nothing. Where assignment is by key, the first such request of each key counts.",
    ),
    Note(
        about="Intervals",
        text="Intervals of rates are Wilson's, 95 %, fixed-sample: right for one look at a sample "
        "whose size was settled beforehand, and not for watching a running rollout. The "
        "differences between the arms on pairs, and the intervals beside the judge's evidence, "
        "are 95 % confidence sequences: they hold at every look, and are wider for it.",
    ),
    Note(
        about="Where the arms differed most",
        text="Every gateway takes at most five pairs a second as samples, whatever they show. Of "
        "all samples of a stage, early and late, those with the fewest ids in common are kept. The "
        "truth of these is kept when it comes, so that it can be seen which arm was right.",
    ),
    Note(
        about="What is not claimed",
        text="Overlapping intervals prove no equality, and separate ones no cause. Rates are "
        "not pooled over stages, because weights change between them (Simpson's paradox). "
        "'no data' means that nothing was measured, never zero.",
    ),
)
