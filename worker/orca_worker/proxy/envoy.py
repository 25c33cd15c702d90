"""Sites and pools as Envoy's configuration. Pure: equal tables give equal files.

Four kinds of files, each a discovery response that Envoy reads whenever another one is renamed over it: the
listeners, the routes, the clusters, and of each cluster its endpoints. A change of replicas is so a change of
one small file, which touches neither a listener nor a connection to any other replica.

A pool is one cluster whose endpoints have weights, in turns: shares are exact, whatever the numbers of
replicas. Clusters of weights would draw at random.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orca_proto import worker_pb2 as pb
from orca_worker.proxy import listeners
from orca_worker.proxy.words import API, hours, resources, seconds, typed

LISTENERS = "listeners.json"
ROUTES = "routes.json"
CLUSTERS = "clusters.json"
IDEMPOTENT = "^(GET|HEAD|PUT|DELETE|OPTIONS|TRACE)$"
APPEND = "APPEND_IF_EXISTS_OR_ADD"
RETRIES = 2
CONNECT_SECONDS = 2.0
UPSTREAM_IDLE_SECONDS = 1.5
"""Programs close connections that are idle, many after 2 to 5 s: the ingress is sooner."""
EJECTION_SECONDS, MOST_EJECTION_SECONDS = 1.0, 10.0

_SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
    "referrer-policy": "strict-origin-when-cross-origin",
}


@dataclass(frozen=True, slots=True)
class Tables:
    """What is to be served: sites by host, pools by name."""

    sites: Mapping[str, pb.Site] = field(default_factory=dict)
    pools: Mapping[str, pb.Pool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Files:
    """Contents by name, in the folder of the configuration. A name that is not here is to go."""

    listeners: dict[str, bytes]
    routes: dict[str, bytes]
    clusters: dict[str, bytes]
    endpoints: dict[str, bytes]


def compile_files(tables: Tables, settings: listeners.Settings, folder: str) -> Files:
    """`folder`: where the files are to be, for what one says of another."""
    pools = [tables.pools[name] for name in sorted(tables.pools)]
    sites = [tables.sites[host] for host in sorted(tables.sites)]
    return Files(
        listeners={LISTENERS: _file(listeners.listeners(settings, folder))},
        routes={ROUTES: _file([_route_table(sites, tables.pools, settings)])},
        clusters=clusters_file(tables.pools, folder),
        endpoints={endpoints_file(pool.name): _file([_endpoints(pool)]) for pool in pools},
    )


def clusters_file(pools: Mapping[str, pb.Pool], folder: str) -> dict[str, bytes]:
    return {CLUSTERS: _file([_cluster(pools[name], folder) for name in sorted(pools)])}


def endpoints_file(pool: str) -> str:
    """Names of pools hold slashes."""
    return f"endpoints-{hashlib.sha256(pool.encode()).hexdigest()[:32]}.json"


def _file(found: list[dict[str, Any]]) -> bytes:
    text = json.dumps(found, sort_keys=True, separators=(",", ":"))
    version = hashlib.sha256(text.encode()).hexdigest()[:16]
    whole = resources(version, found)
    return json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()


def _endpoints(pool: pb.Pool) -> dict[str, Any]:
    found = [
        {
            "endpoint": {
                "address": {"socket_address": {"address": each.address, "port_value": each.port}},
                "hostname": f"{each.revision}.{each.task}",
            },
            "load_balancing_weight": each.weight,
        }
        for each in pool.backends
    ]
    return {
        "@type": f"{API}.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": pool.name,
        "endpoints": [{"lb_endpoints": found}],
    }


def _cluster(pool: pb.Pool, folder: str) -> dict[str, Any]:
    http: dict[str, Any] = (
        {"http2_protocol_options": {}} if pool.http2 else {"http_protocol_options": {}}
    )
    options = {
        "explicit_http_config": http,
        "common_http_protocol_options": {"idle_timeout": seconds(UPSTREAM_IDLE_SECONDS)},
    }
    is_sticky = bool(pool.sticky_cookie or pool.sticky_header)
    return {
        "@type": f"{API}.config.cluster.v3.Cluster",
        "name": pool.name,
        "type": "EDS",
        "eds_cluster_config": {
            "eds_config": {
                "resource_api_version": "V3",
                "path_config_source": {"path": f"{folder}/{endpoints_file(pool.name)}"},
            }
        },
        "connect_timeout": seconds(CONNECT_SECONDS),
        "lb_policy": "RING_HASH" if is_sticky else "ROUND_ROBIN",
        "common_lb_config": {"healthy_panic_threshold": {"value": 1}},
        "outlier_detection": _outliers(),
        "circuit_breakers": {"thresholds": [_no_limits()]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
                "extensions.upstreams.http.v3.HttpProtocolOptions", options
            )
        },
    }


def _outliers() -> dict[str, Any]:
    """Who refuses connections is left out for a while, by this node alone; who answers badly is not."""
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 1,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_local_origin_success_rate": 0,
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "interval": seconds(0.5),
        "base_ejection_time": seconds(EJECTION_SECONDS),
        "max_ejection_time": seconds(MOST_EJECTION_SECONDS),
        "max_ejection_percent": 100,
    }


def _no_limits() -> dict[str, Any]:
    """Of what is under way at once; retries are bounded by their share."""
    most = 1 << 20
    return {
        "max_connections": most,
        "max_pending_requests": most,
        "max_requests": most,
        "retry_budget": {"budget_percent": {"value": 25.0}, "min_retry_concurrency": 10},
    }


def _route_table(
    sites: Iterable[pb.Site], pools: Mapping[str, pb.Pool], settings: listeners.Settings
) -> dict[str, Any]:
    return {
        "@type": f"{API}.config.route.v3.RouteConfiguration",
        "name": listeners.ROUTE_TABLE,
        "ignore_port_in_host_matching": True,
        "virtual_hosts": [_virtual_host(site, pools) for site in sites],
        "request_headers_to_add": _told(settings),
        "request_headers_to_remove": ["x-envoy-internal", "x-envoy-external-address"],
    }


def _told(settings: listeners.Settings) -> list[dict[str, Any]]:
    """What services are told of the client, beside X-Forwarded-Proto, which is Envoy's own."""
    client = "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"
    action = "ADD_IF_ABSENT" if settings.behind_proxy else "OVERWRITE_IF_EXISTS_OR_ADD"
    told = [
        ("x-forwarded-for", "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%", APPEND),
        ("x-forwarded-host", "%REQ(:AUTHORITY)%", action),
        ("x-real-ip", client, action),
    ]
    return [
        {"header": {"key": key, "value": value}, "append_action": how} for key, value, how in told
    ]


