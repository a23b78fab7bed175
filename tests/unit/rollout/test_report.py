"""The report: every figure is in the JSON, what was not measured says so, nothing is hidden."""

import itertools
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from example_rollout import START, example
from judged import healthy, look

from rollout.plan import DEFAULT_PLAN
from rollout.reporting import charts
from rollout.reporting.document import Model
from rollout.reporting.narrative import UNIDENTIFIED, UNTRAINED
from rollout.reporting.page import Figures
from rollout.reporting.report import (
    Report,
    ReportInput,
    build,
    render_html,
    render_markdown,
    wilson,
)
from rollout.snapshot import Counter
from rollout.wording import write


@pytest.fixture(scope="module")
def given() -> ReportInput:
    return example()


@pytest.fixture(scope="module")
def report(given: ReportInput) -> Report:
    return build(given)


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return render_html(report)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the charts out, which take a second or two: for what the words alone say."""
    monkeypatch.setattr(charts, "draw", lambda _: defaultdict(list))


class Page(HTMLParser):
    """Collects what the page shows: tags, and each figure's attributes with its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.figures: list[dict[str, str]] = []
        self._open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.ids += [found["id"]] if "id" in found else []
        self._open = "data-path" in found
        if self._open:
            self.figures.append({**found, "text": ""})

    def handle_data(self, data: str) -> None:
        if self._open:
            self.figures[-1]["text"] += data

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 - the parser's own signature
        self._open = False


def with_counts(given: ReportInput, stage: str, counts: Mapping[str, int]) -> Report:
    hashed = {f"1|101-200|{counter}": value for counter, value in counts.items()}
    return build(given.model_copy(update={"counts": {stage: hashed}}))


def test_every_figure_on_the_page_is_the_one_in_the_json(report: Report, html: str) -> None:
    document = Figures(json.loads(report.model_dump_json()))
    figures = Page(html).figures
    assert len(figures) > 500
    for figure in figures:
        value = document.value(figure["data-path"])
        assert json.loads(figure["data-value"]) == value, figure
        assert figure["text"] == write(value, figure["data-unit"]), figure


def test_the_same_input_gives_the_same_bytes(given: ReportInput, html: str) -> None:
    assert render_html(build(given)) == html


def test_the_json_reads_back_as_the_same_report(report: Report) -> None:
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_the_page_holds_no_script_and_fetches_nothing(html: str) -> None:
    page = Page(html)
    assert page.tags.isdisjoint({"script", "img", "iframe", "object", "embed", "base", "form"})
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#|data:,)""", html)
    assert not re.search(r"url\((?!#)|@import", html)


def test_no_two_elements_share_an_id(html: str) -> None:
    ids = Page(html).ids
    assert len(ids) == len(set(ids))


def test_text_from_outside_is_escaped(html: str) -> None:
    assert "phase2 &lt;read&gt; on the validation chains" in html
    assert "<read>" not in html


def test_every_chart_says_in_words_what_it_draws(html: str) -> None:
    labels = re.findall(r'<svg class="drawing" role="img" aria-label="([^"]+)"', html)
    assert len(labels) == html.count("<svg") == 28
    assert any("ab-25: intended 25.0 %, actual 2" in label for label in labels)


def test_untrained_weights_are_told_before_any_figure(report: Report, html: str) -> None:
    assert report.notice == UNTRAINED
    assert "untrained weights" in UNTRAINED
    assert html.index("untrained weights:") < html.index('id="summary"')


@pytest.mark.usefixtures("undrawn")
def test_trained_weights_carry_no_notice() -> None:
    report = build(example(trained=True, requests=200))
    assert report.notice is None
    assert "untrained" not in render_html(report).partition("<main>")[2]


def test_one_untrained_arm_is_enough_for_the_notice(given: ReportInput) -> None:
    mixed = {**given.models, "phase1": Model(checkpoint="a", bank="b", trained=True)}
    assert build(given.model_copy(update={"models": mixed})).notice == UNTRAINED


def test_a_model_that_is_not_identified_is_told(given: ReportInput) -> None:
    one = {"phase1": Model(checkpoint="a", bank="b", trained=True)}
    assert build(given.model_copy(update={"models": {}})).notice == UNIDENTIFIED
    assert build(given.model_copy(update={"models": one})).notice == UNIDENTIFIED


