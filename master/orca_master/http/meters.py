"""How many requests each route has answered, and how long that took. Bounded: one series a route template."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from orca_master.http.route import Route

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
UNMATCHED = "unmatched"
"""Paths that no route has are one series, whatever they are."""


@dataclass(slots=True)
class _Times:
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    sum: float = 0.0
    answers: dict[int, int] = field(default_factory=dict)
    """First digit of the status → how many."""


class HttpMeters(Collector):
    """`observe` at the end of each request; read at each scrape."""

    def __init__(self) -> None:
        self._times: dict[tuple[str, str], _Times] = {}

    def observe(self, route: Route | None, status: int, seconds: float) -> None:
        """None: no route has the path, or not with that method."""
        key = (route.method, route.path) if route is not None else ("any", UNMATCHED)
        times = self._times.get(key)
        if times is None:
            times = self._times[key] = _Times()
        times.buckets[bisect_left(BOUNDS, seconds)] += 1
        times.sum += seconds
        times.answers[status // 100] = times.answers.get(status // 100, 0) + 1

    def collect(self) -> Iterable[Metric]:
        took = HistogramMetricFamily(
            "orca_http_request_seconds", "From the head to the answer", labels=["method", "route"]
        )
        answers = CounterMetricFamily(
            "orca_http_requests", "Requests answered", labels=["method", "route", "status"]
        )
        for (method, template), times in sorted(self._times.items()):
            total, buckets = 0, []
            for bound, count in zip((*BOUNDS, "+Inf"), times.buckets, strict=True):
                total += count
                buckets.append((str(bound), float(total)))
            took.add_metric([method, template], buckets, times.sum)
            for digit, count in sorted(times.answers.items()):
                answers.add_metric([method, template, f"{digit}xx"], count)
        return [took, answers]
