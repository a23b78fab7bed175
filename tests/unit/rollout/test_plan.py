"""The plan: what is read, and how much is said about what cannot be."""

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollout.plan import DEFAULT_PLAN, Plan
from rollout.planfile import PlanError, parse_plan, read_plan, schema, write_plan
from rollout.quantities import WRITTEN_DURATION, duration, seconds

GOOD = """\
name: may
candidate: phase2
stages:
  - {name: shadow, mode: shadow, weight: 5, min_duration_s: 36h, min_requests: 10, min_pairs: 1}
  - {name: all, mode: ab, weight: 100, min_duration_s: 500ms, min_requests: 10}
"""

BAD = """\
name: Bad Plan
candidate: phase2
colour: red
stages:
  - name: a
    mode: shadow
    weight: 0
    min_duration_s: 7 weeks
    min_requests: 10
  - name: b
    mode: ab
    weight: 50
    min_duration_s: 1h
    min_requests: 10
    min_pairs: 3
  - name: b
    mode: ab
    weight: 25
    weight: 26
    min_duration_s: 1h
    min_requests: true
targets: {2: 30, 5: 555}
label_window_s: 0
"""


def faults(text: str) -> list[tuple[int | None, str]]:
    with pytest.raises(PlanError) as caught:
        parse_plan(text)
    return [(fault.line, fault.path) for fault in caught.value.errors]


def message(text: str) -> str:
    with pytest.raises(PlanError) as caught:
        parse_plan(text)
    return str(caught.value)


def test_a_plan_is_read_with_its_durations_and_defaults() -> None:
    plan = parse_plan(GOOD)
    assert [stage.min_duration_s for stage in plan.stages] == [36 * 3600, 0.5]
    assert (plan.scope, plan.unit, plan.targets) == ("long", "request", {1: 30, 5: 55, 10: 70})


def test_the_default_plan_is_5_shadow_25_50_100_for_seven_days_each() -> None:
    shape = [(stage.mode, stage.weight, stage.shadow_sample) for stage in DEFAULT_PLAN.stages]
    assert shape == [("shadow", 5, 0), ("ab", 25, 5), ("ab", 50, 5), ("ab", 100, 5)]
    assert {stage.min_duration_s for stage in DEFAULT_PLAN.stages} == {7 * 86_400}
    assert {stage.max_duration_s for stage in DEFAULT_PLAN.stages} == {28 * 86_400}


def test_a_written_plan_reads_back_as_itself() -> None:
    assert parse_plan(write_plan(DEFAULT_PLAN)) == DEFAULT_PLAN
    assert "min_duration_s: 7d" in write_plan(DEFAULT_PLAN)


def test_every_fault_of_a_plan_is_told_at_once_with_its_path_and_line() -> None:
    assert faults(BAD) == [
        (1, "name"),
        (3, "colour"),
        (7, "stages[0].weight"),
        (8, "stages[0].min_duration_s"),
        (15, "stages[1].min_pairs"),
        (16, "stages[2].name"),
        (19, "stages[2].weight"),
        (21, "stages[2].min_requests"),
        (22, "targets.5"),
        (22, "targets.2"),
        (23, "label_window_s"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("", None, "a plan is a mapping with the fields name, candidate"),
        ("- a", 1, "a plan is a mapping"),
        ("name: x\nstages: [a,\n b: {", 3, "this is no YAML"),
        ("a: &x\n  - *x", 2, "write *x out: a plan is a tree"),
        ("{[1]: 2}", 1, "this is no YAML: found unhashable key"),
        ("\x00", None, "this is no YAML"),
        ("x: !!python/object:os.system y", 1, "could not determine a constructor"),
        ("name: a\ncandidate: b\nstages: 3", 3, "must be a list, not '3'"),
        ("name: a\ncandidate: b\nstages: []", 3, "at least one stage"),
        ("name: a\ncandidate: b", 1, "stages: is missing"),
        (GOOD.replace("weight: 100", "weight: 50"), 5, "must be 100"),
        (GOOD.replace("candidate: phase2\n", ""), 1, "candidate: is missing"),
        (GOOD.replace("weight: 5,", "weight: .nan,"), 4, "stages[0].weight"),
        (GOOD.replace("36h", "-1"), 4, "stages[0].min_duration_s"),
        (GOOD.replace("weight: 5,", "weight: 5, shadow_sample: 5,"), 4, "belongs to ab stages"),
        (GOOD.replace("weight: 5,", "weight: 5, weight: 6,"), 4, "stands twice: first in line 4"),
        (GOOD.replace("mode: ab, weight: 100", "mode: ab, weight: 50"), 5, "ab at 100 %"),
        (GOOD.replace("weight: 5,", "weight: 5, require: [errors],"), 4, "a shadow answers nobody"),
        (GOOD.replace("weight: 5,", "weight: 5, require: [hits, hits],"), 4, "stands twice"),
        (GOOD.replace("weight: 100,", "weight: 100, require: [hits],"), 5, "hits needs pairs"),
        (GOOD.replace("weight: 5,", "weight: 5, require: [speed],"), 4, "stages[0].require"),
        (GOOD + "guard: {}", 6, "must look at something"),
        (GOOD + "alpha_promote: 0.5", 6, "alpha_promote"),
        (GOOD + "watermark_s: 2h", 6, "watermark_s: must be at most 114m, not 2h: the store keeps"),
        (GOOD + "error_ratio: 1.5\nrollback_error_ratio: 1.6", 7, "is above error_ratio"),
        (GOOD + "hit_margin: 3\nhit_stratum_margin: 2", 7, "is narrower than hit_margin"),
        (GOOD + "latency_margins: {p98: 5}", 6, "latency_margins.p98"),
        (GOOD + "  - {name: late, mode: shadow, weight: 5}\n", 6, "shadow stages come first"),
    ],
)
def test_a_malformed_plan_is_told_by_line(text: str, line: int | None, part: str) -> None:
    assert line in [where for where, _ in faults(text)]
    assert part in message(text)