def test_a_rollout_without_any_counts_shows_no_data_and_no_zero_rates(given: ReportInput) -> None:
    report = build(given.model_copy(update={"counts": {}, "samples": (), "trace": ()}))
    page = Page(render_html(report))
    assert "svg" not in page.tags
    for figure in page.figures:
        if figure["data-unit"] in {"ms", "score"} or ".actual" in figure["data-path"]:
            assert (figure["data-value"], figure["text"]) == ("null", "no data")
    assert "No request in scope was counted." in report.summary


@pytest.mark.usefixtures("undrawn")
def test_a_running_rollout_says_which_stages_it_has_not_reached() -> None:
    report = build(example(state="running", stages=2, requests=300))
    assert [stage.reached for stage in report.stages] == [True, True, False, False]
    assert report.headline.ended_at is None
    assert (report.stages[0].judged, report.stages[1].judged) == ("on leaving", "at the report")
    assert report.stages[2].verdict is None
    assert report.guard is not None
    assert (
        "At the time of this report the gate of ab-25 says INCONCLUSIVE, not enough yet: "
        in " ".join(report.summary)
    )
    assert report.stages[1].duration_s == report.made_at - report.stages[1].entered_at  # type: ignore[operator]  # reached: it has a time
    html = render_html(report)
    assert html.count("not reached") == 2
    assert "The rollback guard" in html


def test_a_split_that_was_not_intended_is_an_alarm(given: ReportInput) -> None:
    counts = {Counter.assigned("incumbent"): 6000, Counter.assigned("candidate"): 2600}
    stage = with_counts(given, "ab-25", counts).stages[1]
    assert stage.split.kind == "mismatch"
    assert stage.split.ln_e is not None
    counts = {Counter.assigned("incumbent"): 6000, Counter.assigned("candidate"): 2010}
    assert with_counts(given, "ab-25", counts).stages[1].split.kind == "consistent"


def test_more_mirrors_than_requests_are_a_mismatch_and_no_crash(given: ReportInput) -> None:
    counts = {Counter.assigned("incumbent"): 1, Counter.MIRROR_INTENDED: 2}
    split = with_counts(given, "shadow-5", counts).stages[0].split
    assert split.kind == "mismatch"
    assert "incomplete" in split.reason


def test_a_stage_without_counts_beside_one_with_counts_is_drawn_as_no_data(
    given: ReportInput,
) -> None:
    html = render_html(with_counts(given, "ab-25", {Counter.assigned("candidate"): 3}))
    assert ">no data</text>" in html


def test_at_100_percent_a_single_stray_request_is_a_mismatch(given: ReportInput) -> None:
    counts = {Counter.assigned("candidate"): 999, Counter.assigned("incumbent"): 1}
    assert with_counts(given, "ab-100", counts).stages[3].split.kind == "mismatch"
    counts = {Counter.assigned("candidate"): 1000}
    assert with_counts(given, "ab-100", counts).stages[3].split.kind == "consistent"


def test_assignment_by_key_is_not_tested_by_counting_requests(given: ReportInput) -> None:
    plan = DEFAULT_PLAN.model_copy(update={"unit": "key"})
    record = given.record.model_copy(update={"plan": plan})
    report = build(given.model_copy(update={"record": record}))
    assert report.stages[1].split.kind == "not tested"
    assert report.stages[1].split.ln_e is None


def test_the_summary_names_share_state_verdict_agreement_and_hits(report: Report) -> None:
    words = " ".join(report.summary)
    assert "phase2 was given 43.7 % of 23,906 requests in scope" in words
    assert "succeeded after 28 d" in words
    assert "When the stage ab-100 was left, its gate said PASS, passed: " in words
    assert "mean cosine of 0.8" in words
    assert "untrained" in words


def test_latency_is_shown_by_known_prefix_for_each_stage_and_arm(report: Report, html: str) -> None:
    page = Page(html)
    paths = {figure["data-path"] for figure in page.figures}
    for stage, measure in itertools.product(
        range(4), ("latency_by_prefix", "arm_latency_by_prefix")
    ):
        path = f"stages.{stage}.candidate.{measure}"
        assert {f"{path}.hit_percent", f"{path}.hits.p95", f"{path}.misses.p50"} <= paths
    apart = report.stages[3].candidate.latency_by_prefix
    assert apart.hits.n + apart.misses.n == report.stages[3].candidate.latency_ms.n
    never = report.stages[1].incumbent.latency_by_prefix
    assert (never.hit_percent, never.slid) == (0, never.misses.n)


