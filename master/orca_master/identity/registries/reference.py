"""Names of images and of registries. Pure."""

import ipaddress
import re
from dataclasses import dataclass

from orca_proto.images import HUB, HUBS, parted

_HUB_ENDPOINT = "registry-1.docker.io"

HOST_PATTERN = r"^(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\])(?::[0-9]{1,5})?$"
MOST_HOST_CHARACTERS = 255

_HOST = re.compile(HOST_PATTERN, re.ASCII)
_PORT = re.compile(r":[0-9]+$", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reference:
    """`registry.example/team/app:1` in its parts, with the defaults filled in, and without a digest."""

    host: str
    path: str
    tag: str


def parse(image: str) -> Reference:
    host, path = parted(image.partition("@")[0])
    path, colon, tag = path.rpartition(":") if ":" in path else (path, "", "")
    if host == HUB and "/" not in path:
        path = f"library/{path}"
    return Reference(host, path, tag if colon else "latest")


def base_url(host: str) -> str:
    """Where its API begins. Like an engine: without TLS on this machine's own addresses only."""
    address = _HUB_ENDPOINT if host == HUB else host
    name = _PORT.sub("", address)
    return f"{'http' if is_loopback(name) else 'https'}://{address}"


def is_loopback(name: str) -> bool:
    """Whether it is this machine, by a name without a port."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def check_host(text: str) -> str:
    """A registry as names of images begin with it, in one spelling. Raises ValueError."""
    host = text.lower()
    if host in HUBS:
        return HUB
    is_one = len(host) <= MOST_HOST_CHARACTERS and _HOST.fullmatch(host) is not None
    if not is_one:
        raise ValueError(
            "must be a registry's host, such as registry.example.com:5000: without https:// and path"
        )
    if host != "localhost" and "." not in host and ":" not in host:
        raise ValueError(
            f"names no registry: an image {host}/app would come from {HUB}."
            " Give the host with its domain or its port"
        )
    return host
