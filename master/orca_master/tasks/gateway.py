"""The gRPC adapter for workers: mutual TLS, who is it, and the stream as a `Link`.

Other masters come here too, with the streams of their workers, while this one leads (`relays`).
"""

import asyncio
import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # children of a gRPC process crash with it

from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from typing import Protocol

import grpc

from orca_common.logs import get_logger
from orca_common.unbroken import Reads, Writes
from orca_master.errors import Forbidden, NotLeader, NotReady, OrcaError, RateLimited
from orca_master.tasks.dispatcher import Link
from orca_master.tasks.trusting import Trust, TrustingLink, while_trusted
from orca_proto import worker_pb2 as pb
from orca_proto import worker_pb2_grpc as rpc
from orca_proto.identity import Bearer, NodeRole, NotABearer, bearer_of_client

MAX_MESSAGE_BYTES = 64 << 20
STOP_GRACE_SECONDS = 1.0
HEAR_SECONDS = 5.0
STREAMS_PER_CONNECTION = 100
HANDSHAKE_SECONDS = 10.0
LEAST_PING_SECONDS = 0.25
EARLY_PINGS = 100
"""So many pings in a row that come sooner than that, and it is closed; a worker pings every second."""
IDLE_SECONDS = 5.0
"""A connection without a stream, which its client has left open, is closed after so long."""
NODE_KEY = "orca-node"
AGAIN = "say Hello again"

log = get_logger("gateway")


class Held(Protocol):
    """The master's certificate and key, and whose certificates it trusts; PEM all."""

    def certificate_and_key(self) -> tuple[bytes, bytes]: ...
    def authority(self) -> bytes: ...


class Local(Protocol):
    """Serves a worker of this master's own: `Streams`."""

    async def serve(self, node_id: str, link: Link) -> None: ...


class Leading(Protocol):
    """Serves the workers of other masters while this one leads: `Dispatcher`."""

    @property
    def leads(self) -> bool: ...

    async def serve(self, node_id: str, link: Link, *, through: str) -> bool:
        """Whether the worker may say Hello again, to whoever leads then."""
        ...


def _configuration(shown: tuple[bytes, bytes], ca: bytes) -> grpc.ServerCertificateConfiguration:
    certificate, key = shown
    return grpc.ssl_server_certificate_configuration([(key, certificate)], ca)


class WorkerGateway(rpc.WorkersServicer):
    """Listens for workers of one cluster, and for masters, and hands each authenticated stream on."""

    def __init__(
        self,
        local: Local,
        leading: Leading,
        *,
        cluster_id: str,
        is_master: Callable[[str], bool],
        certified: Callable[[str, bytes], bytes],
        trust: Trust,
    ) -> None:
        """`is_master`: whether this id is one's that has not left. `certified` makes a certificate (PEM) for
        a node from a request (DER); raises OrcaError."""
        self._local = local
        self._leading = leading
        self._is_master = is_master
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
                (
                    "grpc.http2.min_recv_ping_interval_without_data_ms",
                    round(LEAST_PING_SECONDS * 1000),
                ),
                ("grpc.http2.max_ping_strikes", EARLY_PINGS),
                ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION),
                ("grpc.server_handshake_timeout_ms", round(HANDSHAKE_SECONDS * 1000)),
                ("grpc.max_connection_idle_ms", round(IDLE_SECONDS * 1000)),
                ("grpc.so_reuseport", 0),
            ]
        )
        rpc.add_WorkersServicer_to_server(self, server)
        rpc.add_RelaysServicer_to_server(_Relays(self), server)
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
            with closing(self._link(context, node_id)) as link:
                trusting = TrustingLink(link, node_id, self._trust, authority)
                async with while_trusted(self._trust, authority), trusting.told():
                    await self._local.serve(node_id, trusting)
        except RateLimited as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, error.message)
        except OrcaError as error:
            await _refuse(context, error)

    async def relayed(
        self, context: "grpc.aio.ServicerContext[pb.FromWorker, pb.FromMaster]"
    ) -> None:
        """A worker's stream that another master holds; see the protocol for how it begins and ends."""
        try:
            bearer, authority = self._authenticated(context)
            if bearer.role is not NodeRole.MASTER or not self._is_master(bearer.id):
                raise Forbidden(f"the certificate names {bearer.uri}, which is no master")
            node_id = _node_named(context)
        except OrcaError as error:
            log.warning("a relay was refused", reason=error.message, peer=context.peer())
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, error.message)
        try:
            if not self._leading.leads:
                raise NotLeader("this master does not lead")
            await context.send_initial_metadata(())
            with closing(self._link(context, node_id)) as link:
                async with while_trusted(self._trust, authority):
                    again = await self._leading.serve(node_id, link, through=bearer.id)
        except (OrcaError, ConnectionError) as error:
            await _refuse(context, error)
        if again:
            await context.abort(grpc.StatusCode.UNAVAILABLE, AGAIN)

    def _link(
        self, context: "grpc.aio.ServicerContext[pb.FromWorker, pb.FromMaster]", node_id: str
    ) -> "_ServerLink":
        return _ServerLink(context, lambda request: self._renewed(node_id, request))

    def _renewed(self, node_id: str, request: pb.RenewRequest) -> pb.Renewed | None:
        """The answer to a worker that has made a new key; None: that is for the leader to give."""
        if not self._leading.leads:
            return None
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
        """The node's id, and its authority as in `_authenticated`. Who is refused was heard first: the
        reason of a stream that ends while its client still writes may get lost. Raises Forbidden,
        NotReady."""
        try:
            return self._worker(context)
        except Forbidden:
            with suppress(grpc.aio.BaseError, TimeoutError):
                async with asyncio.timeout(HEAR_SECONDS):
                    await context.read()
            raise

    def _worker(
        self, context: "grpc.aio.ServicerContext[pb.FromWorker, pb.FromMaster]"
    ) -> tuple[str, str]:
        bearer, authority = self._authenticated(context)
        if bearer.role is not NodeRole.WORKER:
            raise Forbidden(f"the certificate names {bearer.uri}, which is no worker")
        return bearer.id, authority

    def _authenticated(
        self, context: "grpc.aio.ServicerContext[pb.FromWorker, pb.FromMaster]"
    ) -> tuple[Bearer, str]:
        """Whom of this cluster the client's certificate names, and the fingerprint of the authority that has
        issued it. Raises Forbidden, NotReady."""
        pem = context.auth_context().get("x509_pem_cert", [b""])[0]
        try:
            bearer = bearer_of_client(pem)
        except (NotABearer, ValueError) as error:
            raise Forbidden(f"the certificate is refused: {error}") from error
        if bearer.cluster != self._cluster_id:
            raise Forbidden(f"the certificate names {bearer.uri}, which is not of this cluster")
        return bearer, self._trust.check(pem)


