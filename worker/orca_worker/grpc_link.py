"""The gRPC adapter: a stream to one of the masters, with mutual TLS."""

import asyncio
import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # children of a gRPC process crash with it

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import grpc

from orca_proto import worker_pb2 as pb
from orca_proto import worker_pb2_grpc as rpc
from orca_proto.identity import MASTER_NAME
from orca_worker.ports import Link, Refused

MAX_MESSAGE_BYTES = 64 << 20

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


class GrpcConnector:
    """`masters` are `host:port`. The server must hold a master's certificate of our CA.

    `keep` is told of other addresses, for the next start.
    """

    def __init__(
        self,
        masters: Sequence[str],
        *,
        ca: bytes,
        certificate: bytes,
        key: bytes,
        keep: Callable[[list[str]], None],
    ) -> None:
        self._masters = list(masters)
        self._keep = keep
        self._next = 0
        self._credentials = grpc.ssl_channel_credentials(ca, key, certificate)

    def know(self, masters: list[str]) -> None:
        """See `Connector.know`."""
        if masters and masters != self._masters:
            self._masters = masters
            self._keep(masters)

    @property
    def master_count(self) -> int:
        return len(self._masters)

    def connect(self) -> AbstractAsyncContextManager[Link]:
        return self._connect()

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[Link]:
        master = self._masters[self._next % len(self._masters)]
        self._next += 1
        channel = grpc.aio.secure_channel(master, self._credentials, options=_OPTIONS)
        try:
            call = rpc.WorkersStub(channel).Session()
            try:
                yield _GrpcLink(call, master)
            finally:
                call.cancel()
        finally:
            await channel.close()


class _GrpcLink:
    def __init__(
        self, call: "grpc.aio.StreamStreamCall[pb.FromWorker, pb.FromMaster]", master: str
    ) -> None:
        self._call = call
        self._master = master
        self._writing = asyncio.Lock()

    async def send(self, message: pb.FromWorker) -> None:
        try:
            async with self._writing:  # a stream takes one write at a time
                await self._call.write(message)
        except (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError) as error:
            raise await self._translated() from error

    async def receive(self) -> pb.FromMaster | None:
        try:
            message = await self._call.read()
        except (grpc.aio.AioRpcError, grpc.aio.BaseError) as error:
            raise await self._translated() from error
        return None if message is grpc.aio.EOF else message

    async def _translated(self) -> Exception:
        details = await self._call.details() or "no reason given"
        if await self._call.code() is grpc.StatusCode.PERMISSION_DENIED:
            return Refused(f"{details} (master {self._master})")
        return ConnectionError(f"{details} (master {self._master})")
