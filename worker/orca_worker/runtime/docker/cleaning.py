"""Room on the engine's disk: images that Orca pulled and nothing needs any more, when it gets full.

Only what this node pulled for a task is ever removed, the longest unused first; what people built or
pulled themselves, what any container has, and what a wanted task names stays.
"""

import asyncio
import os
import shutil
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import docker
import msgspec
from docker.errors import APIError, ImageNotFound

from orca_common.logs import get_logger
from orca_worker.runtime.docker.engine import Engine
from orca_worker.runtime.port import Swept

log = get_logger("cleaning")


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """Shares of the disk: above `high` images are removed until it is below `low`."""

    high: float = 0.85
    low: float = 0.75


def share_used(path: str) -> float:
    """Of the disk that holds this path, as an ordinary user sees it."""
    usage = shutil.disk_usage(path)
    return usage.used / (usage.used + usage.free)


class Cleaning:
    """`record` is a file with the ids of what was pulled and when each was last used; "": in memory."""

    def __init__(
        self,
        engine: Engine,
        *,
        limits: DiskLimits,
        record: str,
        share: Callable[[str], float] = share_used,
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._record = record
        self._share = share
        self._used_at = _read(record)
        self._saving = asyncio.Lock()

    async def note(self, image_id: str, *, pulled: bool) -> None:
        """The image was prepared for a task, and perhaps pulled for it."""
        if pulled or image_id in self._used_at:
            self._used_at[image_id] = self._engine.env.now()
            await self._save()

    async def sweep(self, wanted: Collection[str]) -> Swept:
        """Remove images if the disk is too full. `wanted` are the names that tasks have.

        Raises RuntimeRefusal.
        """
        if not self._engine.is_local or not self._used_at:
            return Swept()
        swept = await self._engine.call(partial(self._sweep, wanted))
        if swept.images:
            await self._save()
        return swept

    def _sweep(self, wanted: Collection[str], client: docker.APIClient) -> Swept:
        root = str(client.info()["DockerRootDir"])
        if not os.path.isdir(root) or self._share(root) <= self._limits.high:
            return Swept()
        kept = {str(entry["ImageID"]) for entry in client.containers(all=True)}
        kept |= {answer["Id"] for name in wanted if (answer := _inspect(client, name))}
        removed = freed = 0
        for image_id in sorted(self._used_at, key=lambda each: self._used_at[each]):
            if self._share(root) <= self._limits.low:
                break
            if image_id in kept:
                continue
            answer = _inspect(client, image_id)
            if answer is not None and not _remove(client, answer):
                continue
            del self._used_at[image_id]
            if answer is not None:
                removed += 1
                freed += int(answer["Size"])
                names = answer.get("RepoTags") or answer.get("RepoDigests") or [image_id]
                log.info("removed an image for room on the disk", image=names[0], id=image_id)
        return Swept(images=removed, bytes=freed)

    async def _save(self) -> None:
        if self._record:
            async with self._saving:
                data = msgspec.json.encode(self._used_at)
                await self._engine.env.threads.run(partial(_write, self._record, data))


def _inspect(client: docker.APIClient, name: str) -> dict[str, Any] | None:
    try:
        answer: dict[str, Any] = client.inspect_image(name)  # type: ignore[no-untyped-call]
    except ImageNotFound:
        return None
    return answer


def _remove(client: docker.APIClient, image: dict[str, Any]) -> bool:
    """By its names, without force: the engine itself refuses what a container has got meanwhile."""
    try:
        for name in image.get("RepoTags") or [image["Id"]]:
            client.remove_image(name)
        with suppress(ImageNotFound):
            client.remove_image(image["Id"])
    except APIError as error:
        log.info("an image stays", id=image["Id"], reason=str(error.explanation))
        return False
    return True


def _read(path: str) -> dict[str, float]:
    """What cannot be read was not pulled by this node: nothing of it is removed."""
    with suppress(OSError, msgspec.DecodeError), open(path, "rb") as file:
        return msgspec.json.decode(file.read(), type=dict[str, float])
    return {}


def _write(path: str, data: bytes) -> None:
    with suppress(OSError):  # a full disk: what is not noted stays
        with open(path + ".new", "wb") as file:
            file.write(data)
        os.replace(path + ".new", path)
