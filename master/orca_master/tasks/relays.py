"""The gRPC adapter for `streams.Relays`: workers' streams on their way to the leader.

They go to its port for workers, where this master shows its own certificate (`gateway`). Each worker's
stream is one of HTTP/2 with a window of its own: one that does not read holds up nobody else.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import grpc

from orca_common.cancelling import go_on_unless_cancelled
from orca_master.errors import Forbidden
from orca_master.tasks.gateway import MAX_MESSAGE_BYTES, NODE_KEY, Held
from orca_proto import worker_pb2 as pb
from orca_proto import worker_pb2_grpc as rpc
from orca_proto.identity import MASTER_NAME

STREAMS_PER_CONNECTION = 64
"""Less than the workers' port takes; the next stream has a connection of its own."""
OPEN_SECONDS = 10.0
"""A leader that has died is noticed before; one that is busy with hundreds of streams takes them in turn."""
ENDED = "the leader's end of the stream is closed"

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.keepalive_timeout_ms", 2_500),
    ("grpc.http2.ping_timeout_ms", 2_500),
    ("grpc.enable_http_proxy", 0),
    ("grpc.ssl_target_name_override", MASTER_NAME),
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass(eq=False, slots=True)
class _Connection:
    leader: str
    shown: bytes  # the certificate
    channel: grpc.aio.Channel
    streams: int = 0


class GrpcRelays:
    """See `streams.Relays`. `address` is a master's port for workers, `host:port`; None: not known."""

    def __init__(self, address: Callable[[str], str | None], held: Held) -> None:
        self._address = address
        self._held = held
        self._connections: list[_Connection] = []

    def open(self, leader: str, node_id: str) -> AbstractAsyncContextManager["_GrpcOnward"]:
        return self._open(leader, node_id)

    @asynccontextmanager
    async def _open(self, leader: str, node_id: str) -> AsyncIterator["_GrpcOnward"]:
        connection = self._connection(leader)
        connection.streams += 1
        try:
            call = rpc.RelaysStub(connection.channel).Session(metadata=((NODE_KEY, node_id),))
            try:
                await _taken(call)
                yield _GrpcOnward(call)
            finally:
                call.cancel()
        finally:
            connection.streams -= 1
            if not connection.streams:
                self._connections.remove(connection)
                await connection.channel.close()

    def _connection(self, leader: str) -> _Connection:
        """One that has room and shows the certificate that is held now, or a new one."""
        certificate, key = self._held.certificate_and_key()
        for known in self._connections:
            is_good = known.leader == leader and known.shown == certificate
            if is_good and known.streams < STREAMS_PER_CONNECTION:
                return known
        address = self._address(leader)
        if not address:
            raise ConnectionError("where the leader takes workers is not known yet")
        credentials = grpc.ssl_channel_credentials(self._held.authority(), key, certificate)
        channel = grpc.aio.secure_channel(address, credentials, options=_OPTIONS)
        made = _Connection(leader, certificate, channel)
        self._connections.append(made)
        return made


async def _taken(call: "grpc.aio.StreamStreamCall[pb.FromWorker, pb.FromMaster]") -> None:
    """Wait until the leader has said that it takes the stream. Raises ConnectionError."""
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            await call.wait_for_connection()
            await call.initial_metadata()
    except TimeoutError as error:
        raise ConnectionError("the leader does not answer") from error
    except (
        asyncio.CancelledError
    ) as error:  # gRPC raises it also when the other side has ended the call
        go_on_unless_cancelled()
        raise ConnectionError(ENDED) from error
    except (grpc.aio.AioRpcError, grpc.aio.BaseError) as error:
        raise ConnectionError(_reason(error)) from error
    if call.done():
        raise ConnectionError(await call.details() or "the leader does not take the stream")


class _GrpcOnward:
    """See `streams.Onward`."""

    def __init__(self, call: "grpc.aio.StreamStreamCall[pb.FromWorker, pb.FromMaster]") -> None:
        self._call = call

    async def send(self, message: pb.FromWorker) -> None:
        try:
            await self._call.write(message)
        except asyncio.CancelledError as error:
            go_on_unless_cancelled()
            raise ConnectionError(ENDED) from error
        except (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError) as error:
            raise ConnectionError(ENDED) from error

    async def receive(self) -> pb.FromMaster | None:
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.PERMISSION_DENIED:
                raise Forbidden(_reason(error)) from error
            raise ConnectionError(_reason(error)) from error
        except asyncio.CancelledError as error:
            go_on_unless_cancelled()
            raise ConnectionError(ENDED) from error
        except grpc.aio.BaseError as error:
            raise ConnectionError(str(error)) from error
        return message if isinstance(message, pb.FromMaster) else None


def _reason(error: Exception) -> str:
    details = error.details() if isinstance(error, grpc.aio.AioRpcError) else None
    return details or str(error)
