"""What the endpoints of the ingress answer."""

import msgspec


class ShareOut(msgspec.Struct, frozen=True):
    """`percent`: of the requests; `replicas`: those that get them."""

    revision: int
    percent: float
    replicas: int


class RouteOut(msgspec.Struct, frozen=True):
    """`path`: a prefix, `/` for all. `reason`: why requests are refused; null: they are not."""

    domain: str
    path: str
    project: str
    service: str
    shares: list[ShareOut]
    reason: str | None


class EntranceOut(msgspec.Struct, frozen=True):
    """A node's ingress. `state`: idle, serving, failed, or unknown before it has said anything."""

    node: str
    state: str
    reason: str | None
    address: str
    http_port: int | None
    https_port: int | None


class RoutesOut(msgspec.Struct, frozen=True):
    """In order of domain and path, the longest first, and of nodes' names."""

    routes: list[RouteOut]
    nodes: list[EntranceOut]


class BackendOut(msgspec.Struct, frozen=True):
    """A replica that may get the request; `percent`: of those that it gets one."""

    replica: int
    revision: int
    node: str
    address: str
    percent: float


class ExplainedOut(msgspec.Struct, frozen=True):
    """What becomes of a request. `domain`: the one that is routed, maybe with `*`; `match`: requests with
    this go to the canary instead; `reason`: why it is refused, or null."""

    url: str
    domain: str | None
    path: str | None
    project: str | None
    service: str | None
    rewritten: str | None
    shares: list[ShareOut]
    backends: list[BackendOut]
    match: str | None
    entrances: list[str]
    reason: str | None