class _Relays(rpc.RelaysServicer):
    """The service for other masters: its only method has the name of the workers' one."""

    def __init__(self, gateway: WorkerGateway) -> None:
        self._gateway = gateway

    async def Session(  # type: ignore[override]
        self,
        request_iterator: AsyncIterator[pb.FromWorker],
        context: "grpc.aio.ServicerContext[pb.FromWorker, pb.FromMaster]",
    ) -> None:
        await self._gateway.relayed(context)


async def _refuse(
    context: "grpc.aio.ServicerContext[pb.FromWorker, pb.FromMaster]", error: Exception
) -> None:
    if isinstance(error, Forbidden):
        log.warning("worker refused", reason=error.message, peer=context.peer())
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, error.message)
    await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))


def _node_named(context: "grpc.aio.ServicerContext[pb.FromWorker, pb.FromMaster]") -> str:
    """Raises Forbidden."""
    for key, value in context.invocation_metadata() or ():
        if key == NODE_KEY and isinstance(value, str):
            return value
    raise Forbidden(f"a relay names its node in {NODE_KEY}")


class _ServerLink:
    """One stream at a master, see `dispatcher.Link`; whoever serves it may give way to another.

    Renewals are answered by `renewed` beside what the session says, or passed on if it does not.
    """

    def __init__(
        self,
        context: "grpc.aio.ServicerContext[pb.FromWorker, pb.FromMaster]",
        renewed: Callable[[pb.RenewRequest], pb.Renewed | None],
    ) -> None:
        self._renewed = renewed
        self._reads = Reads(context.read)
        self._writes = Writes(context.write)

    def close(self) -> None:
        self._reads.close()
        self._writes.close()

    async def send(self, message: pb.FromMaster) -> None:
        try:
            await self._writes.send(message)
        except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
            raise ConnectionError("the worker's stream is closed") from error

    async def receive(self) -> pb.FromWorker | None:
        while True:
            try:
                message = await self._reads.next()
            except grpc.aio.BaseError:
                return None
            if not isinstance(message, pb.FromWorker):
                return None  # the end
            is_renewal = message.WhichOneof("body") == "renew"
            answer = self._renewed(message.renew) if is_renewal else None
            if answer is None:
                return message
            try:
                await self.send(pb.FromMaster(renewed=answer))
            except ConnectionError:
                return None
