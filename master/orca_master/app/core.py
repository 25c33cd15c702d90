"""The whole master above its ports: store, controllers, dispatcher. The simulation runs this too."""

import asyncio

from orca_common.env import Env
from orca_master.app.schema import SCHEMA
from orca_master.cluster.authority.controller import AuthorityController
from orca_master.cluster.leases import Leases
from orca_master.cluster.liveness import Liveness
from orca_master.cluster.masters.controller import MastersController
from orca_master.cluster.masters.port import Membership
from orca_master.cluster.model import NODES
from orca_master.cluster.operations import found_cluster
from orca_master.cluster.pace import Pace
from orca_master.cluster.presence import Presence
from orca_master.control.leader import Controller, run_while_leader
from orca_master.control.sweeping import Sweeper
from orca_master.http import once
from orca_master.identity.registries.accounts import Accounts
from orca_master.identity.secrets.vault import Vault
from orca_master.identity.wrapping.keyring import Keyring
from orca_master.ingress.certificates.authority import Open
from orca_master.ingress.certificates.controller import CertificateController
from orca_master.ingress.certificates.keys import Keys
from orca_master.ingress.certificates.opening import open_acme
from orca_master.ingress.feed import IngressFeed
from orca_master.ops.events.recent import Recent
from orca_master.services.controller import ServicesController
from orca_master.services.secrets.controller import SecretsController
from orca_master.sources.webhooks import operations as webhooks
from orca_master.sources.webhooks.controller import WebhookController
from orca_master.sources.webhooks.registry import Digests, Registries
from orca_master.state.history.keeper import History
from orca_master.state.log import Log
from orca_master.state.store import Store
from orca_master.tasks import gone
from orca_master.tasks.dispatcher import Dispatcher
from orca_master.tasks.streams import Relays, Streams

LEASE_SECONDS = 10.0


class MasterCore:
    """`relays` lead to the other masters. `membership`: how the log's members are changed; None where they
    are fixed. Without a `history` no trail can be written, so nothing of `routes` works; without a
    `keyring` there are no secrets."""

    def __init__(
        self,
        env: Env,
        log: Log,
        relays: Relays,
        *,
        heartbeat_seconds: float,
        node_down_after_seconds: float,
        fence_lease_seconds: float = LEASE_SECONDS,
        membership: Membership | None = None,
        history: History | None = None,
        digests: Digests | None = None,
        keyring: Keyring | None = None,
        open_session: Open = open_acme,
    ) -> None:
        self.env = env
        self.store = Store(env, log, SCHEMA, history)
        self.presence = Presence(env, Pace(heartbeat_seconds, node_down_after_seconds))
        self.leases = Leases(env, fence_lease_seconds)
        self.keyring = keyring or Keyring(env)
        self.vault = Vault(env, self.keyring)
        self.accounts = Accounts(self.keyring)
        self.certificate_keys = Keys(self.keyring)
        self.ingress = IngressFeed(self.store, self.certificate_keys)
        self.dispatcher = Dispatcher(
            env,
            self.store,
            self.presence,
            self.leases,
            self.vault,
            self.accounts,
            besides={"ingress_status": self.ingress},
        )
        self.streams = Streams(env, self.store, self.dispatcher, relays)
        self.recent = Recent(env, self.store)
        self._membership = membership
        self.liveness = Liveness(env, self.store, self.presence, self._silent_masters)
        self._services = ServicesController(env, self.store, self.presence, self.leases)
        self.digests = digests or Registries(self.store, self.accounts)
        self._webhooks = WebhookController(env, self.store, self.digests)
        self._controllers: list[Controller] = [
            self._services,
            self.liveness,
            self._webhooks,
            Sweeper(env, self.store, once.old, once.forget),
            Sweeper(env, self.store, webhooks.old, webhooks.forget),
            Sweeper(env, self.store, gone.old, gone.forget),
            SecretsController(env, self.store, self.vault),
            CertificateController(
                env, self.store, self.certificate_keys, self.ingress, open_session
            ),
        ]
        if membership is not None:
            self._controllers.append(MastersController(self.store, membership))
            self._controllers.append(AuthorityController(env, self.store, membership))

    async def run(self) -> None:
        """Until cancelled. `store.start` comes first."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.store.run())
            group.create_task(self.recent.run())
            group.create_task(run_while_leader(self.store, self._controllers))

    def _silent_masters(self) -> list[str]:
        """That this leader has not heard for a beat."""
        if self._membership is None:
            return []
        beat = self.presence.pace(self.store.state.count(NODES)).beat
        return [
            member.id
            for member in self._membership.members()
            if member.heard_seconds is not None and member.heard_seconds > beat
        ]

    def troubles(self) -> list[str]:
        """Objects that a controller fails on, and why; nodes that were lost at once."""
        aside = [*self._services.aside.reasons(), *self._webhooks.aside.reasons()]
        return [*aside, *self.liveness.alarm()]

    async def found(self, *, cluster_id: str, cluster_name: str) -> None:
        """Make the cluster's first row, once; needs `run` to be running."""
        now = self.env.now()
        await self.store.update(
            lambda tx: found_cluster(
                tx, id=cluster_id, name=cluster_name, now=now, schema=SCHEMA.version
            )
        )
