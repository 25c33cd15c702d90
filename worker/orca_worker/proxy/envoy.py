"""Sites and pools as Envoy's configuration. Pure: equal tables give equal files.

Four kinds of files, each a discovery response that Envoy reads whenever another one is renamed over it: the
listeners, the routes, the clusters, and of each cluster its endpoints. A change of replicas is so a change of
one small file, which touches neither a listener nor a connection to any other replica.

A pool is one cluster whose endpoints have weights, in turns: shares are exact, whatever the numbers of
replicas. Clusters of weights would draw at random.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orca_proto import worker_pb2 as pb
from orca_worker.proxy import listeners
from orca_worker.proxy.words import API, hours, resources, seconds, typed

LISTENERS = "listeners.json"
HTTPS_PORT = 443
CLUSTERS = "clusters.json"
IDEMPOTENT = "^(GET|HEAD|PUT|DELETE|OPTIONS|TRACE)$"
APPEND = "APPEND_IF_EXISTS_OR_ADD"
RETRIES = 4
CONNECT_SECONDS = 0.75
SILENT_SECONDS = 0.5
"""What was sent to a replica and not even acknowledged for so long is lost with its node."""
UPSTREAM_IDLE_SECONDS = 1.5
"""Programs close connections that are idle, many after 2 to 5 s: the ingress is sooner."""
EJECTION_SECONDS, MOST_EJECTION_SECONDS = 3.0, 10.0
_TCP, _TCP_USER_TIMEOUT = 6, 18  # as the kernel numbers them

_SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
    "referrer-policy": "strict-origin-when-cross-origin",
}


@dataclass(frozen=True, slots=True)
class Tables:
    """What is to be served: sites by host, pools and certificates by name."""

    sites: Mapping[str, pb.Site] = field(default_factory=dict)
    pools: Mapping[str, pb.Pool] = field(default_factory=dict)
    certificates: Mapping[str, pb.Certificate] = field(default_factory=dict)

    @property
    def secured(self) -> set[str]:
        """The hosts with a certificate."""
        return {host for each in self.certificates.values() for host in each.hosts}


@dataclass(frozen=True, slots=True)
class Files:
    """Contents by name, in the folder of the configuration, those of `secrets` in one that is in memory. A
    name that is not here is to go."""

    secrets: dict[str, bytes]
    listeners: dict[str, bytes]
    routes: dict[str, bytes]
    clusters: dict[str, bytes]
    endpoints: dict[str, bytes]


def compile_files(tables: Tables, settings: listeners.Settings, folder: str, memory: str) -> Files:
    """`folder` and `memory`: where the files are to be, for what one says of another."""
    pools = [tables.pools[name] for name in sorted(tables.pools)]
    shown = [tables.certificates[name] for name in sorted(tables.certificates)]
    files = [
        listeners.Shown(each.name, tuple(each.hosts), memory + "/" + _secret_file(each.name))
        for each in shown
    ]
    return Files(
        secrets={_secret_file(each.name): _file([_secret(each)]) for each in shown},
        listeners={LISTENERS: _file(listeners.listeners(settings, folder, files))},
        routes={
            listeners.routes_file(table): _file([_route_table(table, tables, settings)])
            for table in listeners.TABLES
        },
        clusters=clusters_file(tables.pools, folder),
        endpoints={endpoints_file(pool.name): _file([_endpoints(pool)]) for pool in pools},
    )


def clusters_file(pools: Mapping[str, pb.Pool], folder: str) -> dict[str, bytes]:
    return {CLUSTERS: _file([_cluster(pools[name], folder) for name in sorted(pools)])}


def endpoints_file(pool: str) -> str:
    """Names of pools hold slashes."""
    return f"endpoints-{hashlib.sha256(pool.encode()).hexdigest()[:32]}.json"


def _secret_file(certificate: str) -> str:
    return f"secret-{hashlib.sha256(certificate.encode()).hexdigest()[:32]}.json"


def _secret(certificate: pb.Certificate) -> dict[str, Any]:
    return {
        "@type": f"{API}.extensions.transport_sockets.tls.v3.Secret",
        "name": certificate.name,
        "tls_certificate": {
            "certificate_chain": {"inline_string": certificate.chain.decode()},
            "private_key": {"inline_string": certificate.key.decode()},
        },
    }


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
        "upstream_bind_config": {"socket_options": [_gives_up()]},
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_time": 1, "keepalive_interval": 1, "keepalive_probes": 2}
        },
        "circuit_breakers": {"thresholds": [_no_limits()]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
                "extensions.upstreams.http.v3.HttpProtocolOptions", options
            )
        },
    }


def _gives_up() -> dict[str, Any]:
    """A connection to a node that answers nothing any more (RFC 5482)."""
    return {
        "description": "TCP_USER_TIMEOUT",
        "level": _TCP,
        "name": _TCP_USER_TIMEOUT,
        "int_value": round(SILENT_SECONDS * 1000),
        "state": "STATE_PREBIND",
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
    """Of what is under way at once; retries may be as many: with a node half of all need one at once."""
    most = 1 << 20
    return {
        "max_connections": most,
        "max_pending_requests": most,
        "max_requests": most,
        "retry_budget": {"budget_percent": {"value": 100.0}, "min_retry_concurrency": 1000},
    }


def _route_table(table: str, tables: Tables, settings: listeners.Settings) -> dict[str, Any]:
    secured = tables.secured
    hosts = []
    for name in sorted(tables.sites):
        site = tables.sites[name]
        is_redirected = table == listeners.HTTP and name in secured
        hosts.append(_virtual_host(site, tables.pools, settings, is_redirected=is_redirected))
    return {
        "@type": f"{API}.config.route.v3.RouteConfiguration",
        "name": table,
        "ignore_port_in_host_matching": True,
        "virtual_hosts": hosts,
        "request_headers_to_add": _told(settings),
        "request_headers_to_remove": ["x-envoy-internal", "x-envoy-external-address"],
    }


def _told(settings: listeners.Settings) -> list[dict[str, Any]]:
    """What services are told of the client, beside X-Forwarded-Proto, which is Envoy's own."""
    client = "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"
    peer = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"
    action = "ADD_IF_ABSENT" if settings.behind_proxy else "OVERWRITE_IF_EXISTS_OR_ADD"
    told = [
        ("x-forwarded-for", peer if settings.behind_proxy else client, APPEND),
        ("x-forwarded-host", "%REQ(:AUTHORITY)%", action),
        ("x-real-ip", client, action),
    ]
    return [
        {"header": {"key": key, "value": value}, "append_action": how} for key, value, how in told
    ]


def _virtual_host(
    site: pb.Site,
    pools: Mapping[str, pb.Pool],
    settings: listeners.Settings,
    *,
    is_redirected: bool,
) -> dict[str, Any]:
    found = [_challenge(token, site.challenges[token]) for token in sorted(site.challenges)]
    for route in site.routes:
        if is_redirected and route.redirect:
            found.append(_redirect(route, settings.https_port))
        else:
            found += _routes(route, pools.get(route.pool))
    return {"name": site.host, "domains": [site.host], "routes": found}


def _challenge(token: str, answer: str) -> dict[str, Any]:
    """RFC 8555, 8.3."""
    return {
        "match": {"path": f"/.well-known/acme-challenge/{token}"},
        "direct_response": {"status": 200, "body": {"inline_string": answer}},
    }


def _redirect(route: pb.Route, port: int) -> dict[str, Any]:
    to = {"https_redirect": True, "response_code": "PERMANENT_REDIRECT"}
    return {
        "match": _where(route),
        "redirect": to if port == HTTPS_PORT else {**to, "port_redirect": port},
    }


def _where(route: pb.Route) -> dict[str, Any]:
    return {"prefix": "/"} if route.path == "/" else {"path_separated_prefix": route.path}


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
    match |= _where(route)
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
