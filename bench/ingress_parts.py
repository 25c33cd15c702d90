"""What each part of the ingress's configuration costs, in instructions outside the kernel. Used by
`bench/ingress.py`.

Envoy runs under valgrind, which counts them: the same on a busy machine as on a quiet one, to a percent. The
requests come one by one on a connection that is kept; starting is counted apart and left out.
"""

import http.client
import re
from pathlib import Path
from typing import Any

from proxies import BOOTSTRAP, HERE, HOST, Change, Parts, Starts, started

from engine import free_port
from orca_worker.proxy.envoy import CLUSTERS, LISTENERS
from orca_worker.proxy.listeners import HTTP, routes_file

FEW, MANY = 100, 2600
"""Requests. What the many take more than the few is that of the difference."""


def instructions(starts: Starts, program: str, folder: Path, cpu: int, requests: int) -> int:
    """Of a whole life. `program`: Envoy's own file; `folder` is made."""
    folder.mkdir()
    port, log = free_port(), folder / "valgrind.txt"
    _, *flags = starts(folder, port)
    valgrind = [
        "valgrind",
        "--tool=cachegrind",
        "--cache-sim=no",
        "--cachegrind-out-file=/dev/null",
    ]
    command = [*valgrind, f"--log-file={log}", program, *flags]
    with started(command, folder, port, cpu):
        connection = http.client.HTTPConnection(HERE, port)
        for _ in range(requests):
            connection.request("GET", "/", headers={"Host": HOST})
            connection.getresponse().read()
        connection.close()
    found = re.search(r"I\s+refs:\s+([\d,]+)", log.read_text())
    assert found is not None, log.read_text()
    return int(found[1].replace(",", ""))


def _manager(parts: Parts) -> dict[str, Any]:
    """Of HTTP connections."""
    (listener,) = parts[LISTENERS]["resources"]
    found: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def _cluster(parts: Parts) -> dict[str, Any]:
    found: dict[str, Any] = parts[CLUSTERS]["resources"][0]
    return found


def _table(parts: Parts) -> dict[str, Any]:
    found: dict[str, Any] = parts[routes_file(HTTP)]["resources"][0]
    return found


def _routes(parts: Parts) -> list[dict[str, Any]]:
    return [route for host in _table(parts)["virtual_hosts"] for route in host["routes"]]


def _no_log(parts: Parts) -> None:
    _manager(parts)["access_log"] = []


def _no_removed_headers(parts: Parts) -> None:
    _manager(parts).pop("early_header_mutation_extensions")


def _no_told_headers(parts: Parts) -> None:
    _table(parts).pop("request_headers_to_add")


def _no_security_headers(parts: Parts) -> None:
    for route in _routes(parts):
        route.pop("response_headers_to_add", None)


def _no_filters(parts: Parts) -> None:
    filters = _manager(parts)["http_filters"]
    del filters[:-1]


def _no_retries(parts: Parts) -> None:
    for route in _routes(parts):
        route["route"].pop("retry_policy", None)
    for host in _table(parts)["virtual_hosts"]:
        host["routes"] = host["routes"][-1:]


def _no_paths(parts: Parts) -> None:
    for name in ("normalize_path", "merge_slashes", "path_with_escaped_slashes_action"):
        _manager(parts).pop(name)


def _no_timeouts(parts: Parts) -> None:
    manager = _manager(parts)
    manager.pop("request_headers_timeout")
    manager["stream_idle_timeout"] = "0s"
    for route in _routes(parts):
        route["route"]["idle_timeout"] = "0s"


def _no_rules_of_connections(parts: Parts) -> None:
    """To replicas: who is left out, what is given up, how many there may be."""
    cluster = _cluster(parts)
    for name in (
        "outlier_detection",
        "upstream_bind_config",
        "upstream_connection_options",
        "circuit_breakers",
    ):
        cluster.pop(name)
    (protocol,) = cluster["typed_extension_protocol_options"].values()
    protocol.pop("common_http_protocol_options")


def _no_small_things(parts: Parts) -> None:
    for name in (
        "common_http_protocol_options",
        "internal_address_config",
        "local_reply_config",
        "server_header_transformation",
        "strip_trailing_host_dot",
        "upgrade_configs",
    ):
        _manager(parts).pop(name)
    _table(parts).pop("request_headers_to_remove")


def _no_overload(parts: Parts) -> None:
    for name in ("overload_manager", "stats_config"):
        parts[BOOTSTRAP].pop(name)


PARTS: dict[str, Change] = {
    "access log": _no_log,
    "client's forwarding headers removed": _no_removed_headers,
    "forwarding headers added": _no_told_headers,
    "security headers": _no_security_headers,
    "filters of limits, unused": _no_filters,
    "retries": _no_retries,
    "paths normalised": _no_paths,
    "timeouts": _no_timeouts,
    "rules of connections to replicas": _no_rules_of_connections,
    "limits of headers, pages, host's dot": _no_small_things,
    "overload manager, chosen statistics": _no_overload,
}


def without_all(parts: Parts) -> None:
    for change in PARTS.values():
        change(parts)
