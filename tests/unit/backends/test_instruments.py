"""The cheap instruments say what prometheus_client's say."""

from collections.abc import Iterable

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from backends.serving.instruments import Counter, Histogram

BUCKETS = (0.001, 0.25, 1.0, 30.0)


def told(registry: CollectorRegistry) -> list[str]:
    """What a scrape shows, without the times at which series began."""
    lines = generate_latest(registry).decode().splitlines()
    return [line.partition("_created{")[0] if "_created{" in line else line for line in lines]


def observed(amounts: Iterable[tuple[str, float]]) -> tuple[list[str], list[str]]:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    one = Histogram("waited_seconds", "How long", ("arm",), buckets=BUCKETS, registry=ours)
    other = prometheus_client.Histogram(
        "waited_seconds", "How long", ("arm",), buckets=BUCKETS, registry=theirs
    )
    for arm, amount in amounts:
        one.labels(arm).observe(amount)
        other.labels(arm).observe(amount)
    return told(ours), told(theirs)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["phase1", 'a "b"\\']),
            st.sampled_from([*BUCKETS, 0.0]) | st.floats(0, 100, allow_nan=False),
        ),
        max_size=20,
    )
)
def test_whatever_is_observed_a_scrape_shows_what_prometheus_client_would(
    amounts: list[tuple[str, float]],
) -> None:
    ours, theirs = observed(amounts)
    assert ours == theirs


@given(st.lists(st.sampled_from(["phase1", 'a "b"\\'])))
def test_whatever_is_counted_a_scrape_shows_what_prometheus_client_would(arms: list[str]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    one = Counter("asked", "How often", ("arm",), registry=ours)
    other = prometheus_client.Counter("asked", "How often", ("arm",), registry=theirs)
    for arm in arms:
        one.labels(arm).inc()
        other.labels(arm).inc()
    assert told(ours) == told(theirs)


def test_a_histogram_without_labels_is_there_before_anything_is_observed() -> None:
    registry = CollectorRegistry()
    Histogram("waited_seconds", "How long", buckets=BUCKETS, registry=registry)
    assert registry.get_sample_value("waited_seconds_count") == 0


def test_a_name_that_is_taken_and_labels_that_do_not_fit_are_refused() -> None:
    registry = CollectorRegistry()
    one = Histogram("waited_seconds", "How long", ("arm",), buckets=BUCKETS, registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Histogram("waited_seconds", "Again", buckets=BUCKETS, registry=registry)
    with pytest.raises(ValueError, match="has the labels arm"):
        one.labels("a", "b")
