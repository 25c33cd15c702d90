"""The gRPC adapter: a stream to one of the masters, with mutual TLS."""

import asyncio
import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # children of a gRPC process crash with it

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import grpc

from orca_common.env import Randomness
from orca_common.logs import get_logger
from orca_common.unbroken import Reads, Writes
from orca_proto import worker_pb2 as pb
from orca_proto import worker_pb2_grpc as rpc
from orca_proto.identity import MASTER_NAME
from orca_worker.ports import Link, Refused

MAX_MESSAGE_BYTES = 64 << 20
RENEWAL_SECONDS = 15.0
NOT_TRUSTED = "unable to get local issuer certificate"
"""In what gRPC says of a server whose certificate is of none of our authorities."""

log = get_logger("session")

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A master whose machine is gone is left before the next leader would judge this node.
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.keepalive_timeout_ms", 2_500),
    ("grpc.http2.ping_timeout_ms", 2_500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.ssl_target_name_override", MASTER_NAME),
]


class Shown(Protocol):
    """What the node shows and whom it trusts, PEM; looked at for each connection."""

    @property
    def authorities(self) -> bytes: ...
    @property
    def certificate(self) -> bytes: ...
    @property
    def key(self) -> bytes: ...

    def expired(self) -> str | None:
        """What to do about it, if it is."""
        ...

    def stranger(self) -> str:
        """What to do if no master has a certificate that the node trusts."""
        ...

    def trust(self, told: pb.Trust) -> pb.Trusted:
        """Keep whom to trust; what the node has now. Raises OSError, ValueError."""
        ...


class GrpcConnector:
    """`masters` are `host:port`. The server must hold a master's certificate of our CA.

    They are tried in an order of this worker's own, for any of them will do. `keep` is told of other
    addresses, for the next start.
    """

    def __init__(
        self,
        masters: Sequence[str],
        shown: Shown,
        *,
        random: Randomness,
        keep: Callable[[list[str]], None],
    ) -> None:
        self._random = random
        self._masters = self._mixed(masters)
        self._keep = keep
        self._next = 0
        self._shown = shown
        self._open: _GrpcLink | None = None

    def know(self, masters: list[str]) -> None:
        """See `Connector.know`."""
        if masters and set(masters) != set(self._masters):
            self._masters = self._mixed(masters)
            self._keep(masters)

    def _mixed(self, masters: Sequence[str]) -> list[str]:
        return sorted(masters, key=lambda _: self._random.uniform(0.0, 1.0))

    @property
    def master_count(self) -> int:
        return len(self._masters)

    async def certified(self, request: bytes) -> tuple[bytes, bytes]:
        """See `certificate.Asker`."""
        if self._open is None:
            raise ConnectionError("not connected to a master")
        async with asyncio.timeout(RENEWAL_SECONDS):
            return await self._open.certified(request)

    async def tell(self, trusted: pb.Trusted) -> None:
        """See `certificate.Asker`."""
        if self._open is not None:
            await self._open.send(pb.FromWorker(trusted=trusted))

    def connect(self) -> AbstractAsyncContextManager[Link]:
        return self._connect()

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[Link]:
        master = self._masters[self._next % len(self._masters)]
        self._next += 1
        shown = self._shown
        credentials = grpc.ssl_channel_credentials(shown.authorities, shown.key, shown.certificate)
        channel = grpc.aio.secure_channel(master, credentials, options=_OPTIONS)
        try:
            call = rpc.WorkersStub(channel).Session()
            self._open = link = _GrpcLink(call, master, shown)
            try:
                yield link
            finally:
                self._open = None
                link.close()
                call.cancel()
        finally:
            await channel.close()


class _GrpcLink:
    """Certificates and authorities go beside what the session says, once a master has answered it."""

    def __init__(
        self,
        call: "grpc.aio.StreamStreamCall[pb.FromWorker, pb.FromMaster]",
        master: str,
        shown: Shown,
    ) -> None:
        self._call = call
        self._reads = Reads(call.read)
        self._writes = Writes(call.write)
        self._master = master
        self._shown = shown
        self._answered = False
        self._renewed: asyncio.Future[pb.Renewed] | None = None

    async def certified(self, request: bytes) -> tuple[bytes, bytes]:
        if not self._answered:
            raise ConnectionError("not connected to a master")
        self._renewed = renewed = asyncio.get_running_loop().create_future()
        await self.send(pb.FromWorker(renew=pb.RenewRequest(request=request)))
        answer = await renewed
        if answer.error:
            raise Refused(answer.error)
        return answer.certificate, answer.authorities

    def close(self) -> None:
        self._reads.close()
        self._writes.close()
        self._give_up_renewal()

    def _give_up_renewal(self) -> None:
        if self._renewed is not None and not self._renewed.done():
            self._renewed.set_exception(ConnectionError("the connection ended"))

    async def send(self, message: pb.FromWorker) -> None:
        try:
            await self._writes.send(message)
        except (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError) as error:
            raise await self._translated() from error

    async def receive(self) -> pb.FromMaster | None:
        while True:
            try:
                message = await self._reads.next()
            except (grpc.aio.AioRpcError, grpc.aio.BaseError) as error:
                raise await self._translated() from error
            if not isinstance(message, pb.FromMaster):
                return None  # the end
            self._answered = True
            match message.WhichOneof("body"):
                case "renewed":
                    if self._renewed is not None and not self._renewed.done():
                        self._renewed.set_result(message.renewed)
                case "trust":
                    await self._trust(message.trust)
                case "again":
                    self._give_up_renewal()  # who was asked does not lead any more
                    return message
                case _:
                    return message

    async def _trust(self, told: pb.Trust) -> None:
        try:
            trusted = self._shown.trust(told)
        except (OSError, ValueError) as error:
            log.warning("whom to trust is not kept", reason=str(error))
            return
        await self.send(pb.FromWorker(trusted=trusted))

    async def _translated(self) -> Exception:
        details = await self._call.details() or "no reason given"
        if await self._call.code() is grpc.StatusCode.PERMISSION_DENIED:
            return Refused(f"{details} (master {self._master})")
        if not self._answered and (expired := self._shown.expired()):
            return Refused(expired)
        if not self._answered and NOT_TRUSTED in details:
            return Refused(f"{self._shown.stranger()} (master {self._master})")
        return ConnectionError(f"{details} (master {self._master})")
