"""What is counted and measured, by labels; shown to the library when it scrapes.

The library's own counters and histograms take five times as long, for they may be used by several threads.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TypeAlias

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ai_task_processor.ops.catalogue import Description

Labels: TypeAlias = tuple[str, ...]


class Counts(Collector):
    """A counter; without labels it is there from the start."""

    def __init__(self, about: Description) -> None:
        self._about = about
        self._counts: dict[Labels, float] = defaultdict(float, {} if about.labels else {(): 0.0})

    def add(self, labels: Labels, by: float) -> None:
        """Count ``by`` more; ``labels`` are the values in the order of the description."""
        self._counts[labels] += by

    def collect(self) -> Iterator[Metric]:
        """The counter as the library knows it."""
        family = CounterMetricFamily(self._about.full_name, self._about.help, labels=self._about.labels)
        for labels, count in self._counts.items():
            family.add_metric(labels, count)
        yield family


class Measurements(Collector):
    """A histogram; without labels it is there from the start."""

    def __init__(self, about: Description) -> None:
        self._about = about
        self._bounds = about.buckets
        bounds = (*about.buckets, float("inf"))
        self._names = [floatToGoString(bound) for bound in bounds]  # type: ignore[no-untyped-call]  # not annotated
        self._measured: dict[Labels, _Measured] = {} if about.labels else {(): self._nothing()}

    def add(self, labels: Labels, value: float) -> None:
        """Take note of one value."""
        measured = self._measured.get(labels)
        if measured is None:
            measured = self._measured[labels] = self._nothing()
        measured.counts[bisect_left(self._bounds, value)] += 1
        measured.total += value

    def collect(self) -> Iterator[Metric]:
        """The histogram as the library knows it."""
        family = HistogramMetricFamily(self._about.full_name, self._about.help, labels=self._about.labels)
        for labels, measured in self._measured.items():
            buckets: Sequence[tuple[str, float]] = list(zip(self._names, accumulate(measured.counts), strict=True))
            family.add_metric(labels, buckets, measured.total)
        yield family

    def _nothing(self) -> "_Measured":
        return _Measured(len(self._names))


class _Measured:
    """How many values were in each bucket by itself, and their sum."""

    __slots__ = ("counts", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.total = 0.0
