"""What becomes of a request, and why. Pure: the same rules as `compile`, in words."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from orca_master.cluster.model import NODES, Node, NodeState
from orca_master.cluster.operations import down_nodes
from orca_master.ingress.answers import (
    BackendOut,
    EntranceOut,
    ExplainedOut,
    RouteOut,
    RoutesOut,
    ShareOut,
)
from orca_master.ingress.model import SERVINGS, Serving
from orca_master.ingress.serving import serving_nodes
from orca_master.ingress.shares import Shares, routed, shares
from orca_master.services.model import Service
from orca_master.services.routing.model import Match
from orca_master.state.table import View

UNKNOWN = "unknown"


def routes(view: View, tenant: str, project: str | None) -> RoutesOut:
    down = down_nodes(view)
    found = [
        _route(service, shares(view, service, down), domain, path)
        for service in _of(view, tenant)
        if project in (None, service.project)
        for domain in service.policy.routing.domains
        for path in service.policy.routing.paths
    ]
    found.sort(key=lambda r: (r.domain, -len(r.path), r.path))
    return RoutesOut(found, [_entrance(view, node) for node in serving_nodes(view)])


def explain(view: View, tenant: str, project: str | None, url: str) -> ExplainedOut:
    """`url`: absolute. Raises ValueError."""
    parts = urlsplit(url)
    host, path = (parts.hostname or "").rstrip("."), parts.path or "/"
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("must be a URL such as https://app.example.com/path")
    services = list(_of(view, tenant))
    entrances = list(_urls(view, parts.scheme))
    why_not = "" if entrances else "no node serves requests: see `orca routes`"
    domain = _domain(services, host)
    if domain is None:
        return _nothing(url, f"no service has the domain {host}", entrances)
    fitting = [
        (path_, service)
        for service in services
        if domain in service.policy.routing.domains
        for path_ in service.policy.routing.paths
        if _is_below(path, path_)
    ]
    if not fitting:
        return _nothing(url, f"no service of {domain} has a route for {path}", entrances, domain)
    prefix, service = max(fitting, key=lambda each: len(each[0]))
    if project not in (None, service.project):
        return _nothing(url, f"{domain} belongs to another project", entrances, domain)
    found = shares(view, service, down_nodes(view))
    routing, match = service.policy.routing, service.policy.rollout.canary.match
    return ExplainedOut(
        url=url,
        domain=domain,
        path=prefix,
        project=service.project,
        service=service.name,
        rewritten=_below(path, prefix) if routing.strip and prefix != "/" else None,
        shares=_shares_out(found),
        backends=list(_backends(view, found)),
        match=_match(match) if match is not None and found.testers else None,
        entrances=entrances,
        reason=why_not or _why_not(service, found),
    )


def _of(view: View, tenant: str) -> Iterable[Service]:
    return (service for service in routed(view) if service.tenant == tenant)


def _nothing(
    url: str, reason: str, entrances: list[str], domain: str | None = None
) -> ExplainedOut:
    return ExplainedOut(
        url, domain, None, None, None, None, [], [], None, entrances, f"404: {reason}"
    )


def _domain(services: list[Service], host: str) -> str | None:
    """The one that fits best: the name itself, else the longest wildcard."""
    known = {domain for service in services for domain in service.policy.routing.domains}
    if host in known:
        return host
    fitting = [d for d in known if d.startswith("*.") and host.endswith(d[1:]) and host != d[2:]]
    return max(fitting, key=len, default=None)


def _is_below(path: str, prefix: str) -> bool:
    return prefix == "/" or path == prefix or path.startswith(prefix + "/")


def _below(path: str, prefix: str) -> str:
    return "/" + path.removeprefix(prefix).removeprefix("/")


def _route(service: Service, found: Shares, domain: str, path: str) -> RouteOut:
    return RouteOut(
        domain=domain,
        path=path,
        project=service.project,
        service=service.name,
        shares=_shares_out(found),
        reason=_why_not(service, found),
    )


def _why_not(service: Service, found: Shares) -> str | None:
    if found.tasks:
        return None
    if service.stopped or not service.replicas:
        return f"503: service {service.name} is stopped"
    return f"503: no replica of service {service.name} is ready; see `orca status {service.name}`"


def _shares_out(found: Shares) -> list[ShareOut]:
    return [
        ShareOut(number, round(percent, 3), sum(t.revision == number for t in found.tasks))
        for number, percent in found.percents.items()
    ]


def _backends(view: View, found: Shares) -> Iterable[BackendOut]:
    total = sum(found.weights[task.revision] for task in found.tasks)
    for task in sorted(found.tasks, key=lambda t: (t.slot, t.revision)):
        node = view.get(NODES, task.node)
        address = node.facts.address if node else ""
        yield BackendOut(
            replica=task.slot,
            revision=task.revision,
            node=node.name if node else task.node,
            address=f"{address}:{task.observed.host_port}",
            percent=round(100 * found.weights[task.revision] / total, 3),
        )


def _match(match: Match) -> str:
    kind = "cookie" if match.cookie else "header"
    return f"{kind} {match.name}" + (f": {match.value}" if match.value else "")


def _entrance(view: View, node: Node) -> EntranceOut:
    serving = view.get(SERVINGS, node.id) or Serving(node.id, UNKNOWN)
    is_down = node.state is NodeState.DOWN
    return EntranceOut(
        node=node.name,
        state=UNKNOWN if is_down else serving.state,
        reason="the node is down" if is_down else serving.reason or None,
        address=node.facts.address,
        http_port=serving.http_port or None,
        https_port=serving.https_port or None,
    )


def _urls(view: View, scheme: str) -> Iterable[str]:
    """Where requests come in now."""
    for node in serving_nodes(view):
        entrance = _entrance(view, node)
        port = entrance.http_port if scheme == "http" else entrance.https_port
        if entrance.state == "serving" and port:
            yield f"{scheme}://{entrance.address}:{port}"
