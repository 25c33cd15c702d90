"""The gRPC adapter for workers: mutual TLS, who is it, and the stream as a `Link`."""

import asyncio
import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # children of a gRPC process crash with it

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import grpc

from orca_common.cancelling import go_on_unless_cancelled
from orca_common.logs import get_logger
from orca_master.errors import Forbidden, NotReady, OrcaError
from orca_master.tasks.dispatcher import Dispatcher
from orca_proto import worker_pb2 as pb
from orca_proto import worker_pb2_grpc as rpc
from orca_proto.identity import NodeRole, NotABearer, bearer_of_client

MAX_MESSAGE_BYTES = 64 << 20
STOP_GRACE_SECONDS = 1.0
HEAR_SECONDS = 5.0

log = get_logger("gateway")


class Held(Protocol):
    """The master's certificate and key, and whose certificates it trusts; PEM all."""

    def certificate_and_key(self) -> tuple[bytes, bytes]: ...
    def authority(self) -> bytes: ...


class Trust(Protocol):
    """See `trust.WorkersTrust`."""

    def recognized(self) -> bytes: ...
    def check(self, pem: bytes) -> str: ...
    def is_trusted(self, authority: str) -> bool: ...
    async def keep_telling(
        self, node_id: str, send: Callable[[pb.FromMaster], Awaitable[None]]
    ) -> None: ...
    async def heard(self, node_id: str, said: pb.Trusted) -> None: ...


def _configuration(shown: tuple[bytes, bytes], ca: bytes) -> grpc.ServerCertificateConfiguration:
    certificate, key = shown
    return grpc.ssl_server_certificate_configuration([(key, certificate)], ca)


class WorkerGateway(rpc.WorkersServicer):
    """Listens for workers of one cluster and hands each authenticated stream to the dispatcher."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        cluster_id: str,
        certified: Callable[[str, bytes], bytes],
        trust: Trust,
    ) -> None:
        """`certified` makes a certificate (PEM) for a node from a request (DER); raises OrcaError."""
        self._dispatcher = dispatcher
        self._cluster_id = cluster_id
        self._certified = certified
        self._trust = trust
        self._held: Held | None = None
        self._server: grpc.aio.Server | None = None

    async def start(self, address: str, held: Held) -> None:
        """Listen on `host:port`; who connects later is shown what is held then. Raises OSError."""
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.keepalive_time_ms", 10_000),
                ("grpc.keepalive_timeout_ms", 5_000),
                ("grpc.http2.ping_timeout_ms", 5_000),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
                ("grpc.http2.max_ping_strikes", 0),
                ("grpc.so_reuseport", 0),
            ]
        )
        rpc.add_WorkersServicer_to_server(self, server)
        shown = self._shown(held)

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal shown
            now = self._shown(held)
            if now == shown:
                return None
            shown = now
            return _configuration(*shown)

        credentials = grpc.dynamic_ssl_server_credentials(_configuration(*shown), renewed, True)
        try:
            server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen for workers on {address}: {error}") from error
        self._held = held
        await server.start()
        self._server = server

    async def close(self) -> None:
        if self._server is not None:
            await self._server.stop(STOP_GRACE_SECONDS)

    # grpc.aio also takes a coroutine that reads and writes through the context.
    async def Session(  # type: ignore[override]
        self,
        request_iterator: AsyncIterator[pb.FromWorker],
        context: "grpc.aio.ServicerContext[pb.FromWorker, pb.FromMaster]",
    ) -> None:
        try:
            node_id, authority = await self._known(context)
            link = _GrpcLink(
                context,
                node_id,
                self._trust,
                lambda request: self._renewed(node_id, request),
                authority=authority,
            )
            async with link.told():
                await self._dispatcher.serve(node_id, link)
        except Forbidden as error:
            log.warning("worker refused", reason=error.message, peer=context.peer())
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, error.message)
        except OrcaError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, error.message)

    def _renewed(self, node_id: str, request: pb.RenewRequest) -> pb.Renewed:
        """The answer to a worker that has made a new key."""
        assert self._held is not None, "nobody connects before it listens"
        try:
            certificate = self._certified(node_id, request.request)
            return pb.Renewed(certificate=certificate, authorities=self._held.authority())
        except (OrcaError, OSError) as error:
            log.warning("a certificate is not renewed", id=node_id, reason=str(error))
            return pb.Renewed(error=str(error))

    def _shown(self, held: Held) -> tuple[tuple[bytes, bytes], bytes]:
        try:
            return held.certificate_and_key(), self._trust.recognized()
        except NotReady:  # the state has not come yet
            return held.certificate_and_key(), held.authority()

    async def _known(
        self, context: "grpc.aio.ServicerContext[pb.FromWorker, pb.FromMaster]"
    ) -> tuple[str, str]:
        """As `_authenticate`. Who is refused has been heard first: the reason of a stream that ends
        while its client still writes may get lost. Raises Forbidden, NotReady."""
        try:
            return self._authenticate(context)
        except Forbidden:
            with suppress(grpc.aio.BaseError, TimeoutError):
                async with asyncio.timeout(HEAR_SECONDS):
                    await context.read()
            raise

    def _authenticate(
        self, context: "grpc.aio.ServicerContext[pb.FromWorker, pb.FromMaster]"
    ) -> tuple[str, str]:
        """The node id that the client's certificate names, and the fingerprint of the authority that
        has issued it. Raises Forbidden, NotReady."""
        pem = context.auth_context().get("x509_pem_cert", [b""])[0]
        try:
            bearer = bearer_of_client(pem)
        except (NotABearer, ValueError) as error:
            raise Forbidden(f"the certificate is refused: {error}") from error
        if bearer.cluster != self._cluster_id or bearer.role is not NodeRole.WORKER:
            raise Forbidden(
                f"the certificate names {bearer.uri}, which is no worker of this cluster"
            )
        return bearer.id, self._trust.check(pem)


class _GrpcLink:
    """Certificates and authorities go beside what the session says; the dispatcher sees nothing of
    them. `authority`: the fingerprint of the one that has issued the certificate that is shown; the
    stream ends when that is trusted no more and the worker has not taken another one."""

    def __init__(
        self,
        context: "grpc.aio.ServicerContext[pb.FromWorker, pb.FromMaster]",
        node_id: str,
        trust: Trust,
        renewed: Callable[[pb.RenewRequest], pb.Renewed],
        *,
        authority: str,
    ) -> None:
        self._context = context
        self._node_id = node_id
        self._trust = trust
        self._renewed = renewed
        self._authority = authority
        self._writing = asyncio.Lock()
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
            await self._trust.keep_telling(self._node_id, self.send)

    async def send(self, message: pb.FromMaster) -> None:
        try:
            async with self._writing:  # a stream takes one write at a time
                await self._context.write(message)
        except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
            raise ConnectionError("the worker's stream is closed") from error
        self._greeted.set()

    async def receive(self) -> pb.FromWorker | None:
        while True:
            try:
                message = await self._context.read()
            except grpc.aio.BaseError:
                return None
            if not isinstance(message, pb.FromWorker):
                return None  # the end
            if not self._trust.is_trusted(self._authority):
                log.warning("stream ended: its certificate is trusted no more", id=self._node_id)
                return None
            match message.WhichOneof("body"):
                case "renew":
                    try:
                        await self.send(pb.FromMaster(renewed=self._renewed(message.renew)))
                    except ConnectionError:
                        return None
                case "trusted":
                    self._authority = message.trusted.shows
                    await self._trust.heard(self._node_id, message.trusted)
                case _:
                    return message
