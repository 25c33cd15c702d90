"""One master as a process: the core wired to its disk, its log, its three ports."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web
from prometheus_client.registry import Collector

from orca_common.daemon import settle_memory
from orca_common.env import Env
from orca_common.logs import get_logger
from orca_common.notify import notify
from orca_common.real import real_env
from orca_common.version import orca_version
from orca_master.app import joining
from orca_master.app.config import MasterConfig
from orca_master.app.core import MasterCore
from orca_master.app.credentials import Credentials
from orca_master.app.folder import (
    BadFolder,
    Folder,
    advertised,
    found_folder,
    is_new,
    mark_started,
    open_folder,
)
from orca_master.app.log import RAFT_ALPN, Backing
from orca_master.app.members import LogMembership
from orca_master.app.metrics import LogCollector
from orca_master.cluster import pki
from orca_master.cluster.masters.leading import WhoLeads
from orca_master.cluster.masters.operations import found_master
from orca_master.cluster.masters.port import Membership
from orca_master.cluster.masters.registrar import Registrar
from orca_master.cluster.masters.routes import MasterRoutes
from orca_master.cluster.model import AUTHORITY, CLUSTER, MASTERS, Authority, Master
from orca_master.cluster.routes import ClusterRoutes
from orca_master.errors import Forbidden, NotReady
from orca_master.http.forward import ALPN as HTTP_ALPN
from orca_master.http.forward import Forwarder
from orca_master.http.port import PeerPort
from orca_master.http.route import Route
from orca_master.http.server import HttpServer
from orca_master.identity.model import Principal, Role
from orca_master.identity.operations import authenticate, create_token
from orca_master.ops.health import OpsRoutes
from orca_master.services.routes import ServiceRoutes
from orca_master.state.transaction import Transaction
from orca_master.tasks.gateway import WorkerGateway
from orca_proto.identity import MASTER_NAME
from orca_proto.join import parse

log = get_logger("master")


async def serve(settings: MasterConfig) -> None:
    """Run until cancelled. Raises BadFolder, CannotJoin, DamagedLog, FolderInUse, Removed, OSError."""
    env = real_env()
    folder = await _home(env, settings)
    me = myself(settings, folder)
    credentials = Credentials(env, folder)
    backing = Backing(env, folder, credentials, peers=me.peers)
    membership = LogMembership(backing.log, me=me.id, address=me.peers)
    core = MasterCore(
        env,
        backing.log,
        heartbeat_seconds=settings.heartbeat_seconds,
        node_down_after_seconds=settings.node_down_after_seconds,
        membership=membership,
    )
    await backing.prepare()
    await core.store.start()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(core.run())
            await Doors(core, settings, folder, credentials, backing, membership, me).stand()
    finally:
        await core.store.close()
        log.info("stopped")


async def _home(env: Env, settings: MasterConfig) -> Folder:
    """The data folder: as it is, of a new cluster, or filled by joining one."""
    path = Path(settings.data_dir)
    if not settings.join:
        return found_folder(env, path)
    peers = _peers(settings)
    if is_new(path):
        token = parse(_token(settings))
        await joining.enrol(settings.join, token, name=settings.name, peers=peers, folder=path)
    if not (path / "kek").exists():
        await joining.fetch_key(path)
    return open_folder(path)


def _token(settings: MasterConfig) -> str:
    text = settings.join_token
    if not text and settings.join_token_file:
        try:
            text = Path(settings.join_token_file).read_text()
        except OSError as error:
            raise joining.CannotJoin(f"the join token cannot be read: {error}") from error
    if not text:
        raise joining.CannotJoin("joining takes a token: give --token, from `orca masters token`")
    return text


def _peers(settings: MasterConfig) -> str:
    return f"{advertised(settings.bind, settings.advertise)}:{settings.peer_port}"


def myself(settings: MasterConfig, folder: Folder) -> Master:
    """This master's row, as its settings say."""
    host = advertised(settings.bind, settings.advertise)
    return Master(
        id=folder.master_id,
        name=settings.name,
        joined_at=0.0,
        peers=_peers(settings),
        api=f"http://{host}:{settings.api_port}",
        workers=f"{host}:{settings.grpc_port}",
        version=orca_version(),
        schema=1,
    )


class Keys:
    """The cluster's authority, opened once its row has come."""

    def __init__(self, core: MasterCore, folder: Folder) -> None:
        self._core = core
        self._folder = folder
        self._signer: pki.Signer | None = None

    def signer(self) -> pki.Signer:
        """Raises NotReady, WrongKey."""
        if self._signer is None:
            authority = self._core.store.state.get(AUTHORITY, "ca")
            if authority is None:
                raise NotReady(NO_STATE)
            self._signer = pki.open_authority(authority, self._folder.cluster_id, self._folder.kek)
        return self._signer


NO_STATE = "this master does not have the cluster's state yet: it has to reach the other masters"


