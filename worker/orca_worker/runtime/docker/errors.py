"""The engine's failures in words: what its client raises becomes RuntimeRefusal here.

Pure text work and the two refusals that `docker.py` reacts to; nothing here calls the engine.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import requests
import urllib3
from docker.errors import APIError, DockerException

from orca_worker.runtime.port import RuntimeAway, RuntimeRefusal

_UNREACHABLE = re.compile(
    r"dial tcp|no such host|connection refused|i/o timeout|Client\.Timeout|deadline exceeded|"
    r"x509|tls:|http: server gave HTTP response|server misbehaving|network is unreachable|EOF$",
    re.IGNORECASE,
)
_DENIED = re.compile(r"denied|unauthorized|authentication required|no basic auth", re.IGNORECASE)
_MISSING = re.compile(r"manifest unknown|not found|does not exist|name unknown", re.IGNORECASE)
_HOPELESS = re.compile(
    r"executable file not found|no such file or directory: unknown|permission denied: unknown|"
    r"invalid reference format|invalid tag format|minimum memory limit|unable to find user|"
    r"range of cpus|repository name must be lowercase|no command specified",
    re.IGNORECASE,
)


# What Docker says by a status, Podman says in words.
_TAKEN = re.compile(r"the container name .* is already in use")


class NotFound(RuntimeRefusal):
    """The engine does not know the container or the image."""


class Conflict(RuntimeRefusal):
    """The name is taken, or the container is in another phase than the verb needs."""


@contextmanager
def in_words(url: str) -> Iterator[None]:
    """Turn whatever the engine's client raises inside into a RuntimeRefusal."""
    try:
        yield
    except APIError as error:
        raise _api_refusal(error) from error
    except requests.Timeout as error:
        raise RuntimeAway(f"the container engine at {url} did not answer in time") from error
    except (DockerException, requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise RuntimeAway(f"the container engine at {url} cannot be reached: {error}") from error
    except OSError as error:
        why = error.strerror or str(error)
        raise RuntimeAway(f"the container engine at {url} cannot be reached: {why}") from error


def _api_refusal(error: APIError) -> RuntimeRefusal:
    reason = engine_reason(error)
    if error.status_code == 404:
        return NotFound(reason)
    if error.status_code == 409 or _TAKEN.search(reason):
        return Conflict(reason)
    return RuntimeRefusal(reason, permanent=bool(_HOPELESS.search(reason)))


def engine_reason(error: APIError) -> str:
    """The engine's own sentence, without the client's address and status decoration."""
    reason = str(error.explanation or error).strip()
    reason = re.sub(r"^failed to create (shim|task)[^:]*: ", "", reason)
    return re.sub(
        r"^(OCI runtime create failed: |c?runc?: )(runc create failed: )?"
        r"(unable to start container process: )?",
        "",
        reason,
    )


def registry_of(image: str) -> str:
    """The host (and port) that the image would be pulled from."""
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first
    return "docker.io"


def pull_refusal(image: str, reason: str, mend: str) -> RuntimeRefusal:
    """Why a pull failed: a missing image, a refused access and a dead registry read differently.

    `mend`: who asked, and what to do if that is not let in.
    """
    words = re.sub(r'^(Error response from daemon: )?((Get|Head) "[^"]*": )?', "", reason.strip())
    if _UNREACHABLE.search(words):
        return RuntimeRefusal(f"registry {registry_of(image)} cannot be reached: {words}")
    if _DENIED.search(words):
        return RuntimeRefusal(
            f"registry {registry_of(image)} refuses access to image {image}: {words} ({mend})"
        )
    if _MISSING.search(words):
        return RuntimeRefusal(f"image {image} not found: {words.rsplit(': ', 1)[-1]}")
    return RuntimeRefusal(
        f"image {image} cannot be pulled: {words}", permanent=bool(_HOPELESS.search(words))
    )