def _virtual_host(site: pb.Site, pools: Mapping[str, pb.Pool]) -> dict[str, Any]:
    found = [each for route in site.routes for each in _routes(route, pools.get(route.pool))]
    return {"name": site.host, "domains": [site.host], "routes": found}


def _routes(route: pb.Route, pool: pb.Pool | None) -> list[dict[str, Any]]:
    """Twice: what may be sent again when a replica fails on the way, and what may not."""
    sticky = _hash_policy(pool) if pool is not None else []
    again = {"name": ":method", "string_match": {"safe_regex": {"regex": IDEMPOTENT}}}
    matches = [_match(each) for each in route.headers]
    return [
        _one(route, [again, *matches], "connect-failure,refused-stream,reset", sticky),
        _one(route, matches, "connect-failure,refused-stream", sticky),
    ]


def _hash_policy(pool: pb.Pool) -> list[dict[str, Any]]:
    if pool.sticky_header:
        return [{"header": {"header_name": pool.sticky_header}}]
    if pool.sticky_cookie:
        return [{"cookie": {"name": pool.sticky_cookie, "ttl": "0s", "path": "/"}}]
    return []


def _match(match: pb.HeaderMatch) -> dict[str, Any]:
    if match.cookie:
        pattern = f"(^|.*;\\s*){_quoted(match.name)}="
        pattern += f"{_quoted(match.value)}(;.*|$)" if match.value else ".*"
        return {"name": "cookie", "string_match": {"safe_regex": {"regex": pattern}}}
    if match.value:
        return {"name": match.name, "string_match": {"exact": match.value}}
    return {"name": match.name, "present_match": True}


def _quoted(text: str) -> str:
    """As RE2 takes it: every character that is not a letter or digit with a backslash."""
    return "".join(c if c.isalnum() else f"\\{c}" for c in text)


def _one(
    route: pb.Route,
    headers: list[dict[str, Any]],
    retry_on: str,
    sticky: list[dict[str, Any]],
) -> dict[str, Any]:
    match: dict[str, Any] = {"headers": headers} if headers else {}
    match |= {"prefix": "/"} if route.path == "/" else {"path_separated_prefix": route.path}
    action: dict[str, Any] = {
        "cluster": route.pool,
        "timeout": seconds(route.timeout_seconds),
        "idle_timeout": seconds(route.idle_seconds),
        "retry_policy": {
            "retry_on": retry_on,
            "num_retries": RETRIES,
            "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
            "host_selection_retry_max_attempts": 3,
            "retry_host_predicate": [
                {
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": typed(
                        "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", {}
                    ),
                }
            ],
        },
    }
    if sticky:
        action["hash_policy"] = sticky
    if route.strip and route.path != "/":
        pattern = f"^{_quoted(route.path)}/?"
        action["regex_rewrite"] = {"pattern": {"regex": pattern}, "substitution": "/"}
    found: dict[str, Any] = {"match": match, "route": action}
    if added := _added_headers(route):
        found["response_headers_to_add"] = added
    if filters := _per_route_filters(route):
        found["typed_per_filter_config"] = filters
    return found


def _added_headers(route: pb.Route) -> list[dict[str, Any]]:
    wanted = dict(_SECURITY_HEADERS) if route.security_headers else {}
    if route.hsts:
        wanted["strict-transport-security"] = f"max-age={hours(24 * 365)}; includeSubDomains"
    return [
        {"header": {"key": key, "value": value}, "append_action": "ADD_IF_ABSENT"}
        for key, value in sorted(wanted.items())
    ]


def _per_route_filters(route: pb.Route) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if route.most_body_bytes:
        found[listeners.BODY_FILTER] = typed(
            "extensions.filters.http.buffer.v3.BufferPerRoute",
            {"buffer": {"max_request_bytes": route.most_body_bytes}},
        )
    if route.requests_per_second:
        found[listeners.RATE_FILTER] = listeners.rate_limit(
            route.requests_per_second, route.burst or route.requests_per_second
        )
    return found
