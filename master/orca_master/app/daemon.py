"""One master as a process: its parts, and its three ports."""

import asyncio
import math

from aiohttp import web

from orca_common.daemon import Hangup, settle_memory
from orca_common.logs import get_logger
from orca_common.notify import notify, show_life
from orca_common.real import real_env
from orca_master.app.config import MasterConfig
from orca_master.app.folder import BadFolder, mark_started
from orca_master.app.home import at_home, myself
from orca_master.app.keys import found
from orca_master.app.log import RAFT_ALPN
from orca_master.app.parts import Parts
from orca_master.cluster.masters.custodian import BlobsCustodian
from orca_master.cluster.masters.registrar import Registrar
from orca_master.cluster.model import CLUSTER, MASTERS
from orca_master.errors import Forbidden
from orca_master.http.access import AccessLog
from orca_master.http.forward import ALPN as HTTP_ALPN
from orca_master.http.port import PeerPort
from orca_master.http.rates import Rates
from orca_master.http.server import HttpServer
from orca_master.http.tls import ApiTls
from orca_master.identity.wrapping.keyring import KeyAway
from orca_master.state.versions import check_not_older
from orca_master.tasks.gateway import WorkerGateway
from orca_master.tasks.trust import WorkersTrust

CATCH_UP_LOOK_SECONDS = 0.05
CATCH_UP_SECONDS = 30.0
"""How long a start is held back for a leader. After that the service manager is told that it is up,
because masters that all start at once need each other."""


log = get_logger("master")


async def serve(settings: MasterConfig, hangup: Hangup) -> None:
    """Run until cancelled. Raises BadFolder, CannotJoin, Removed, Diverged, and what `Parts.start` does."""
    env = real_env()
    folder = await at_home(env, settings)
    parts = Parts(env, settings, folder, myself(settings, folder))
    await parts.start()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(parts.core.run())
            await Doors(parts, hangup).stand()
    finally:
        await parts.close()
        log.info("stopped")


