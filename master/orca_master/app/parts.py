"""What one master is made of below its ports, put together from its folder and its settings."""

from collections.abc import Sequence

from prometheus_client.registry import Collector

from orca_common.env import Env
from orca_common.version import orca_version
from orca_master.app.authority import AuthorityKeeper, Holdings
from orca_master.app.config import MasterConfig
from orca_master.app.core import MasterCore
from orca_master.app.credentials import Credentials
from orca_master.app.folder import Folder
from orca_master.app.keys import Keys
from orca_master.app.log import Backing
from orca_master.app.members import LogMembership
from orca_master.app.metrics import LivenessCollector, LogCollector, StreamsCollector
from orca_master.app.wrapping import NOT_KNOWN, WrappingKeeper
from orca_master.cluster.authority.routes import AuthorityRoutes
from orca_master.cluster.masters.agreement import AgreementWatch
from orca_master.cluster.masters.leading import WhoLeads
from orca_master.cluster.masters.routes import MasterRoutes
from orca_master.cluster.masters.sharing import Others, SharingRoutes
from orca_master.cluster.model import MASTERS, Master
from orca_master.cluster.nodes import NodeRoutes, NodesShown
from orca_master.cluster.refusals import Refusals
from orca_master.cluster.routes import ClusterRoutes
from orca_master.cluster.wrapping.routes import WrappingRoutes
from orca_master.http.dialects import CLUSTER
from orca_master.http.documentation import documentation
from orca_master.http.forward import Forwarder
from orca_master.http.meters import HttpMeters
from orca_master.http.route import Route
from orca_master.identity.registries.routes import RegistryRoutes
from orca_master.identity.routes import TokenRoutes
from orca_master.identity.wrapping.keyring import Keyring
from orca_master.ingress.certificates.acme_routes import AcmeRoutes
from orca_master.ingress.certificates.authority import Open
from orca_master.ingress.certificates.opening import open_acme
from orca_master.ingress.certificates.routes import CertificateRoutes
from orca_master.ingress.routes import IngressRoutes
from orca_master.ops.audit import AuditRoutes
from orca_master.ops.events.routes import EventRoutes
from orca_master.ops.health import OpsRoutes
from orca_master.services.rollouts.routes import RolloutRoutes
from orca_master.services.routes import ServiceRoutes
from orca_master.services.secrets.routes import SecretRoutes
from orca_master.sources.webhooks.routes import WebhookRoutes
from orca_master.state.blobs import Blobs
from orca_master.state.history.file import DamagedHistory
from orca_master.state.history.keeper import WHAT_TO_DO, History
from orca_master.state.store import Store
from orca_master.state.versions import check_not_older
from orca_master.tasks.on_nodes import TasksOnNodes
from orca_master.tasks.relays import GrpcRelays
from orca_proto.identity import MASTER_NAME


