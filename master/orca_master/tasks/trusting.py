"""A worker's stream at the master that holds it: the worker is told whom to trust, beside its session."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from orca_common.cancelling import go_on_unless_cancelled
from orca_common.logs import get_logger
from orca_master.errors import NotReady
from orca_master.tasks.dispatcher import Link
from orca_proto import worker_pb2 as pb

log = get_logger("gateway")


class Trust(Protocol):
    """See `trust.WorkersTrust`."""

    def recognized(self) -> bytes: ...
    def check(self, pem: bytes) -> str: ...
    def is_trusted(self, authority: str) -> bool: ...
    async def keep_telling(
        self, node_id: str, send: Callable[[pb.FromMaster], Awaitable[None]]
    ) -> None: ...
    async def heard(self, node_id: str, said: pb.Trusted) -> None: ...
    async def until_dropped(self, authority: str) -> None: ...


@asynccontextmanager
async def while_trusted(trust: Trust, authority: str) -> AsyncIterator[None]:
    """Around what goes on over a connection that was opened with a certificate of this authority.

    Raises NotReady in the place of it when that is trusted no more: whoever has another certificate by
    now connects again.
    """
    try:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(_end_when_dropped(trust, authority))
            yield
            waiting.cancel()
    except* Exception as errors:
        go_on_unless_cancelled()
        raise errors.exceptions[0] from None


async def _end_when_dropped(trust: Trust, authority: str) -> None:
    await trust.until_dropped(authority)
    raise NotReady(
        "the cluster's authority was replaced since this connection was made: connect again"
    )


class TrustingLink:
    """What is said of authorities goes beside what the session says; who serves it sees nothing of that.

    `authority`: the fingerprint of the one that has issued the certificate that is shown. When that is
    trusted no more the stream ends, at once if the worker has not taken another certificate.
    """

    def __init__(self, link: Link, node_id: str, trust: Trust, authority: str) -> None:
        self._link = link
        self._node_id = node_id
        self._trust = trust
        self._authority = authority
        self._greeted = asyncio.Event()

    @asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        """Around the session: the worker is told whom to trust, once it was welcomed."""
        try:
            async with asyncio.TaskGroup() as group:
                telling = group.create_task(self._tell())
                yield
                telling.cancel()
        except* Exception as errors:
            go_on_unless_cancelled()
            raise errors.exceptions[0] from None

    async def _tell(self) -> None:
        await self._greeted.wait()
        with suppress(ConnectionError):
            await self._trust.keep_telling(self._node_id, self._link.send)

    async def send(self, message: pb.FromMaster) -> None:
        await self._link.send(message)
        self._greeted.set()

    async def receive(self) -> pb.FromWorker | None:
        while (message := await self._link.receive()) is not None:
            if not self._trust.is_trusted(self._authority):
                log.warning("stream ended: its certificate is trusted no more", id=self._node_id)
                return None
            if message.WhichOneof("body") != "trusted":
                return message
            self._authority = message.trusted.shows
            await self._trust.heard(self._node_id, message.trusted)
        return None