def test_a_plan_from_json_has_paths_and_no_lines() -> None:
    with pytest.raises(PlanError) as caught:
        read_plan({"name": "x", "candidate": "phase2", "stages": [{"weight": -1}]})
    assert {fault.line for fault in caught.value.errors} == {None}
    assert "stages[0].mode" in {fault.path for fault in caught.value.errors}


def test_the_schema_names_every_field_and_takes_written_durations() -> None:
    described = schema()
    assert set(described["properties"]) == set(Plan.model_fields)
    stage = described["$defs"]["Stage"]["properties"]
    assert {"type": "string", "pattern": WRITTEN_DURATION} in stage["min_duration_s"]["anyOf"]
    assert all("description" in field for field in described["properties"].values())


LIMITED = GOOD.replace("min_pairs: 1}", "min_pairs: 1, %s}")


@pytest.mark.parametrize(
    ("field", "path", "part"),
    [
        ("max_duration_s: 1h", "stages[0].max_duration_s", "must be more than min_duration_s"),
        ("max_requests: 10", "stages[0].max_requests", "must be more than min_requests"),
        ("approval: true, approval_timeout_s: 0", "stages[0].approval_timeout_s", "longer than 0"),
        ("approval: 'yes'", "stages[0].approval", "boolean"),
    ],
)
def test_limits_that_a_stage_could_never_keep_are_faults(field: str, path: str, part: str) -> None:
    assert (4, path) in faults(LIMITED % field)
    assert part in message(LIMITED % field)


@pytest.mark.parametrize(
    ("window", "path", "part"),
    [
        ("{begins: noon, ends: '13:00'}", "freeze[0].begins", "write 18:00 (every day)"),
        ("{begins: '18:00', ends: 'mon 08:00'}", "freeze[0]", "both in the same form"),
        ("{begins: '18:00', ends: '18:00'}", "freeze[0]", "not after it begins"),
        ("{begins: '18:00', ends: '19:00', timezone: Mars/Base}", "freeze[0].timezone", "no time"),
        ("{begins: '2026-02-30 00:00', ends: '2026-03-01 00:00'}", "freeze[0].begins", "day"),
        ("{begins: '18:00', until: '19:00'}", "freeze[0].until", "the fields are begins, ends"),
    ],
)
def test_a_freeze_window_that_cannot_be_read_is_a_fault(window: str, path: str, part: str) -> None:
    text = f"{GOOD}freeze:\n  - {window}\n"
    assert (7, path) in faults(text)
    assert part in message(text)


def test_a_plan_that_is_too_long_is_not_read() -> None:
    assert "longer than" in message("#" * 300_000)


@given(st.sampled_from(["d", "h", "m", "s"]), st.integers(0, 10_000))
def test_durations_are_read_as_they_are_written(unit: str, amount: int) -> None:
    value = seconds(f"{amount}{unit}")
    assert isinstance(value, float)
    assert seconds(duration(value)) == value


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
stage_like = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["a", "b", 3]),
        "mode": st.sampled_from(["ab", "shadow", "cd"]),
        "weight": st.sampled_from([0, 5, 50, 100, "x", True]),
        "shadow_sample": st.sampled_from([0, 5, -5]),
        "min_duration_s": st.sampled_from([0, "7d", "soon"]),
        "min_requests": st.sampled_from([0, 10, -1]),
        "min_pairs": st.sampled_from([0, 10]),
        "require": st.sampled_from([[], ["hits"], ["errors", "errors"], ["agreement"], "hits", 3]),
    },
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # its first documents are slow to draw
@given(
    st.fixed_dictionaries(
        {"name": st.just("x"), "candidate": st.just("phase2")},
        optional={
            "stages": st.lists(stage_like, max_size=4) | json_values,
            "targets": json_values,
            "label_window_s": json_values,
            "guard": json_values,
            "latency_margins": json_values,
            "error_ratio": json_values,
            "hit_margin": json_values,
        },
    )
)
def test_whatever_is_read_is_a_plan_or_a_plan_error(document: dict[str, object]) -> None:
    try:
        plan = read_plan(document)
    except PlanError:
        return
    assert read_plan(yaml.safe_load(write_plan(plan))) == plan
