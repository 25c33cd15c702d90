"""What Envoy is started with, and never changed after: where it finds the rest. Pure."""

import json
from typing import Any

from orca_worker.proxy.envoy import CLUSTERS, LISTENERS
from orca_worker.proxy.process import SOCKET
from orca_worker.proxy.words import typed

MOST_CONNECTIONS = 50_000


def bootstrap(node: str, folder: str) -> bytes:
    value: dict[str, Any] = {
        "node": {"id": node, "cluster": "orca"},
        "admin": {"address": {"pipe": {"path": SOCKET, "mode": 0o600}}},
        "dynamic_resources": {
            "lds_config": _file(f"{folder}/{LISTENERS}"),
            "cds_config": _file(f"{folder}/{CLUSTERS}"),
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": typed(
                        "extensions.resource_monitors.downstream_connections.v3"
                        ".DownstreamConnectionsConfig",
                        {"max_active_downstream_connections": MOST_CONNECTIONS},
                    ),
                }
            ]
        },
        "stats_config": {
            "stats_matcher": {
                "inclusion_list": {
                    "patterns": [
                        {"prefix": prefix}
                        for prefix in (
                            "cluster.",
                            "cluster_manager.",
                            "http.",
                            "listener_manager.",
                            "server.",
                        )
                    ]
                }
            }
        },
    }
    return json.dumps(value, sort_keys=True).encode()


def _file(path: str) -> dict[str, Any]:
    return {"resource_api_version": "V3", "path_config_source": {"path": path}}
