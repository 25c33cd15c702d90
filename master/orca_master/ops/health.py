"""`GET /api/v1/health` and `GET /metrics`: open to everybody, and cheap."""

from collections import Counter as Counts
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from orca_master.cluster.model import NODES, NodeState
from orca_master.cluster.operations import down_nodes
from orca_master.http.dialects import CLUSTER
from orca_master.http.route import Call, NoQuery, Open, Route, Served, Text
from orca_master.ops.answers import HealthOut
from orca_master.services.model import SERVICES
from orca_master.services.status import known_tasks
from orca_master.state.rows import State
from orca_master.state.store import Store

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class StateCollector(Collector):
    """Gauges that are read off the state at each scrape."""

    def __init__(self, store: Store, version: str) -> None:
        self._store = store
        self._version = version

    def collect(self) -> Iterable[Metric]:
        state = self._store.state
        build = GaugeMetricFamily("orca_build_info", "Version of this master", labels=["version"])
        build.add_metric([self._version], 1)
        services = GaugeMetricFamily("orca_services_total", "Services known to the cluster")
        services.add_metric([], state.count(SERVICES))
        return [build, services, _instances(state), _nodes(state)]


def _instances(state: State) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "orca_instances_total",
        "Replicas by what they do",
        labels=["service", "project", "status"],
    )
    counts: Counts[tuple[str, str, str]] = Counts()
    down = down_nodes(state)
    for service in state.scan(SERVICES):
        for word in ("running", "stopped"):
            counts[service.name, service.project, word] = 0
        for task in known_tasks(state, service, down):
            word = "running" if task.is_ready else "stopped"
            counts[service.name, service.project, word] += 1
    for labels, count in sorted(counts.items()):
        family.add_metric(list(labels), count)
    return family


def _nodes(state: State) -> GaugeMetricFamily:
    family = GaugeMetricFamily("orca_nodes_total", "Nodes by their state", labels=["state"])
    counts = Counts(node.state for node in state.scan(NODES))
    for each in NodeState:
        family.add_metric([str(each)], counts[each])
    return family


@dataclass(frozen=True, slots=True)
class OpsRoutes:
    """`put_aside` says which objects controllers have put aside, and why; `collectors`: more metrics."""

    store: Store
    version: str
    put_aside: Callable[[], Sequence[str]] = tuple
    collectors: Sequence[Collector] = ()

    def table(self) -> list[Route]:
        registry = CollectorRegistry()
        for collector in (StateCollector(self.store, self.version), *self.collectors):
            registry.register(collector)

        async def metrics(call: Call[NoQuery, None]) -> object:
            async def once() -> AsyncIterator[bytes]:
                yield generate_latest(registry)

            return Text(once(), CONTENT_TYPE)

        route = partial(Route, dialect=CLUSTER, tag="operation")
        return [
            route(
                "GET /api/v1/health",
                Open.PUBLIC,
                self.health,
                "Whether this cluster can do its work",
                answer=HealthOut,
                served=Served.HERE,
            ),
            route(
                "GET /metrics",
                Open.PUBLIC,
                metrics,
                "Prometheus metrics",
                media_type="text/plain",
                served=Served.HERE,
            ),
        ]

    async def health(self, call: Call[NoQuery, None]) -> HealthOut:
        """`ok`, or `degraded` with the reasons, as far as this master knows."""
        down = [n.name for n in self.store.state.scan(NODES) if n.state is NodeState.DOWN]
        leaderless = [] if self.store.leadership.leader else ["no master leads"]
        reasons = leaderless + [f"node {name} is down" for name in sorted(down)]
        reasons += self.put_aside()
        return HealthOut("degraded", reasons) if reasons else HealthOut("ok")
