"""One network per project on the engine, in which its services find each other by name.

A network is made when the first container needs it and removed when `drop_unused` finds none. Engines
have room for some thirty networks of their own choice.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from typing import Any

import docker
from docker.errors import APIError

from orca_worker.runtime.docker.engine import Engine
from orca_worker.runtime.docker.errors import NotFound
from orca_worker.runtime.port import RuntimeRefusal


def cluster_mark(cluster: str) -> str:
    """A cluster's part in the names of what is not told apart by labels alone."""
    return sha256(cluster.encode()).hexdigest()[:8]


def network_name(cluster: str, project: str) -> str:
    """The name of a project's network on every node."""
    return f"orca-{cluster_mark(cluster)}-{project}"


class Networks:
    """The networks of one cluster on one engine."""

    def __init__(self, engine: Engine, cluster: str) -> None:
        self._engine = engine
        self._cluster = cluster
        self._known: set[str] = set()
        self._held: dict[str, int] = {}
        self._changing = asyncio.Lock()

    @asynccontextmanager
    async def held(self, project: str) -> AsyncIterator[str]:
        """The name of the project's network, which is there and stays at least until the end.

        Raises RuntimeRefusal.
        """
        async with self._changing:
            if project not in self._known:
                await self._engine.call(lambda client: self._make(client, project))
                self._known.add(project)
            self._held[project] = self._held.get(project, 0) + 1
        try:
            yield network_name(self._cluster, project)
        finally:
            self._held[project] -= 1
            if not self._held[project]:
                del self._held[project]

    def forget(self, project: str) -> None:
        """It is not there any more: somebody else removed it."""
        self._known.discard(project)

    async def drop_unused(self) -> list[str]:
        """Remove networks that no container has, running or not; their names."""
        async with self._changing:
            return await self._engine.call(self._drop)

    def _make(self, client: docker.APIClient, project: str) -> None:
        name = network_name(self._cluster, project)
        labels = {"orca.cluster": self._cluster, "orca.project": project}
        if _ids(client, name):
            return
        try:
            try:
                made = _create(client, name, labels)
            except APIError as error:
                if not _lacks_addresses(error) or not self._drop(client):
                    raise
                made = _create(client, name, labels)
        except APIError as error:
            if _ids(client, name):  # somebody was quicker
                return
            if not _lacks_addresses(error):
                raise
            raise RuntimeRefusal(
                f"the engine has no addresses left for a network of project {project}: remove "
                "networks that nothing uses (docker network prune), or give it more "
                "(default-address-pools)"
            ) from error
        # Two at once, from two workers of one engine: the older one stays.
        ids = _ids(client, name)
        if len(ids) > 1 and ids[0] != made["Id"]:
            with suppress(APIError):
                client.remove_network(made["Id"])

    def _drop(self, client: docker.APIClient) -> list[str]:
        label = f"orca.cluster={self._cluster}"
        used = {
            entry["Labels"].get("orca.project", "")
            for entry in client.containers(all=True, filters={"label": label})
        }
        dropped = []
        for entry in client.networks(filters={"label": label}):
            project = _labels(entry).get("orca.project", "")
            if project in used or project in self._held:
                continue
            with suppress(APIError):  # somebody was quicker, or it is used after all
                client.remove_network(entry["Id"])
                self._known.discard(project)
                dropped.append(str(entry["Name"]))
        return dropped


def is_of_network(refusal: RuntimeRefusal) -> bool:
    """Whether a start was refused as the container's network has gone, or is just being made twice."""
    is_missing = isinstance(refusal, NotFound) and "network" in refusal.reason
    return is_missing or "is ambiguous" in refusal.reason


def _create(client: docker.APIClient, name: str, labels: dict[str, str]) -> dict[str, Any]:
    made: dict[str, Any] = client.create_network(
        name, driver="bridge", labels=labels, check_duplicate=True
    )
    return made


def _lacks_addresses(error: APIError) -> bool:
    reason = str(error)
    return "non-overlapping" in reason or "address pool" in reason or "free subnet" in reason


def _ids(client: docker.APIClient, name: str) -> list[str]:
    """The oldest first."""
    found = client.networks(names=[name])
    same = [(str(entry["Created"]), str(entry["Id"])) for entry in found if entry["Name"] == name]
    return [id for _, id in sorted(same)]


def _labels(entry: Mapping[str, Any]) -> Mapping[str, str]:
    return entry.get("Labels") or {}
