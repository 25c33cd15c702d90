"""The master's settings: `/etc/orca/master.toml`, `ORCA_MASTER_…`, flags."""

from typing import Annotated

from msgspec import Meta, field

from orca_common.config import ConfigModel
from orca_master.http.access import Access

Port = Annotated[int, Meta(ge=1, le=65535)]


class MasterConfig(ConfigModel, frozen=True):
    """Seconds where not said otherwise."""

    name: str = "master-1"
    cluster_name: str = "orca"
    data_dir: str = "/var/lib/orca/master"
    bind: str = "0.0.0.0"
    """The address that all ports listen on."""
    advertise: str = ""
    """Where others reach this master; empty: `bind`, or if that is a wildcard, the address
    that this machine has towards the rest of the world."""
    api_port: Port = 6880
    grpc_port: Port = 6881
    peer_port: Port = 6882
    """Masters among themselves."""
    join: list[str] = field(default_factory=list)
    """API addresses of masters of a cluster to join, at the first start; none: found a new one."""
    join_token: str = ""
    join_token_file: str = ""
    """From `orca masters token`. A file keeps the token out of process lists; so does the credential
    `orca.join-token` of the service manager."""
    kek_file: str = ""
    """32 bytes that wrap all secrets of the cluster, instead of `<data_dir>/kek`; also the credential
    `orca.kek` of the service manager. The same on every master."""
    heartbeat_seconds: Annotated[float, Meta(gt=0)] = 1.0
    """How often a worker is heard of. Above 250 nodes this and the next grow with their square root."""
    node_down_after_seconds: Annotated[float, Meta(ge=1)] = 3.0
    """Silence after which a node's work is given to others; at least twice a heartbeat. What ran on a
    node whose worker is back before goes on."""
    fence_lease_seconds: Annotated[float, Meta(ge=0)] = 0.0
    """For how long a node that no master acknowledges goes on with fenced replicas; more than
    `node_down_after_seconds`, and the same on every master. They are replaced 6 s after that.
    0: 10 s, or twice `node_down_after_seconds` if that is longer."""
    certificate_days: Annotated[float, Meta(gt=0, le=365)] = 90.0
    """How long certificates of masters and workers are valid; renewed at two thirds of that."""
    api_certificate: str = ""
    api_key: str = ""
    """PEM files: the API then speaks TLS. Read again at SIGHUP."""
    access_log: Access = Access.ERRORS
    """Which requests are logged: all, errors (5xx), off."""
    log_level: str = "info"
    log_json: bool = True

    def __post_init__(self) -> None:
        if self.node_down_after_seconds < 2 * self.heartbeat_seconds:
            raise ValueError(
                f"node_down_after_seconds: {self.node_down_after_seconds:g} is less than twice"
                f" heartbeat_seconds ({self.heartbeat_seconds:g}): one beat that is late would make a"
                " node down; raise the first or lower the second"
            )
        if 0 < self.fence_lease_seconds <= self.node_down_after_seconds:
            raise ValueError(
                f"fence_lease_seconds: {self.fence_lease_seconds:g} is not more than"
                f" node_down_after_seconds ({self.node_down_after_seconds:g}): fenced replicas would stop"
                " on nodes that are not given up; raise the first or lower the second"
            )

    @property
    def lease_seconds(self) -> float:
        return self.fence_lease_seconds or max(10.0, 2 * self.node_down_after_seconds)