@pytest.mark.usefixtures("undrawn")
def test_where_no_model_server_tells_of_prefixes_it_says_not_told(given: ReportInput) -> None:
    counts = {Counter.assigned("incumbent"): 3, Counter.latency("incumbent", 0.01): 3}
    report = with_counts(given, "ab-25", counts)
    assert report.stages[1].incumbent.latency_by_prefix.not_told == 3
    assert render_html(report).count(">not told<") == 1
    assert render_markdown(report).count("| not told |") == 1


@pytest.mark.usefixtures("undrawn")
def test_why_mirrors_were_dropped_is_told_in_words(given: ReportInput) -> None:
    counts = {Counter.MIRROR_INTENDED: 5, Counter.mirror_dropped("full"): 3}
    report = with_counts(given, "shadow-5", counts)
    assert "mirror queue full 3" in render_markdown(report)
    assert re.search(r"mirror queue full <span[^>]*mirror_dropped.full", render_html(report))


def test_the_headline_names_who_started_and_who_ended_it(report: Report) -> None:
    assert report.headline.started_at == START
    assert report.headline.started_by == report.headline.ended_by == "mara@example.org"


def test_the_requests_that_differ_most_come_first(report: Report) -> None:
    apart = [(row.overlap10, row.cosine) for row in report.differences]
    assert apart == sorted(apart)
    assert len(apart) == 12
    assert report.sampled == sum(stage.sampled for stage in report.stages) > 1000
    shared = set(report.differences[0].top["incumbent"]) & set(
        report.differences[0].top["candidate"]
    )
    assert report.differences[0].shared == len(shared)


def test_where_the_arms_differed_most_the_truth_and_its_places_are_shown(
    given: ReportInput, report: Report, html: str
) -> None:
    known = [row for row in report.differences if row.truth is not None]
    assert 0 < len(known) < len(report.differences)
    for row in known:
        assert row.truth == given.truths[row.request_id]
        assert row.truth_place is not None
        place = row.truth_place["candidate"]
        assert place is not None
        assert row.top["candidate"][place - 1] == row.truth
        assert (row.truth_place["incumbent"] is None) == (row.truth not in row.top["incumbent"])
    paths = {figure["data-path"] for figure in Page(html).figures}
    shown = [one for one in paths if re.fullmatch(r"differences\.\d+\.truth", one)]
    assert len(shown) == len(known)
    assert html.count(">not known<") == len(report.differences) - len(known)
    lines = render_markdown(report).splitlines()
    assert sum("| not known |" in line for line in lines) == html.count(">not known<")


def test_how_near_each_arm_came_to_the_truth_is_shown_beside_its_hits(
    report: Report, html: str
) -> None:
    paths = {figure["data-path"] for figure in Page(html).figures}
    markdown = render_markdown(report)
    for index, stage in enumerate(report.stages):
        near = stage.nearness
        assert near.low is not None
        assert near.high is not None
        assert 0 < near.n < stage.labelled_pairs
        assert near.low < 0.04 < near.high
        assert {f"stages.{index}.nearness.{name}" for name in ("n", "low", "ln_e_farther")} <= paths
        written = f"{write(near.difference, 'offset')} ({write(near.low, 'offset')} to "
        assert written in markdown
    (told,) = [one for one in report.summary if "cosine of phase2's prediction to it" in one]
    assert told.startswith(f"On {near.n} of the pairs of ab-100 whose truth has come")
    assert f"was {write(near.difference, 'offset')} on average" in told


def test_evidence_over_time_is_drawn_in_steps_and_says_where_it_is_cut_off(html: str) -> None:
    drawn = html[html.index("e-value over time; it fires at 100") :]
    drawn = drawn[: drawn.index("</figure>")]
    lines = re.findall(r'<path d="(M [^"z]*)"[^>]*style="fill: none; stroke: #a3201d', drawn)
    assert len(lines) >= 2  # the average, the highest so far, and their samples in the legend
    for line in lines:
        points = [tuple(map(float, at.split())) for at in re.split(r"[ML]", line) if at.strip()]
        # to a fraction of a pixel, as simplified when it is drawn
        assert all(
            min(abs(a[0] - b[0]), abs(a[1] - b[1])) < 0.3 for a, b in itertools.pairwise(points)
        )
    assert "≥ 1e+9" in drawn
    assert "cut off at 0.001 and at 1e+9" in drawn


