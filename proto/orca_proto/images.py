"""Which registry the name of an image leads to: masters and workers must agree on it. Pure."""

HUB = "docker.io"
HUBS = frozenset({HUB, "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
"""Names of Docker Hub."""


def parted(image: str) -> tuple[str, str]:
    """(registry with its port, in lower case; the rest of the name)"""
    first, slash, rest = image.partition("/")
    is_host = bool(slash) and (first == "localhost" or "." in first or ":" in first)
    if not is_host:
        return HUB, image
    host = first.lower()
    return (HUB if host in HUBS else host), rest


def host_of(image: str) -> str:
    """Whose account is needed for an image."""
    return parted(image.partition("@")[0])[0]