class Parts:
    """`start` it, keep `core.run` running, close it."""

    def __init__(
        self,
        env: Env,
        settings: MasterConfig,
        folder: Folder,
        me: Master,
        open_session: Open = open_acme,
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.me = me
        self.credentials = Credentials(env, folder)
        self.backing = Backing(env, folder, self.credentials, peers=me.peers)
        self.membership = LogMembership(self.backing.log, me=me.id, address=me.peers)
        self.history = History(
            env, str(folder.path / "history.db"), sources=lambda: self.others.history()
        )
        self.blobs = Blobs(env, str(folder.path / "blobs"), sources=lambda: self.others.blobs())
        keyring = Keyring(
            env,
            folder.keks,
            is_given=folder.has_given_kek,
            doubt=NOT_KNOWN if folder.is_raft else "",
        )
        self.core = MasterCore(
            env,
            self.backing.log,
            GrpcRelays(self._port_for_workers, self.credentials),
            heartbeat_seconds=settings.heartbeat_seconds,
            node_down_after_seconds=settings.node_down_after_seconds,
            fence_lease_seconds=settings.lease_seconds,
            membership=self.membership,
            history=self.history,
            keyring=keyring,
            open_session=open_session,
        )
        self.leading = WhoLeads(self.core.store, me.id)
        self.forwarder = Forwarder(self.leading, self.credentials.asking, server_name=MASTER_NAME)
        self.others = Others(self._store, self.forwarder, me.id)
        self.watch = AgreementWatch(self.core.store, self.membership, self.others)
        self.keys = Keys(self.core, folder, leaf_seconds=settings.certificate_days * 86400)
        self.holdings = Holdings(self.core.store, self.leading, self.forwarder.ask)
        self.keeper = AuthorityKeeper(
            env, self.core.store, self.credentials, self.keys, self.holdings, me=me.id
        )
        self.wrapping = WrappingKeeper(
            env,
            self.core.store,
            keyring,
            self.membership,
            self.leading,
            self.forwarder.ask,
            folder=folder.path,
            others=self.others.addresses,
            me=me.id,
        )
        self.meters = HttpMeters()

    def _port_for_workers(self, master_id: str) -> str | None:
        """Of another master, as far as it is known."""
        row = self.core.store.state.get(MASTERS, master_id)
        return row.workers or None if row is not None and row.id != self.me.id else None

    def is_master(self, id: str) -> bool:
        """Whether it is one that has not left."""
        return self.core.store.state.get(MASTERS, id) is not None

    def _store(self) -> Store:
        return self.core.store

    async def start(self) -> None:
        """Raises DamagedLog, FolderInUse, DamagedHistory, OlderThanCluster, StorageFull, OSError."""
        await self.backing.prepare()
        await self.core.store.start()
        check_not_older(self.core.store.state)
        if not self.folder.is_raft and not self.history.is_whole:
            raise DamagedHistory(f"{self.folder.path}/history.db lacks events. {WHAT_TO_DO}")
        await self.blobs.start()

    async def close(self) -> None:
        await self.forwarder.close()
        await self.core.store.close()

    def routes(self) -> Sequence[Route]:
        """Every endpoint of a master."""
        core, store, version = self.core, self.core.store, orca_version()
        membership, signer, keyring = self.membership, self.keys.signer, core.keyring
        services = ServiceRoutes(core.env, store, core.dispatcher, core.presence)
        nodes = NodesShown(core.env, core.presence, TasksOnNodes())
        refusals = Refusals(core.env, store)
        log = LogCollector(store, self.backing.log, membership)
        lost, streams = LivenessCollector(core.liveness), StreamsCollector(core.streams)
        collectors: list[Collector] = [log, lost, streams, self.meters, services.meters.counter]
        routes = [
            *OpsRoutes(store, version, self._troubles, collectors).table(),
            *services.table(),
            *RolloutRoutes(services.changes).table(),
            *WebhookRoutes(core.env, store, keyring, core.digests).table(),
            *SecretRoutes(services.changes, core.vault).table(),
            *IngressRoutes(store).table(),
            *CertificateRoutes(core.env, store, core.certificate_keys).table(),
            *AcmeRoutes(core.env, store, core.certificate_keys).table(),
            *RegistryRoutes(core.env, store, core.accounts).table(),
            *AuditRoutes(store, self.history).table(),
            *EventRoutes(core.env, store, self.history, core.recent).table(),
            *TokenRoutes(core.env, store).table(),
            *ClusterRoutes(
                core.env, store, nodes, core.liveness, membership, signer, version, refusals
            ).table(),
            *NodeRoutes(core.env, store, nodes).table(),
            *AuthorityRoutes(core.env, store, membership, signer, keyring).table(),
            *WrappingRoutes(core.env, store, membership, keyring).table(),
            *MasterRoutes(core.env, store, membership, signer, keyring, refusals).table(),
            *SharingRoutes(store, self.history, self.blobs).table(),
        ]
        return [*routes, *documentation(routes, dialect=CLUSTER, version=version)]

    def _troubles(self) -> list[str]:
        gaps = [] if self.history.is_whole else ["events of the history are being fetched"]
        return [*self.core.troubles(), *self.watch.doubts, *gaps]
