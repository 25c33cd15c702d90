"""Keeps a master's blobs: fetches those that rows refer to and this master lacks, forgets the others."""

import asyncio

from orca_common.logs import get_logger
from orca_master.errors import OrcaError
from orca_master.state.blobs import Blobs, referenced
from orca_master.state.store import Store

FETCH_EVERY_SECONDS = 5.0
COLLECT_EVERY_SECONDS = 3600.0
GRACE_SECONDS = 24 * 3600.0
"""A blob comes before the row that refers to it; it is given so long."""

log = get_logger("blobs")


class BlobsCustodian:
    """Runs on every master."""

    def __init__(self, store: Store, blobs: Blobs) -> None:
        self._store = store
        self._blobs = blobs

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._fetch_missing())
            group.create_task(self._collect())

    async def fetch_missing(self) -> int:
        """How many are missing still."""
        missing = 0
        for sha256 in sorted(referenced(self._store.state)):
            if await self._blobs.has(sha256):
                continue
            try:
                await self._blobs.fetch(sha256)
            except (OrcaError, OSError) as error:
                missing += 1
                log.warning("a blob is missing", sha256=sha256, reason=str(error))
        return missing

    async def _fetch_missing(self) -> None:
        seen = -1
        while True:
            version = self._store.state.version
            if version != seen and not await self.fetch_missing():
                seen = version
            await asyncio.sleep(FETCH_EVERY_SECONDS)

    async def _collect(self) -> None:
        while True:
            await asyncio.sleep(COLLECT_EVERY_SECONDS)
            try:
                await self._blobs.collect(
                    referenced(self._store.state), grace_seconds=GRACE_SECONDS
                )
            except OSError as error:
                log.warning("blobs were not collected", reason=str(error))
