"""The worker's settings: `/etc/orca/worker.toml`, `ORCA_WORKER_…`, flags."""

import socket
from typing import Literal

from msgspec import field

from orca_common.config import ConfigModel


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
    log_level: str = "info"
    log_json: bool = True
