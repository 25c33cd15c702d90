"""What every node's ingress is to serve, from the state. Pure: equal states give equal tables.

A site is a domain with its routes, a pool the replicas of a service that get requests, with weights. Replicas
are reached at their nodes' addresses, so that the table is the same for all nodes. A service without any
replica to send requests to keeps its routes: its pool is empty, and that is what is answered.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orca_master.cluster.model import NODES
from orca_master.cluster.operations import down_nodes
from orca_master.ingress.certificates.choosing import certificates
from orca_master.ingress.certificates.model import ORDERS
from orca_master.ingress.shares import routed, shares
from orca_master.services.model import Service
from orca_master.services.routing.model import Routing
from orca_master.state.table import View
from orca_master.tasks.model import Task
from orca_proto import worker_pb2 as pb

CANARY = "@canary"
"""Ends the name of a pool that has only a canary's replicas, for testers."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Sites by host, pools and certificates by name, each as the bytes of its message; certificates without
    their keys."""

    sites: dict[str, bytes]
    pools: dict[str, bytes]
    certificates: dict[str, bytes]


NOTHING = Tables({}, {}, {})


def compile_tables(view: View) -> Tables:
    down = down_nodes(view)
    addresses = {node.id: node.facts.address for node in view.scan(NODES)}
    routes: dict[str, list[pb.Route]] = defaultdict(list)
    pools: dict[str, bytes] = {}
    services = routed(view)
    for service in services:
        routing, name = service.policy.routing, pool_name(service)
        found = shares(view, service, down)
        backends = [_backend(t, addresses, found.weights[t.revision]) for t in found.tasks]
        pools[name] = _pool(name, routing, backends)
        if found.testers:
            testers = [_backend(task, addresses, 1) for task in found.testers]
            pools[name + CANARY] = _pool(name + CANARY, routing, testers)
        for domain in routing.domains:
            routes[domain] += _routes(service, with_testers=bool(found.testers))
    challenges = {order.domain: order for order in view.scan(ORDERS) if order.token}
    sites = {
        host: _bytes(
            pb.Site(
                host=host,
                routes=sorted(found, key=_longest_first),
                challenges=(
                    {challenges[host].token: challenges[host].answer} if host in challenges else {}
                ),
            )
        )
        for host, found in routes.items()
    }
    return Tables(sites, pools, _certificates(view, services))


def _certificates(view: View, services: Sequence[Service]) -> dict[str, bytes]:
    hosts: dict[str, list[str]] = defaultdict(list)
    chains: dict[str, bytes] = {}
    for domain, row in certificates(view, services).items():
        name = f"{row.tenant}/{row.name}"
        hosts[name].append(domain)
        chains[name] = row.chain
    return {
        name: _bytes(pb.Certificate(name=name, hosts=sorted(hosts[name]), chain=chain))
        for name, chain in chains.items()
    }


def _routes(service: Service, *, with_testers: bool) -> Iterator[pb.Route]:
    """Of each path, those of testers first."""
    routing, name = service.policy.routing, pool_name(service)
    match = service.policy.rollout.canary.match
    for path in routing.paths:
        if with_testers and match is not None:
            header = pb.HeaderMatch(name=match.name, value=match.value, cookie=match.cookie)
            yield _route(path, name + CANARY, routing, [header])
        yield _route(path, name, routing, [])


def _bytes(message: pb.Site | pb.Pool | pb.Certificate) -> bytes:
    return message.SerializeToString(deterministic=True)


def pool_name(service: Service) -> str:
    return f"{service.tenant}/{service.project}/{service.name}"


def _longest_first(route: pb.Route) -> tuple[int, str, int, str]:
    return -len(route.path), route.path, -len(route.headers), route.pool


def _route(path: str, pool: str, routing: Routing, headers: Sequence[pb.HeaderMatch]) -> pb.Route:
    limits = routing.limits
    return pb.Route(
        path=path,
        pool=pool,
        strip=routing.strip,
        headers=headers,
        idle_seconds=limits.idle_seconds,
        timeout_seconds=limits.timeout_seconds,
        most_body_bytes=limits.most_body_bytes,
        requests_per_second=limits.requests_per_second,
        burst=limits.burst,
        security_headers=routing.security_headers,
        hsts=routing.hsts,
        redirect=routing.redirect,
    )


def _pool(name: str, routing: Routing, backends: Sequence[pb.Backend]) -> bytes:
    sticky = routing.sticky
    pool = pb.Pool(
        name=name,
        backends=backends,
        http2=routing.http2,
        sticky_cookie=sticky.name if sticky is not None and sticky.cookie else "",
        sticky_header=sticky.name if sticky is not None and not sticky.cookie else "",
    )
    return _bytes(pool)


def _backend(task: Task, addresses: dict[str, str], weight: int) -> pb.Backend:
    return pb.Backend(
        address=addresses.get(task.node, ""),
        port=task.observed.host_port,
        weight=weight,
        revision=task.revision,
        task=task.id,
    )