async def found(core: MasterCore, folder: Folder, me: Master, *, cluster_name: str) -> None:
    """The first rows of a new cluster: itself, this master, the authority, the first admin token."""
    await core.found(cluster_id=folder.cluster_id, cluster_name=cluster_name)
    made: Authority | None = None
    if core.store.state.get(AUTHORITY, "ca") is None:
        made = pki.create_authority(core.env, folder.cluster_id, folder.kek)

    def bootstrap(tx: Transaction) -> None:
        now = core.env.now()
        found_master(tx, Master(id=me.id, name=me.name, joined_at=now))
        if folder.admin_token is not None:
            create_token(
                tx,
                id=core.env.new_id(),
                name="admin",
                role=Role.ADMIN,
                secret=folder.admin_token,
                now=now,
            )
        if made is not None and tx.get(AUTHORITY, "ca") is None:
            tx.put(AUTHORITY, made)

    await core.store.update(bootstrap)


def all_routes(
    core: MasterCore,
    membership: Membership,
    keys: Keys,
    *,
    kek: bytes,
    collectors: Sequence[Collector] = (),
) -> Sequence[Route]:
    """Every endpoint of a master."""
    store, version = core.store, orca_version()
    return [
        *OpsRoutes(store, version, core.put_aside, collectors).table(),
        *ServiceRoutes(core.env, store, core.dispatcher).table(),
        *ClusterRoutes(core.env, store, core.presence, membership, keys.signer, version).table(),
        *MasterRoutes(core.env, store, membership, keys.signer, kek).table(),
    ]


def authenticated(core: MasterCore, authorization: str | None) -> Principal:
    """Raises Unauthenticated; NotReady while nobody's token can be known."""
    if core.store.state.get(CLUSTER, "cluster") is None:
        raise NotReady(NO_STATE)
    return authenticate(core.store.state, authorization)


class Doors:
    """The API, the workers' port and the masters' port of one master."""

    def __init__(
        self,
        core: MasterCore,
        settings: MasterConfig,
        folder: Folder,
        credentials: Credentials,
        backing: Backing,
        membership: LogMembership,
        me: Master,
    ) -> None:
        self._core = core
        self._settings = settings
        self._folder = folder
        self._credentials = credentials
        self._backing = backing
        self._membership = membership
        self._me = me
        self._keys = Keys(core, folder)

    async def stand(self) -> None:
        """Found what is not there yet, listen, and stay until cancelled; then hand over."""
        await self._prepare()
        core, settings = self._core, self._settings
        leading = WhoLeads(core.store, self._me.id)
        forwarder = Forwarder(leading, self._credentials.client(), server_name=MASTER_NAME)
        routes = all_routes(
            core,
            self._membership,
            self._keys,
            kek=self._folder.kek,
            collectors=[LogCollector(core.store, self._backing.log, self._membership)],
        )
        public = HttpServer(
            core.env,
            routes,
            lambda header: authenticated(core, header),
            age=lambda: core.store.age,
            forwarder=forwarder,
        )
        internal = HttpServer(
            core.env, routes, lambda header: authenticated(core, header), peer_of=self._peer_of
        )
        port = PeerPort(
            self._credentials.server(),
            self._credentials.verify,
            {RAFT_ALPN: self._backing.accept, HTTP_ALPN: internal.accept},
        )
        gateway = WorkerGateway(core.dispatcher, cluster_id=self._folder.cluster_id)
        registrar = Registrar(core.store, leading, forwarder.ask, self._me)
        try:
            await internal.prepare()
            await port.start(settings.bind, settings.peer_port)
            certificate, key = self._credentials.certificate_and_key()
            await gateway.start(
                f"{settings.bind}:{settings.grpc_port}",
                ca=self._credentials.authority(),
                certificate=certificate,
                key=key,
            )
            await public.start(settings.bind, settings.api_port)
            async with asyncio.TaskGroup() as group:
                group.create_task(forwarder.run())
                group.create_task(registrar.run())
                group.create_task(self._settle_in())
                log.info("ready", api_port=settings.api_port, cluster=self._folder.cluster_id)
                notify("READY=1", f"STATUS=serves cluster {self._folder.cluster_id}")
        finally:
            notify("STOPPING=1")
            await self._membership.transfer()
            await public.close()
            await gateway.close()
            await port.close()
            await internal.close()
            await forwarder.close()

    async def _prepare(self) -> None:
        mark_started(self._folder, keep_first_peers=True)
        if self._backing.log.raft is None:
            name = self._settings.cluster_name
            await found(self._core, self._folder, self._me, cluster_name=name)
        if self._core.store.state.get(AUTHORITY, "ca") is not None:
            self._credentials.renew(self._keys.signer())
        elif not self._credentials.exist:
            raise BadFolder(f"{self._folder.path}/tls is missing: put it back")

    async def _settle_in(self) -> None:
        """Once this master knows that it is a member, it needs no first addresses any more."""
        store = self._core.store
        with store.follow(MASTERS) as follower:
            while store.state.get(MASTERS, self._me.id) is None:
                await follower.next()
        mark_started(self._folder, keep_first_peers=False)
        settle_memory()

    def _peer_of(self, request: web.Request) -> str:
        """The master at the other end of the masters' port. Raises Forbidden for one that left."""
        transport = request.transport
        tls = transport.get_extra_info("ssl_object") if transport else None
        if tls is None:
            raise ConnectionError("the connection is closed")
        id = self._credentials.verify(tls.getpeercert(binary_form=True) or b"")
        if self._core.store.state.get(MASTERS, id) is None:
            raise Forbidden(f"{id} is no master of this cluster (any more)")
        return id