class Doors:
    """The API, the workers' port and the masters' port of one master."""

    def __init__(self, parts: Parts, hangup: Hangup) -> None:
        """Raises BadCertificate, OSError."""
        self._parts = parts
        settings, rates = parts.settings, Rates(parts.core.env)
        self._tls: ApiTls | None = None
        if settings.api_certificate or settings.api_key:
            self._tls = ApiTls(settings.api_certificate, settings.api_key)
            hangup.on("api_certificate", self._tls.reload)
        core, routes = parts.core, parts.routes()
        self._public = HttpServer(
            core.env,
            routes,
            parts.keys.authenticated,
            age=lambda: core.store.age,
            forwarder=parts.forwarder,
            meters=parts.meters,
            rates=rates,
            access=AccessLog(settings.access_log),
        )
        self._internal = HttpServer(
            core.env, routes, parts.keys.authenticated, rates=rates, peer_of=self._peer_of
        )
        self._gateway = WorkerGateway(
            core.streams,
            core.dispatcher,
            cluster_id=parts.folder.cluster_id,
            is_master=parts.is_master,
            certified=parts.keys.certified,
            trust=WorkersTrust(core.env, core.store, parts.holdings.tell),
        )
        self._port: PeerPort | None = None

    async def stand(self) -> None:
        """Found what is not there yet, listen, and stay until cancelled; then hand over."""
        parts = self._parts
        await self._prepare()
        registrar = Registrar(parts.core.store, parts.leading, parts.forwarder.ask, parts.me)
        try:
            await self._open()
            async with asyncio.TaskGroup() as group:
                group.create_task(parts.forwarder.run())
                group.create_task(registrar.run())
                group.create_task(parts.watch.run())
                group.create_task(BlobsCustodian(parts.core.store, parts.blobs).run())
                group.create_task(self._settle_in())
                group.create_task(parts.keeper.run())
                group.create_task(parts.wrapping.run())
                group.create_task(parts.keeper.stay_certified())
                group.create_task(self._stay_new_enough())
                group.create_task(show_life(lambda: parts.backing.log.stalled))
                await self._catch_up()
                self._check_key()
                port, cluster = parts.settings.api_port, parts.folder.cluster_id
                log.info("ready", api_port=port, cluster=cluster)
                notify("READY=1", f"STATUS=serves cluster {cluster}")
        finally:
            notify("STOPPING=1")
            await parts.membership.transfer()
            await self._close()

    async def _prepare(self) -> None:
        parts = self._parts
        mark_started(parts.folder, keep_first_peers=True)
        if parts.backing.log.raft is None:
            name = parts.settings.cluster_name
            await found(parts.core, parts.folder, parts.me, cluster_name=name)
        parts.wrapping.judge()
        if parts.keys.are_known and not self._has_current():
            parts.credentials.renew(parts.keys.signer())
        elif not parts.credentials.exist:
            raise BadFolder(f"{parts.folder.path}/tls is missing: put it back")

    def _check_key(self) -> None:
        """A wrong key-encryption key is found now, not in need. Raises WrongKey."""
        self._parts.wrapping.judge()
        if self._parts.keys.are_known:
            try:
                self._parts.keys.signer()
            except KeyAway as error:
                log.warning("secrets cannot be used yet", reason=error.message)

    def _has_current(self) -> bool:
        """Of several masters: what the log says at a start may be older than the certificate."""
        parts = self._parts
        is_one_of_several = parts.backing.log.raft is not None
        return is_one_of_several and parts.credentials.exist and not parts.credentials.has_expired()

    async def _open(self) -> None:
        settings, credentials = self._parts.settings, self._parts.credentials
        await self._internal.prepare()
        protocols = {RAFT_ALPN: self._parts.backing.accept, HTTP_ALPN: self._internal.accept}
        self._port = PeerPort(credentials.server(), credentials.verify, protocols)
        await self._port.start(settings.bind, settings.peer_port)
        await self._gateway.start(f"{settings.bind}:{settings.grpc_port}", credentials)
        tls = self._tls.context if self._tls is not None else None
        await self._public.start(settings.bind, settings.api_port, tls)

    async def _close(self) -> None:
        await self._public.close()
        await self._gateway.close()
        if self._port is not None:
            await self._port.close()
        await self._internal.close()

    async def _catch_up(self) -> None:
        """Return when what is applied here was certainly the latest a moment ago."""
        store = self._parts.core.store
        for _ in range(round(CATCH_UP_SECONDS / CATCH_UP_LOOK_SECONDS)):
            if not math.isinf(store.age):
                return
            await asyncio.sleep(CATCH_UP_LOOK_SECONDS)
        log.warning("no master leads yet; this one waits for the others")

    async def _settle_in(self) -> None:
        """Once this master knows that it is a member, it needs no first addresses any more."""
        store = self._parts.core.store
        with store.follow(MASTERS) as follower:
            while store.state.get(MASTERS, self._parts.me.id) is None:
                await follower.next()
        mark_started(self._parts.folder, keep_first_peers=False)
        settle_memory()

    async def _stay_new_enough(self) -> None:
        """The log may bring later that the cluster is of a newer version than this master."""
        store = self._parts.core.store
        with store.follow(CLUSTER) as follower:
            while True:
                await follower.next()
                check_not_older(store.state)

    def _peer_of(self, request: web.BaseRequest) -> str:
        """The master at the other end of the masters' port. Raises Forbidden for one that left."""
        transport = request.transport
        tls = transport.get_extra_info("ssl_object") if transport else None
        if tls is None:
            raise ConnectionError("the connection is closed")
        id = self._parts.credentials.verify(tls.getpeercert(binary_form=True) or b"")
        if self._parts.core.store.state.get(MASTERS, id) is None:
            raise Forbidden(f"{id} is no master of this cluster (any more)")
        return id
