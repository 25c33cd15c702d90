"""The worker's settings: `/etc/orca/worker.toml`, `ORCA_WORKER_…`, flags."""

import socket
from typing import Annotated, Literal

from msgspec import Meta, field

from orca_common.config import ConfigModel
from orca_worker.runtime.docker.credentials import Login

Positive = Annotated[float, Meta(gt=0)]
Percent = Annotated[float, Meta(ge=1, le=100)]
PortNumber = Annotated[int, Meta(ge=1, le=65535)]
PositiveInt = Annotated[int, Meta(gt=0)]


class WorkerConfig(ConfigModel, frozen=True):
    name: str = field(default_factory=lambda: socket.gethostname().split(".")[0].lower())
    data_dir: str = "/var/lib/orca/worker"
    masters: list[str] = field(default_factory=lambda: ["http://127.0.0.1:6880"])
    """API addresses of the masters, for joining."""
    join_token: str = ""
    join_token_file: str = ""
    """Needed at the first start only. A file keeps the token out of process lists."""
    runtime: Literal["auto", "docker", "process"] = "auto"
    """auto: processes always, containers too where an engine answers."""
    docker_url: str = ""
    """Empty: `DOCKER_HOST`, or /var/run/docker.sock."""
    address: str = "127.0.0.1"
    """Where other machines reach what runs on this node."""
    labels: dict[str, str] = field(default_factory=dict)
    registry_config: str = ""
    """A Docker `config.json` with the accounts of registries; empty: the worker's user's own."""
    registries: dict[str, Login] = field(default_factory=dict)
    """By registry (`host:port`, or docker.io): `username`, and `password` or `password_file`."""
    pull_seconds: Positive = 1800.0
    pull_quiet_seconds: Positive = 90.0
    """A pull that makes no progress for so long has failed."""
    pull_most_bytes: PositiveInt = 20 << 30
    """No larger images, as the registry announces them (packed)."""
    disk_high_percent: Percent = 85.0
    disk_low_percent: Percent = 75.0
    """Images that were pulled and are not needed are removed above the one, until below the other."""
    allowed_host_paths: list[str] = field(default_factory=list)
    """What services may mount of this machine: these paths and all below them."""
    allowed_devices: list[str] = field(default_factory=list)
    ingress: bool = True
    """Serve requests for services with a domain, if the masters want that of this node."""
    ingress_address: str = "0.0.0.0"
    """Where the ingress listens: all addresses of this machine."""
    ingress_http_port: PortNumber = 80
    ingress_https_port: PortNumber = 443
    ingress_behind_proxy: Annotated[int, Meta(ge=0, le=10)] = 0
    """How many proxies stand before the ingress: what they say of the client is believed."""
    ingress_proxy_protocol: bool = False
    """Connections begin with the PROXY protocol, 1 or 2."""
    ingress_access_log: bool = True
    log_level: str = "info"
    log_json: bool = True
