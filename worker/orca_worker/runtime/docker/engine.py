"""The one connection to a container engine: which thread, how many at once, how long.

The runtime's verbs go through `call`; pulls and streams bring their own bounds, so that a slow
registry or a watcher never keeps a stop waiting.
"""

import asyncio
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import docker
import requests
from docker.errors import DockerException

from orca_common.env import Env
from orca_worker.runtime.docker.errors import in_words

DEFAULT_URL = "unix:///var/run/docker.sock"
CALLS_AT_ONCE = 8
CALL_SECONDS = 60
PROBE_SECONDS = 5

T = TypeVar("T")


class Engine:
    """A lazily made client; threads may share it, urllib3's pool hands each its own connection."""

    def __init__(self, env: Env, url: str | None) -> None:
        self.env = env
        self.url = url or DEFAULT_URL
        self.has_init = False
        self.is_podman = False
        self._calls = asyncio.Semaphore(CALLS_AT_ONCE)
        self._making = threading.Lock()
        self._made: docker.APIClient | None = None

    @property
    def is_local(self) -> bool:
        """Whether its paths and groups are those of this machine."""
        return self.url.startswith("unix://")

    async def call(self, work: Callable[[docker.APIClient], T]) -> T:
        """Run one short engine call in a thread. Raises RuntimeRefusal."""
        async with self._calls:
            return await self.env.threads.run(partial(self.blocking, work))

    def blocking(self, work: Callable[[docker.APIClient], T]) -> T:
        """Run engine work in the current thread. Raises RuntimeRefusal."""
        with in_words(self.url):
            knock(self.url)
            return work(self._client())

    def close(self) -> None:
        """Close the idle connections; a later call opens new ones."""
        with self._making:
            made, self._made = self._made, None
        if made is not None:
            made.close()

    def _client(self) -> docker.APIClient:
        with self._making:
            if self._made is None:
                client = docker.APIClient(base_url=self.url, version="auto", timeout=CALL_SECONDS)
                # An engine lists its init binary among its components only when it can run it.
                names = [part["Name"] for part in client.version().get("Components") or ()]
                self.has_init = any(name.endswith("-init") for name in names)
                self.is_podman = any(name.startswith("Podman") for name in names)
                self._made = client
            return self._made


def knock(url: str) -> None:
    """Raise a plain OSError if nobody is at the engine's local socket.

    The client would say so in four nested exceptions and leave a socket open. It costs a fiftieth
    of the cheapest call.
    """
    if url.startswith("unix://"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            door.settimeout(PROBE_SECONDS)
            door.connect(url.removeprefix("unix://"))


async def probe(env: Env, url: str | None) -> str | None:
    """The version of the engine that answers there, or None."""

    def ask() -> str | None:
        try:
            knock(url or DEFAULT_URL)
            client = docker.APIClient(
                base_url=url or DEFAULT_URL, version="auto", timeout=PROBE_SECONDS
            )
        except (DockerException, requests.RequestException, OSError):
            return None
        try:
            return str(client.version()["Version"])
        except (DockerException, requests.RequestException, OSError):
            return None
        finally:
            client.close()

    return await env.threads.run(ask)