def test_in_a_shadow_stage_the_candidates_hits_are_those_of_pairs(report: Report) -> None:
    shadow = report.stages[0]
    assert shadow.candidate.labels == 0
    assert shadow.candidate.hit_rates[5].percent is None
    outcomes = shadow.pair_hits[5]
    assert shadow.pair_hit_rates["candidate"][5].count == outcomes["01"] + outcomes["11"]
    assert shadow.pair_hit_rates["candidate"][5].n == shadow.labelled_pairs > 0


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 27.7533), (5, 10, 23.6593, 76.3407), (81, 263, 25.5289, 36.6237)],
)
def test_the_wilson_interval_is_the_published_one(
    successes: int, n: int, low: float, high: float
) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=0.02)


def test_the_wilson_interval_of_nothing_is_nothing() -> None:
    assert wilson(0, 0) is None


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (None, "ms", "no data"),
        ("", "text", "no data"),
        (0, "count", "0"),
        (1234567, "count", "1,234,567"),
        (25.06, "percent", "25.1 %"),
        (0, "percent", "0.0 %"),
        (0.1234, "percent", "0.12 %"),
        (8.4211, "ms", "8.42 ms"),
        (1842.3, "ms", "1,842 ms"),
        (0.87449, "score", "0.874"),
        (1_790_000_000, "when", "2026-09-21 14:13:20 UTC"),
        (4.04, "span", "4 s"),
        (750, "span", "12 min 30 s"),
        (604_800, "span", "7 d"),
        (-30.26, "signed", "-30.3"),
        (0.04, "signed", "+0.0"),
        (90_000.4, "span", "1 d 1 h"),
        (0.0, "evidence", "1.00"),
        (-9.0, "evidence", "< 0.01"),
        (math.log(19.999), "evidence", "19.99"),
        (math.log(20), "evidence", "20.00"),
        (math.log(100), "evidence", "100"),
        (math.log(1024.9), "evidence", "1,024"),
        (60.0, "evidence", "1.1e+26"),
        (2000.0, "evidence", "3.8e+868"),
        (math.inf, "evidence", "infinity"),
    ],
)
def test_a_value_is_written_in_its_unit(value: Any, unit: str, words: str) -> None:
    assert write(value, unit) == words


def test_targets_that_failed_are_told_in_plain_words_although_the_gate_passed(
    given: ReportInput,
) -> None:
    stage = DEFAULT_PLAN.stages[3]
    world = replace(healthy(stage), more={"hit10.candidate": 9000, "pair.overlap10.80": 1000})
    found = look(world.seen())
    verdicts = {**given.verdicts, stage.name: found.gate}
    words = build(given.model_copy(update={"verdicts": verdicts})).summary
    (targets,) = [one for one in words if one.startswith("Of the targets at ab-100: ")]
    assert "target of Hit@10 was missed (45 %; to be shown: the candidate's Hit@10 above 70 %)" in (
        targets
    )
    assert "target of Hit@5 was reached (60 %" in targets
    assert targets.endswith("the gate reports them and requires none of them.")
    (agreed,) = [one for one in words if one.startswith("Of the agreement floors at ab-100: ")]
    assert "agreement overlap10 was reached (0.8; to be shown: a mean overlap10 above 0.3)" in (
        agreed
    )


def test_failures_on_pairs_are_told_of_each_arm_also_where_no_client_saw_them(
    given: ReportInput,
) -> None:
    stage = given.record.plan.stages[0]
    counts = dict(given.counts[stage.name])
    for failed, times in (("10", 2), ("01", 5), ("11", 30)):
        counts[f"-|101-200|pair.error.{failed}"] = times
    totals = build(given.model_copy(update={"counts": {stage.name: counts}})).totals
    assert (totals.pair_errors_incumbent, totals.pair_errors_candidate) == (32, 35)
