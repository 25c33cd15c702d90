"""The ways in: listeners, and what happens to each request before and after it is routed. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orca_worker.proxy.words import API, seconds, typed

HTTP, HTTPS = "http", "https"
TABLES = (HTTP, HTTPS)
"""Of routes, and of the listeners that have them."""
BODY_FILTER = "envoy.filters.http.buffer"
RATE_FILTER = "envoy.filters.http.local_ratelimit"
ACCESS_LOG = "access.log"
HEADERS_SECONDS = 10.0
IDLE_CONNECTION_SECONDS = 75.0
"""Longer than clients and proxies before this one keep theirs."""
BUFFER_BYTES = 1 << 20
MOST_HEADERS_KIB = 60
MOST_ADDRESSES = 20_000
"""Clients whose rates are counted at once."""

_FORWARDING = (
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
)
_NOT_FROM_OUTSIDE = "x-envoy-"
"""Begins the names of headers that tell Envoy what to do. One look at all is cheaper than one for each."""
_PAGES = (
    (["NR"], 404, "404 Not Found: no service is routed here"),
    (["UH", "NC"], 503, "503 Service Unavailable: no replica of this service is ready"),
    (["UO", "URX", "UF"], 502, "502 Bad Gateway: the connection to the service failed"),
    (["UC", "UR", "LR", "UPE"], 502, "502 Bad Gateway: the service ended the connection"),
    (["UT", "SI", "DT", "UMSDR"], 504, "504 Gateway Timeout: the service took too long"),
    (["RL"], 429, "429 Too Many Requests: come back more slowly"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """`behind_proxy`: how many proxies stand before this one, whose forwarding headers are believed.
    `proxy_protocol`: connections begin with that (HAProxy's, 1 or 2)."""

    address: str = "0.0.0.0"
    http_port: int = 80
    https_port: int = 443
    behind_proxy: int = 0
    proxy_protocol: bool = False
    access_log: bool = True


@dataclass(frozen=True, slots=True)
class Shown:
    """A certificate, and the file that holds it."""

    name: str
    hosts: tuple[str, ...]
    file: str


def listeners(settings: Settings, folder: str, shown: Sequence[Shown]) -> list[dict[str, Any]]:
    """The one for HTTPS is there as soon as there is a certificate."""
    manager = _network_filter(HTTP, settings, folder)
    found = [_listener(HTTP, settings.http_port, settings, [{"filters": [manager]}])]
    if shown:
        manager = _network_filter(HTTPS, settings, folder)
        chains = [_secured(each, manager) for each in shown]
        found.append(_listener(HTTPS, settings.https_port, settings, chains))
    return found


def _secured(shown: Shown, manager: dict[str, Any]) -> dict[str, Any]:
    """One for each certificate: a change of one leaves the others' connections alone."""
    source = {"resource_api_version": "V3", "path_config_source": {"path": shown.file}}
    context = {
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificate_sds_secret_configs": [{"name": shown.name, "sds_config": source}],
        },
    }
    return {
        "name": shown.name,
        "filter_chain_match": {"server_names": list(shown.hosts)},
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": typed(
                "extensions.transport_sockets.tls.v3.DownstreamTlsContext", context
            ),
        },
        "transport_socket_connect_timeout": seconds(HEADERS_SECONDS),
        "filters": [manager],
    }


def routes_file(table: str) -> str:
    return f"routes-{table}.json"


def rate_limit(per_second: int, burst: int) -> dict[str, Any]:
    """For each client's address. More tokens than a second's are filled in over several."""
    bucket = {
        "max_tokens": max(burst, per_second),
        "tokens_per_fill": per_second,
        "fill_interval": "1s",
    }
    everyone = {"max_tokens": 1 << 31, "tokens_per_fill": 1 << 31, "fill_interval": "1s"}
    return typed(
        "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        {
            "stat_prefix": "orca_rate",
            "token_bucket": everyone,
            "filter_enabled": _always(),
            "filter_enforced": _always(),
            "descriptors": [{"entries": [{"key": "remote_address"}], "token_bucket": bucket}],
            "max_dynamic_descriptors": MOST_ADDRESSES,
            "rate_limits": [{"actions": [{"remote_address": {}}]}],
        },
    )


def _always() -> dict[str, Any]:
    return {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}


def _listener(
    name: str, port: int, settings: Settings, chains: list[dict[str, Any]]
) -> dict[str, Any]:
    before: list[dict[str, Any]] = []
    if settings.proxy_protocol:
        before.append(_listener_filter("proxy_protocol", "ProxyProtocol"))
    if name == HTTPS:
        before.append(_listener_filter("tls_inspector", "TlsInspector"))
    return {
        "@type": f"{API}.config.listener.v3.Listener",
        "name": name,
        "address": {"socket_address": {"address": settings.address, "port_value": port}},
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "listener_filters": before,
        "listener_filters_timeout": seconds(HEADERS_SECONDS),
        "filter_chains": chains,
    }


