"""The ingress's part of each worker's stream: its tables down, what becomes of them up.

The tables are made once for a version of the state, whoever asks; each stream is sent what it does not have.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from orca_common.logs import get_logger
from orca_master.cluster.model import NODES
from orca_master.cluster.operations import down_nodes, the_cluster
from orca_master.errors import NotReady
from orca_master.ingress.certificates.keys import Keys
from orca_master.ingress.certificates.model import CERTIFICATES, ORDERS
from orca_master.ingress.compile import NOTHING, Tables, compile_tables
from orca_master.ingress.model import SERVINGS, Serving
from orca_master.ingress.serving import serving_nodes
from orca_master.services.model import SERVICES
from orca_master.services.rollouts.model import DEPLOYMENTS
from orca_master.state.rows import State
from orca_master.state.store import Store
from orca_master.state.transaction import Transaction
from orca_master.tasks.model import TASKS
from orca_proto import worker_pb2 as pb

MOST_REASON = 1000
KEY_SECONDS = 5.0
"""A certificate whose key does not open now is tried again after so long."""

log = get_logger("ingress")

_STATES = {
    pb.INGRESS_STATE_IDLE: "idle",
    pb.INGRESS_STATE_SERVING: "serving",
    pb.INGRESS_STATE_FAILED: "failed",
}


class IngressFeed:
    """See `tasks.dispatcher.Beside`."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys
        self._tables = NOTHING
        self._version = -1
        self._applied: dict[str, int] = {}

    def behind(self, version: int) -> list[str]:
        """Ids of nodes that are to serve, can, and do not serve this version of the state yet."""
        state = self._store.state
        down = down_nodes(state)
        return [
            node.id
            for node in serving_nodes(state)
            if node.id not in down
            and self._applied.get(node.id, -1) < version
            and not _has_failed(state.get(SERVINGS, node.id))
        ]

    async def run(self, node_id: str, send: Callable[[pb.FromMaster], Awaitable[None]]) -> None:
        self._applied.pop(node_id, None)
        sent: Tables | None = None
        served, lacking = False, set[str]()
        with self._store.follow(
            SERVICES, DEPLOYMENTS, TASKS, NODES, CERTIFICATES, ORDERS
        ) as follower:
            while True:
                await follower.next(KEY_SECONDS if lacking else None)
                # Only who certainly leads may have all of it taken away.
                state = self._store.state if sent is not None else await self._store.fresh()
                serves = any(node.id == node_id for node in serving_nodes(state))
                tables = self._compiled(state) if serves else NOTHING
                if sent is not None and tables == sent and serves == served:
                    continue
                message = self._message(state, sent, tables, serves)
                await send(pb.FromMaster(ingress=message))
                known = {} if sent is None else sent.certificates
                opened = known.keys() | {each.name for each in message.certificates}
                lacking = tables.certificates.keys() - opened
                kept = {n: raw for n, raw in tables.certificates.items() if n not in lacking}
                sent, served = replace(tables, certificates=kept), serves

    async def take(self, node_id: str, message: pb.FromWorker) -> None:
        status = message.ingress_status
        serving = Serving(
            node=node_id,
            state=_STATES.get(status.state, "failed"),
            reason="".join(c for c in status.reason[:MOST_REASON] if c.isprintable()),
            http_port=status.http_port if status.http_port < 65536 else 0,
            https_port=status.https_port if status.https_port < 65536 else 0,
        )

        if serving.state == "serving":
            self._applied[node_id] = status.version

        def keep(tx: Transaction) -> None:
            if tx.get(NODES, node_id) is not None and tx.get(SERVINGS, node_id) != serving:
                tx.put(SERVINGS, serving)

        if self._store.state.get(SERVINGS, node_id) != serving:
            await self._store.update(keep)

    def _compiled(self, state: State) -> Tables:
        if state.version != self._version:
            made = compile_tables(state)
            if made != self._tables:
                self._tables = made
            self._version = state.version
        return self._tables

    def _message(
        self, state: State, sent: Tables | None, tables: Tables, serves: bool
    ) -> pb.Ingress:
        before = sent or NOTHING
        return pb.Ingress(
            revision=pb.Revision(
                epoch=the_cluster(state).epoch,
                term=self._store.leadership.term,
                version=state.version,
            ),
            complete=sent is None,
            serves=serves,
            sites=[pb.Site.FromString(raw) for raw in _new(before.sites, tables.sites)],
            gone_sites=sorted(before.sites.keys() - tables.sites.keys()),
            pools=[pb.Pool.FromString(raw) for raw in _new(before.pools, tables.pools)],
            gone_pools=sorted(before.pools.keys() - tables.pools.keys()),
            certificates=list(
                self._with_keys(state, _new(before.certificates, tables.certificates))
            ),
            gone_certificates=sorted(before.certificates.keys() - tables.certificates.keys()),
        )

    def _with_keys(self, state: State, raws: Iterable[bytes]) -> Iterator[pb.Certificate]:
        """One whose key does not open is left out, and said."""
        for raw in raws:
            message = pb.Certificate.FromString(raw)
            tenant, _, name = message.name.partition("/")
            row = state.get(CERTIFICATES, tenant, name)
            if row is None:
                continue
            try:
                message.key = self._keys.open(row)
            except NotReady as error:
                log.error("a certificate is not served", reason=str(error))
                continue
            yield message


def _has_failed(serving: Serving | None) -> bool:
    return serving is not None and serving.state == "failed"


def _new(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[bytes]:
    return [raw for name, raw in sorted(after.items()) if before.get(name) != raw]
