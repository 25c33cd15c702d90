"""How many requests each route has answered, and how long that took. Bounded: one series a route template."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from aiohttp import web
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
UNMATCHED = "unmatched"
"""Paths that no route has are one series, whatever they are."""


@dataclass(slots=True)
class _Times:
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    sum: float = 0.0


class HttpMeters(Collector):
    """`observe` at the end of each request; read at each scrape."""

    def __init__(self) -> None:
        self._times: dict[tuple[str, str], _Times] = {}
        self._answers: dict[tuple[str, str, str], int] = {}

    def observe(self, request: web.Request, status: int, seconds: float) -> None:
        resource = request.match_info.route.resource
        template = resource.canonical if resource is not None else UNMATCHED
        method = request.method if resource is not None else "any"
        times = self._times.setdefault((method, template), _Times())
        place = next((n for n, bound in enumerate(BOUNDS) if seconds <= bound), len(BOUNDS))
        times.buckets[place] += 1
        times.sum += seconds
        key = (method, template, f"{status // 100}xx")
        self._answers[key] = self._answers.get(key, 0) + 1

    def collect(self) -> Iterable[Metric]:
        took = HistogramMetricFamily(
            "orca_http_request_seconds", "From the head to the answer", labels=["method", "route"]
        )
        for (method, template), times in sorted(self._times.items()):
            total, buckets = 0, []
            for bound, count in zip((*BOUNDS, "+Inf"), times.buckets, strict=True):
                total += count
                buckets.append((str(bound), float(total)))
            took.add_metric([method, template], buckets, times.sum)
        answers = CounterMetricFamily(
            "orca_http_requests", "Requests answered", labels=["method", "route", "status"]
        )
        for labels, count in sorted(self._answers.items()):
            answers.add_metric(list(labels), count)
        return [took, answers]
