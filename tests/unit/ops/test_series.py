"""What is shown is what the library's own counters and histograms would show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from ai_task_processor.ops.catalogue import Description
from ai_task_processor.ops.series import Counts, Measurements

BUCKETS = (0.1, 1.0, 2.5)
values = st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 5) | st.sampled_from(BUCKETS)))


@pytest.mark.parametrize("labels", [(), ("kind",)])
@given(values)
def test_of_counts(labels: tuple[str, ...], given_values: list[tuple[str, float]]) -> None:
    about = Description("things_total", "counter", "Things.", labels)
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counts = Counts(about)
    ours.register(counts)
    counter = Counter(about.full_name, about.help, labels, registry=theirs)
    for kind, value in given_values:
        counts.add((kind,) if labels else (), value)
        (counter.labels(kind) if labels else counter).inc(value)
    assert generate_latest(ours) == _without_beginnings(generate_latest(theirs))


@pytest.mark.parametrize("labels", [(), ("kind",)])
@given(values)
def test_of_measurements(labels: tuple[str, ...], given_values: list[tuple[str, float]]) -> None:
    about = Description("seconds", "histogram", "How long.", labels, BUCKETS)
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    measurements = Measurements(about)
    ours.register(measurements)
    histogram = Histogram(about.full_name, about.help, labels, buckets=BUCKETS, registry=theirs)
    for kind, value in given_values:
        measurements.add((kind,) if labels else (), value)
        (histogram.labels(kind) if labels else histogram).observe(value)
    assert generate_latest(ours) == _without_beginnings(generate_latest(theirs))


def _without_beginnings(exposition: bytes) -> bytes:
    """Without when each series began, which the program shows nowhere."""
    lines = exposition.splitlines(keepends=True)
    return b"".join(line for line in lines if b"_created" not in line)