def _listener_filter(name: str, message: str) -> dict[str, Any]:
    return {
        "name": f"envoy.filters.listener.{name}",
        "typed_config": typed(f"extensions.filters.listener.{name}.v3.{message}", {}),
    }


def _network_filter(name: str, settings: Settings, folder: str) -> dict[str, Any]:
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": _manager(name, settings, folder),
    }


def _manager(name: str, settings: Settings, folder: str) -> dict[str, Any]:
    routes = {
        "route_config_name": name,
        "config_source": {
            "resource_api_version": "V3",
            "path_config_source": {"path": f"{folder}/{routes_file(name)}"},
        },
    }
    return typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        {
            "stat_prefix": name,
            "codec_type": "AUTO",
            "rds": routes,
            "http_filters": _filters(),
            "use_remote_address": True,
            "skip_xff_append": True,  # of a client on this machine it would tell another address
            "xff_num_trusted_hops": settings.behind_proxy,
            "internal_address_config": {"unix_sockets": False},
            "early_header_mutation_extensions": [_without(settings)],
            "normalize_path": True,
            "merge_slashes": False,
            "path_with_escaped_slashes_action": "REJECT_REQUEST",
            "strip_trailing_host_dot": True,
            "server_header_transformation": "PASS_THROUGH",
            "max_request_headers_kb": MOST_HEADERS_KIB,
            "request_headers_timeout": seconds(HEADERS_SECONDS),
            "stream_idle_timeout": "300s",
            "delayed_close_timeout": "1s",
            "drain_timeout": "2s",
            "common_http_protocol_options": {
                "idle_timeout": seconds(IDLE_CONNECTION_SECONDS),
                "headers_with_underscores_action": "REJECT_REQUEST",
                "max_headers_count": 100,
            },
            "http2_protocol_options": {
                "max_concurrent_streams": 100,
                "initial_stream_window_size": 1 << 16,
                "initial_connection_window_size": 1 << 20,
                "allow_connect": True,
            },
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "local_reply_config": {"mappers": [_page(*page) for page in _PAGES]},
            "access_log": _access_log(folder) if settings.access_log else [],
        },
    )


def _filters() -> list[dict[str, Any]]:
    """Those of limits do nothing, and cost nothing, but for routes that have one."""
    rate = typed(
        "extensions.filters.http.local_ratelimit.v3.LocalRateLimit", {"stat_prefix": "orca_rate"}
    )
    body = typed("extensions.filters.http.buffer.v3.Buffer", {"max_request_bytes": BUFFER_BYTES})
    router = typed("extensions.filters.http.router.v3.Router", {"suppress_envoy_headers": True})
    return [
        {"name": RATE_FILTER, "typed_config": rate, "disabled": True},
        {"name": BODY_FILTER, "typed_config": body, "disabled": True},
        {"name": "envoy.filters.http.router", "typed_config": router},
    ]


def _without(settings: Settings) -> dict[str, Any]:
    """What only the ingress may say to a service."""
    mutations: list[dict[str, Any]] = [
        {"remove_on_match": {"key_matcher": {"prefix": _NOT_FROM_OUTSIDE}}}
    ]
    if not settings.behind_proxy:
        mutations += [{"remove": name} for name in _FORWARDING]
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": typed(
            "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            {"mutations": mutations},
        ),
    }


def _page(flags: list[str], status: int, text: str) -> dict[str, Any]:
    return {
        "filter": {"response_flag_filter": {"flags": flags}},
        "status_code": status,
        "body": {"inline_string": f"{text}\n"},
    }


def _access_log(folder: str) -> list[dict[str, Any]]:
    line = {
        "time": "%START_TIME%",
        "host": "%REQ(:AUTHORITY)%",
        "method": "%REQ(:METHOD)%",
        "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
        "protocol": "%PROTOCOL%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "ms": "%DURATION%",
        "bytes_in": "%BYTES_RECEIVED%",
        "bytes_out": "%BYTES_SENT%",
        "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "backend": "%UPSTREAM_HOST%",
        "pool": "%UPSTREAM_CLUSTER%",
        "tries": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "request": "%REQ(X-REQUEST-ID)%",
    }
    return [
        {
            "name": "envoy.access_loggers.file",
            "typed_config": typed(
                "extensions.access_loggers.file.v3.FileAccessLog",
                {"path": f"{folder}/{ACCESS_LOG}", "log_format": {"json_format": line}},
            ),
        }
    ]
